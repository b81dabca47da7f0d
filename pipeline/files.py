"""Files: numbered lines, gzip by name, replacement all at once, and errors that name file and line."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from ..rerankers.errors import InputError

Place = int | str
"""Where in a file: a line number from 1, or words such as `item 3` where lines say nothing."""


def fault(path: Path, place: Place, what: str) -> InputError:
    """The error that stands for a mistake at one place of a file."""
    return InputError(f"{path}:{place}: {what}" if isinstance(place, int) else f"{path}: {place}: {what}")


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes: decompressed where its name ends in `.gz`, without a byte order mark.

    Raises InputError where the file cannot be read or its compressed data is damaged.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb", buffering=0) as stream:
            buffered = io.BufferedReader(cast("io.RawIOBase", stream), 1 << 20)
            if buffered.peek(3).startswith(codecs.BOM_UTF8):
                buffered.read(len(codecs.BOM_UTF8))
            yield buffered
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, without line ends, each with its number from 1.

    Only a line feed ends a line: passages may hold other characters that Unicode calls line boundaries.
    Raises InputError for a file that is not UTF-8 or holds nothing.
    """
    empty = True
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, 1):
            try:
                line = raw.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                what = f"not UTF-8 (byte {error.start + 1} of the line); convert the file"
                raise fault(path, number, what) from error
            if line and not line.isspace():
                empty = False
                yield number, line
    if empty:
        raise InputError(f"{path}: the file is empty")


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a file that holds one a line, each with its line number."""
    for number, line in lines(path):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"not JSON ({reason(error)}); one object a line is expected"
            raise fault(path, number, what) from error
        if not isinstance(value, dict):
            raise fault(path, number, f"a JSON object is expected, not {json_kind(value)}")
        yield number, value


def json_kind(value: object) -> str:
    """What a JSON value is, in words for an error message."""
    words = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return words.get(type(value), "a number")


def reason(error: BaseException) -> str:
    """An exception's message on one line: for a system error just what the system said."""
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


@contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of `path` when the block ends, all of it or not at all.

    It is written beside `path`, forced to the disk and renamed, so that neither an error, a full disk nor a
    power cut leaves half a file. Raises InputError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        what = f"cannot be written: {reason(error)}; what was there is unchanged"
        raise InputError(f"{path}: {what}") from error
    finally:
        temporary.unlink(missing_ok=True)
