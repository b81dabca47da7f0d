"""Errors that the user can mend.

    R2llmError
    ├── InputError     the user's input: a config, a file, a name (exit 2)
    ├── BackendError   a model or server failed to answer (exit 3)
    └── StoppedError   the user stopped it with Ctrl-C (exit 130)

The message of each is one line: the problem, its place, and the remedy.
"""

from .visible import visible


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
