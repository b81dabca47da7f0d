"""Progress of long jobs, told without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with the steps of a task that are done, a detail, and a new estimate of the total if there is one."""

    def __call__(self, done: int, detail: str = "", total: int | None = ...) -> None:
        """Take note."""


class Listener:
    """A listener to notes and tasks. This one stays silent; a command line shows them."""

    def note(self, text: str) -> None:
        """Take a note for the user."""

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Follow a task of `total` steps, None if unknown, that lasts as long as the block."""
        yield lambda done, detail="", total=None: None  # noqa: ARG005


class Noting(Listener):
    """A listener that passes everything on to another, and keeps the notes."""

    def __init__(self, listener: Listener, notes: Iterable[str] = ()) -> None:
        self.notes = [*notes]
        self.task = listener.task  # type: ignore[method-assign]
        self._note = listener.note

    def note(self, text: str) -> None:
        """Keep a note, and pass it on."""
        self.notes.append(text)
        self._note(text)
