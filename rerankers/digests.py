"""Content hashes of files. A large file is hashed once: its digest is remembered by path, size and time of change."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import platformdirs

LARGE = 16 * 1024 * 1024
"""Files below so many bytes are hashed anew each time: that is quicker than keeping books."""


def cache_folder() -> Path:
    """Where what can be made again is kept: the folder named by R2LLM_CACHE, or the user's cache folder."""
    return Path(os.environ.get("R2LLM_CACHE") or platformdirs.user_cache_dir("r2llm"))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    status = path.stat()
    if status.st_size < LARGE:
        return _hash(path)
    name = hashlib.sha256(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()
    note = cache_folder() / "digests" / name
    try:
        return str(json.loads(note.read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        digest = _hash(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"sha256": digest}))
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
