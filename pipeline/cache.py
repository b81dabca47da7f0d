"""The folder for what is expensive to make and can be made again, with the hashes of large files."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from ..rerankers.errors import InputError
from .files import reason, replacing

_WORTH_REMEMBERING = 16 * 2**20
"""Bytes from which a file's hash is remembered: a smaller one is hashed while the look-up would last."""


def cache_folder() -> Path:
    """The folder for caches: `R2LLM_CACHE` if set, else the system's place for user caches."""
    given = os.environ.get("R2LLM_CACHE")
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("r2llm"))


def file_sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal digits; a large file's is computed once a path, size and time."""
    try:
        status = path.stat()
        state = [status.st_size, status.st_mtime_ns]
        if status.st_size < _WORTH_REMEMBERING:
            return _hash(path)
        place, hashes = str(path.resolve()), _remembered()
        if place not in hashes or hashes[place][:2] != state:
            hashes[place] = [*state, _hash(path)]
            _remember(hashes)
        return str(hashes[place][2])
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hashes_file() -> Path:
    return cache_folder() / "file-hashes.json"


def _remembered() -> dict[str, list[int | str]]:
    """What the cache holds: path to [size, mtime in ns, hash]. An unreadable cache is an empty one."""
    try:
        found = json.loads(_hashes_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {place: entry for place, entry in found.items() if isinstance(entry, list) and len(entry) == 3}


def _remember(hashes: dict[str, list[int | str]]) -> None:
    # A folder that cannot be written costs the next run some seconds and nothing else.
    with suppress(OSError, InputError):
        _hashes_file().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_hashes_file()) as stream:
            json.dump(hashes, stream)
