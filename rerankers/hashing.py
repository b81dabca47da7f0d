"""Content hashes of files. A large file's is remembered by path, size and time of change."""

import contextlib
import hashlib
import os
import re
from pathlib import Path

import platformdirs

from .errors import InputError

LARGE = 16 * 1024 * 1024  # bytes of the smallest file whose hash is remembered


def cache_folder() -> Path:
    """Return the folder of what can be made again: the one named by R2LLM_CACHE, or the user's cache folder."""
    return Path(os.environ.get("R2LLM_CACHE") or platformdirs.user_cache_dir("r2llm")).expanduser()


def file_digest(path: Path, *, remember: bool = True) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal. Raises `InputError` if it cannot be read.

    With `remember=False` a large file is hashed anew: its time of change says nothing of a failing disk.
    """
    try:
        status = path.stat()
        if not remember or status.st_size < LARGE:
            return _hash(path)
        name = hashlib.sha256(f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}".encode()).hexdigest()
        note = cache_folder() / "digests" / name
        with contextlib.suppress(OSError, ValueError):
            if re.fullmatch("[0-9a-f]{64}", digest := note.read_text()):
                return digest
        digest = _hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(digest)
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
