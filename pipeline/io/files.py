"""Files: numbered lines, decompression, replacement all at once, and errors that name file and line."""

from __future__ import annotations

import codecs
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from ...rerankers import writing
from ...rerankers.errors import InputError
from ...rerankers.errors import reason as reason

Place = int | str
"""A place in a file: a line number from 1, or words such as `item 3` where lines mean nothing."""

WHITE = " \t\n\r\v\f"
"""White space is ASCII's, as for trec_eval: what else Unicode calls so may be part of an identifier or a text."""

LONGEST_LINE = 1 << 28
"""The bytes that a line may have: a file without line ends must not fill the memory."""

_COMPRESSIONS = {
    ".gz": (b"\x1f\x8b", "gzip"),
    ".bz2": (b"BZh", "bz2"),
    ".xz": (b"\xfd7zXZ\0", "lzma"),
    ".zst": (b"\x28\xb5\x2f\xfd", "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"),
}
"""By suffix, how a compressed file begins, and the module whose `open` reads it."""

SUFFIXES = ("", *_COMPRESSIONS)
"""The suffixes that may follow a data file's name."""

_EXPANSION = 200
"""The limit of a file's size decompressed, beyond 256 MB: text becomes 3 to 20 times as much."""

_UNREADABLE = {
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"PK\3\4": "a ZIP archive",
    b"SQLite format 3": "an SQLite database",
    b"\x80\4": "a pickle, never loaded",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""First bytes of files of other formats."""


def fault(path: Path, place: Place, problem: str) -> InputError:
    """Return the error for a mistake at one place of a file."""
    return InputError(f"{path}:{place}: {problem}" if isinstance(place, int) else f"{path}: {place}: {problem}")


class _Decompressed(io.RawIOBase):
    """The content of a compressed file; an OSError where it is damaged or beyond `_EXPANSION`."""

    def __init__(self, path: Path, compressed: BinaryIO, module: str) -> None:
        self._left = max(1 << 28, _EXPANSION * path.stat().st_size)
        try:
            opener = import_module(module)
        except ImportError as error:
            package = module.replace(".", "-")
            raise InputError(f"{path}: reading it needs the package {package}: pip install {package}") from error
        self._errors = (EOFError, zlib.error, lzma.LZMAError, getattr(opener, "ZstdError", OSError))
        self._stream = opener.open(compressed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)
        except self._errors as error:
            raise OSError(reason(error)) from error
        self._left -= count
        if self._left < 0:
            raise OSError(f"decompressed it is more than {_EXPANSION} times its size, as no text is")
        return count


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a file's bytes, without byte order mark, decompressed if name or beginning say gzip, bzip2, xz or zstd.

    Raise InputError where the file cannot be read, its compressed data is damaged, or it is no text.
    """
    try:
        with io.BufferedReader(path.open("rb", buffering=0), 1 << 20) as plain:
            start = plain.peek()[:6]
            sniffed = next((module for magic, module in _COMPRESSIONS.values() if start.startswith(magic)), None)
            module = _COMPRESSIONS[path.suffix][1] if path.suffix in _COMPRESSIONS else sniffed
            stream: io.BufferedReader[Any]
            with io.BufferedReader(_Decompressed(path, plain, module), 1 << 20) if module else plain as stream:
                start = stream.peek()[:512]
                kinds = {start[:257] + b"ustar": "a tar archive", **_UNREADABLE}
                kind = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
                if kind:
                    problem = f"this is {kind}: unpack or convert it to JSON lines (one object a line) or TSV, in UTF-8"
                    raise InputError(f"{path}: {problem}")
                if start.startswith(codecs.BOM_UTF8):
                    stream.read(len(codecs.BOM_UTF8))
                yield stream
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file that are not blank, without line ends, each with its number from 1.

    Only a line feed ends a line: passages may hold other characters that Unicode calls line boundaries.
    Raise InputError for a file that is not UTF-8 or holds nothing.
    """
    empty = True
    with open_bytes(path) as stream:
        for number, raw in enumerate(iter(partial(stream.readline, LONGEST_LINE), b""), 1):
            if len(raw) == LONGEST_LINE:
                raise fault(path, number, f"a line of more than {LONGEST_LINE >> 20} MiB")
            try:
                line = raw.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                problem = f"not UTF-8 (byte {error.start + 1} of the line); convert the file"
                raise fault(path, number, problem) from error
            if line.strip(WHITE):
                empty = False
                yield number, line
    if empty:
        raise InputError(f"{path}: the file is empty")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON objects of a file that holds one a line, each with its line number."""
    for number, line in lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise fault(path, number, f"not JSON ({reason(error)}); one object a line is expected") from error
        if not isinstance(value, dict):
            raise fault(path, number, f"a JSON object is expected, not {json_kind(value)}")
        yield number, value


def words(line: str) -> list[str]:
    """Split a line at ASCII white space."""
    return re.findall(f"[^{WHITE}]+", line)


def json_kind(value: object) -> str:
    """Return the kind of a JSON value, in words for an error message."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """Open a text file that takes the place of `path` when the block ends. Raises as `replacement` does."""
    with replacement(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream


def save(path: Path, text: str) -> None:
    """Write a text file, all of it or not at all, and its folder if need be. Raises as `replacement` does."""
    with suppress(OSError):  # then writing fails too, and says why
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(text)


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """Yield the name of a file that takes the place of `path` when the block ends, all of it or not at all.

    Raise InputError where it cannot be written.
    """
    try:
        with writing.replacing(path) as temporary:
            yield temporary
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"{path}: cannot be written: {reason(error)}; what was there is unchanged") from error
