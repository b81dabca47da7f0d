"""Content hashes of files. A large file is hashed once: its digest is remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import platformdirs

from .errors import InputError

LARGE = 16 * 1024 * 1024
"""Files below so many bytes are hashed anew each time: that is quicker than keeping books."""


def cache_folder() -> Path:
    """Where what can be made again is kept: the folder named by R2LLM_CACHE, or the user's cache folder."""
    return Path(os.environ.get("R2LLM_CACHE") or platformdirs.user_cache_dir("r2llm")).expanduser()


def file_digest(path: Path, *, remember: bool = True) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises `InputError` for a file that cannot be read.

    With `remember=False` a large file is hashed anew too: time of change and size say nothing of a failing disk.
    """
    try:
        status = path.stat()
        return _remembered(path, status) if remember and status.st_size >= LARGE else _hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _remembered(path: Path, status: os.stat_result) -> str:
    name = hashlib.sha256(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / name
    try:
        return str(json.loads(note.read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        digest = _hash(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"sha256": digest}))
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
