"""A run's folder: `runs/<name>-<fingerprint8>/`, held by one process at a time."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import filelock
import yaml

from ...rerankers.errors import InputError
from ..io.files import replacing
from . import manifest
from .manifest import Manifest
from .shards import folders

LEDGER = "ledger.sqlite"

WRITTEN = (
    "config.yaml",
    "first_stage.trec",
    "run.trec",
    "costs.jsonl",
    LEDGER,
    "reranked.trec",
    "metrics.json",
    "ir-metadata.yml",
)
"""All files that a manifest lists."""

FILES = {*WRITTEN, manifest.NAME}
"""All that a run's folder may hold."""

LOCK = ".lock"

TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.(\d+\.)?tmp")
"""The names of files that are being written."""


class RunFolder:
    """The files of a run, each written all at once or not at all, under a lock.

    Raises `InputError` if another process works in the folder, if it belongs to another experiment, or if it holds
    files that no manifest lists.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        check_is_free(path)
        self._lock = locked(path, "run")
        try:
            self.earlier = check_is_free(path)
            """The manifest of an earlier execution, or None."""

            if self.earlier and self.earlier.fingerprint != fingerprint:
                other = f"{self.earlier.name}, fingerprint {self.earlier.fingerprint[:8]}"
                raise InputError(f"{path}: holds another experiment ({other}); give another --output, or remove it")
            for left in path.glob(".*.tmp"):
                if TEMPORARY.fullmatch(left.name):
                    left.unlink(missing_ok=True)  # a killed process was writing it
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write_manifest(self, content: Manifest) -> None:
        """Write the manifest, sealed."""
        self.write_json(manifest.NAME, manifest.sealed(content.content))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        with replacing(self / name) as stream:
            stream.write(manifest.json_text(content))

    def write_json_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of one JSON object a line."""
        with replacing(self / name) as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file, its keys in the order given."""
        with replacing(self / name) as stream:
            yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)


def locked(path: Path, what: str) -> filelock.BaseFileLock:
    """Return the lock of a run's or a sweep's folder, held. Raises `InputError` if another process holds it."""
    lock = filelock.FileLock(path / LOCK)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{path}: another process is at work on this {what}; wait for it, or stop it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be used as a {what}'s folder: {error.strerror}") from error
    return lock


def check_is_free(path: Path) -> Manifest | None:
    """Return the manifest in a folder, if any. Raises `InputError` for files that no manifest of a run lists."""
    if not path.is_dir():
        return None
    there = {entry.name for entry in path.iterdir() if not TEMPORARY.fullmatch(entry.name)} - {LOCK}
    earlier = manifest.read(path / manifest.NAME) if manifest.NAME in there else None
    if earlier is None:  # only the folders of its shards can be those of a run
        strange = there & FILES if folders(path) else there
    else:
        strange = (there & FILES) - {*earlier.files, manifest.NAME} if earlier.status == "finished" else set()
    if strange:
        named = ", ".join(sorted(strange)[:3]) + (", …" if len(strange) > 3 else "")
        raise InputError(
            f"{path}: is not empty, and no {manifest.NAME} says that {named} there came from a run: nothing is written "
            "over; name a new folder with --output, or move what is there"
        )
    return earlier
