"""Datasets: `load` gives the one that a config names. What it can be asked is in `base`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...rerankers.errors import InputError
from .base import Dataset, Docs
from .candidates import CandidatesFile
from .irds import IrDataset
from .local import Files, is_beir_folder, open_beir_folder
from .records import Qrels, read_qrels

__all__ = ["Dataset", "Docs", "Qrels", "load", "read_qrels"]


def load(spec: str | Mapping[str, str], *, base: Path, docs_from_index: Callable[[], Docs] | None = None) -> Dataset:
    """The dataset that a config's `dataset` names; nothing large is read before it is asked for.

    An ir_datasets identifier, a BEIR folder, or one of {beir, split}, {candidates, qrels, queries} and
    {docs, queries, qrels, field}. Relative paths are looked up in `base`, the config's folder, then in the current
    folder. `docs_from_index` opens the documents where `docs` is `index`.
    Raises InputError for what is not there.
    """
    if isinstance(spec, str):
        return _named(spec, base)
    name = ", ".join(f"{key}: {value}" for key, value in spec.items())
    if "beir" in spec:
        return open_beir_folder(name, _existing(spec["beir"], base), spec.get("split"))
    if "candidates" in spec:
        return CandidatesFile(name, _files(spec, ("candidates", "qrels", "queries"), base))
    if "queries" not in spec:
        raise InputError(f"dataset {name}: `queries` is missing; {{docs, queries, qrels}} are expected")
    if spec.get("docs") != "index":
        return Files(name, _files(spec, ("docs", "queries", "qrels"), base), part=spec.get("field"))
    if docs_from_index is None:
        raise InputError(f"dataset {name}: `docs: index` needs a first stage with an index (first_stage.bm25.index)")
    return Files(name, _files(spec, ("queries", "qrels"), base), docs_from_index, spec.get("field"))


def _named(name: str, base: Path) -> Dataset:
    places = _places(name, base)
    folder = next((place for place in places if is_beir_folder(place)), None)
    if folder is not None:
        return open_beir_folder(name, folder, None)
    if name.startswith((".", "/", "~")) or name.endswith("/"):
        found = next((place for place in places if place.is_dir()), None)
        if found is not None:
            raise InputError(f"dataset {name}: {found} is no BEIR folder: it has no corpus.jsonl or corpus.jsonl.gz")
        raise InputError(f"dataset {name}: no such folder; looked for {_listed(places)}")
    return IrDataset(name)


def _files(spec: Mapping[str, str], keys: tuple[str, ...], base: Path) -> dict[str, Path]:
    return {key: _existing(spec[key], base) for key in keys if key in spec}


def _existing(name: str, base: Path) -> Path:
    places = _places(name, base)
    for place in places:
        if place.exists():
            return place
    raise InputError(f"dataset: no {name}; looked for {_listed(places)}")


def _places(name: str, base: Path) -> list[Path]:
    """Where a path may lie: beside the config, then in the current folder."""
    path = Path(name).expanduser()
    return list(dict.fromkeys([(base / path).absolute(), path.absolute()]))


def _listed(places: list[Path]) -> str:
    return " and ".join(map(str, places))
