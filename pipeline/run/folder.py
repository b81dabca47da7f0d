"""A run's folder: `runs/<name>-<fingerprint8>/`, held by one process at a time."""

from __future__ import annotations

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
from .shards import folders

FILES = (
    *("config.yaml", "first_stage.trec", "reranked.trec", "run.trec", "costs.jsonl", "metrics.json"),
    *("ledger.sqlite", "ir-metadata.yml", manifest.NAME),
)
"""All that a run's folder may hold."""

LOCK = ".lock"

TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, FILES))})\.(\d+\.)?tmp")
"""What they are called until they are whole."""


class RunFolder:
    """The files of a run, written all at once or not at all, under a lock.

    Raises `InputError` where another process works in the folder, where it belongs to another experiment, and where it
    holds files of which no manifest says that they are the run's.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        check_is_free(path)
        self._lock = filelock.FileLock(path / LOCK)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(f"{path}: another process is at work on this run; wait for it, or stop it") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be used as a run's folder: {error.strerror}") from error
        try:
            earlier = self.manifest()
            if earlier and earlier["fingerprint"] != fingerprint:
                raise InputError(
                    f"{path}: holds another experiment ({earlier['name']}, fingerprint {earlier['fingerprint'][:8]}); "
                    "give another --output, or remove it"
                )
            check_is_free(path)
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

    def manifest(self) -> dict[str, Any]:
        """The manifest of an earlier run in this folder; empty where there is none."""
        return manifest.read(self / manifest.NAME) if (self / manifest.NAME).exists() else {}

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        with replacing(self / name) as stream:
            stream.write(manifest.json_text(content))

    def write_json_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of one JSON object a line."""
        with replacing(self / name) as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file, its keys in the order given."""
        with replacing(self / name) as stream:
            yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)


def check_is_free(path: Path) -> None:
    """Raise `InputError` where a folder holds something that no manifest of a run lists."""
    if not path.is_dir():
        return
    there = {entry.name for entry in path.iterdir() if not TEMPORARY.fullmatch(entry.name)} - {LOCK}
    if manifest.NAME in there:
        content = manifest.read(path / manifest.NAME)
        strange = there & {*FILES} - {*content["files"], manifest.NAME} if content["status"] == "finished" else set()
    else:  # only the folders of its shards can be those of a run
        strange = there & {*FILES} if folders(path) else there
    if strange:
        some = ", ".join(sorted(strange)[:3]) + (", …" if len(strange) > 3 else "")
        raise InputError(
            f"{path}: is not empty, and no {manifest.NAME} says that {some} there came from a run: nothing is written "
            "over; name a new folder with --output, or move what is there"
        )
