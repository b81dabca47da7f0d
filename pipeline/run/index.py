"""The run folders below a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ..io.progress import Listener
from . import manifest, sweeps
from .manifest import Manifest
from .read import Run, read


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return each run folder below a folder, as JSON, with a `status`: finished, unfinished or unreadable.

    Folders in it with neither run nor sweep are unreadable too. Raises `InputError` if there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; r2llm rerank makes runs/")
    paths = {path.parent for path in folder.rglob(manifest.NAME)}
    if not (folder / sweeps.FILE).is_file() and folder not in paths:
        places = [*paths, *(path.parent for path in folder.rglob(sweeps.FILE))]
        inner = (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        paths |= {path for path in inner if not any(place.is_relative_to(path) for place in places)}
    return list(map(_row, sorted(paths)))


def _row(path: Path) -> dict[str, Any]:
    try:
        return {"run_dir": str(path), **_content(read(path))}
    except InputError as error:
        return {"run_dir": str(path), "status": "unreadable", "error": str(error)}


def _content(run: Run) -> dict[str, Any]:
    about, config = run.manifest, run.manifest.config
    models = [stage.get("model") or config.model or {} for stage in config.stages or [{}]]
    return {
        "status": about.status.replace("running", "unfinished"),
        "shard": str(about.shard) if about.shard else None,
        "name": about.name,
        "fingerprint8": about.fingerprint[:8],
        "simulated": about.simulated,
        "dataset": config.dataset,
        "method": [stage.ranker.method for stage in about.stages],
        "model": list(map(manifest.model_name, models)) if about.stages else [],
        "depth": about.first_stage.get("depth"),
        "queries": run.queries,
        "metrics": run.metrics.mean if run.metrics else {},
        "costs": {name: figures["total"] for name, figures in run.costs.items()},
        "wall_seconds": about.wall_seconds,
        "when": about.finished or about.started,
    }


def of_fingerprint(folder: Path, fingerprint: str, listener: Listener) -> Iterator[tuple[Path, Manifest]]:
    """Yield the folders of the finished runs of a fingerprint; the listener hears how many are unreadable."""
    unreadable = 0
    for path in sorted(folder.glob(f"*/{manifest.NAME}")):
        try:
            about = manifest.read(path) if fingerprint.encode() in path.read_bytes() else None
        except (OSError, InputError):
            unreadable += 1
            continue
        if about and about.fingerprint == fingerprint and about.status == "finished" and not about.shard:
            yield path.parent, about
    if unreadable:
        listener.note(f"{folder}: {unreadable} runs cannot be read and are passed over; r2llm runs {folder} names them")
