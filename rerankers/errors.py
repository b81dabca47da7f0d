"""Errors that the user can mend.

    R2llmError
    ├── InputError     the user's input: a config, a file, a name (exit 2)
    ├── BackendError   a model or server failed to answer (exit 3)
    └── StoppedError   the user stopped it with Ctrl-C (exit 130)

The message of each is one line: the problem, its place, and the remedy.
"""

import errno
import traceback
import unicodedata
from pathlib import Path

MACHINE = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "EMFILE", "ENFILE", "EACCES", "EPERM", "ENAMETOOLONG", "ELOOP", "EISDIR")
"""File errors of the machine and not of r2llm, such as a full disk."""


class R2llmError(Exception):
    """Base of all errors that are shown as one line, without a traceback."""

    exit_code = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(visible(str(message)))


class InputError(R2llmError):
    """A fault in the user's input."""


class BackendError(R2llmError):
    """A failure of a backend; everything answered so far is in the ledger."""

    exit_code = 3


class StoppedError(R2llmError):
    """A run stopped by the user; the message says how to go on."""

    exit_code = 130


def reason(error: BaseException) -> str:
    """Return an exception's message on one line: the system's own, or the first of pydantic's with its key."""
    if callable(errors := getattr(error, "errors", None)):  # pydantic is not imported for this
        first = errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {plain(first['msg'])}".removeprefix(": ")
    return (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())


def plain(message: str) -> str:
    """Return pydantic's message in the words of a config."""
    for words, plain in (("Value error, ", ""), ("Input should be", "should be"), ("valid tuple", "list")):
        message = message.replace(words, plain)
    return "should be a mapping of keys to values" if "valid dictionary" in message else message


def explained(error: Exception) -> tuple[str, int]:
    """Return the message and exit code of an error, which is a fault of r2llm if none of these."""
    if isinstance(error, R2llmError):
        return str(error), error.exit_code
    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in MACHINE:
        return f"{error.filename or 'this machine'}: {error.strerror}", 2
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return f"this is a fault of r2llm: {type(error).__name__}: {error} ({where}); --debug shows the traceback", 4


STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories to escape: controls, formats (bidirectional, zero width, tags), surrogates, line separators."""

JOINERS = "\u200c\u200d"  # formats that Persian, Indic scripts and emoji are written with


def visible(text: str, *, keep: str = "") -> str:
    r"""Return `text` with an escape character as `\x1b`; `keep` has controls to leave, such as line ends."""
    if text.isprintable():
        return text
    left = JOINERS + keep
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in STEERING and char not in left else char
        for char in text
    )
