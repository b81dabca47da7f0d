"""A run's folder: `runs/<name>-<fingerprint8>/`, held by one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import filelock
import yaml

from ...rerankers.errors import InputError
from ..files import replacing


class RunFolder:
    """The files of a run, written all at once or not at all, under a lock.

    Raises `InputError` where another process works in the folder, or it belongs to another experiment.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / ".lock")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise InputError(f"{path}: another process is at work on this run; wait for it, or stop it") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be used as a run's folder: {error.strerror}") from error
        earlier = self.manifest()
        if earlier and earlier.get("fingerprint") != fingerprint:
            self._lock.release()
            raise InputError(
                f"{path}: holds another experiment ({earlier.get('name')}, fingerprint "
                f"{str(earlier.get('fingerprint'))[:8]}); give another --output, or remove it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def manifest(self) -> dict[str, Any]:
        """The manifest of an earlier run in this folder; empty where there is none."""
        try:
            found = json.loads((self / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self / 'manifest.json'}: cannot be read ({error}); remove the folder") from error
        return found if isinstance(found, dict) else {}

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file."""
        with replacing(self / name) as stream:
            stream.write(json_text(content))

    def write_json_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a file of one JSON object a line."""
        with replacing(self / name) as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def write_yaml(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a YAML file, its keys in the order given."""
        with replacing(self / name) as stream:
            yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)


def json_text(content: Mapping[str, Any]) -> str:
    """A JSON file's text: the one way in which those of a run are written."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
