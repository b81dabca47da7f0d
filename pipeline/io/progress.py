"""How a long job says what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with how much of a task is done by now, and with what there is to say about it.

    A `total` is how much there is by now's estimate, where that was not known at the start.
    """

    def __call__(self, done: int, detail: str = "", total: int | None = ...) -> None:
        """Hear of it."""


class Listener:
    """Hears notes and tasks. This one stays silent; a command line shows them."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """A task of `total` steps, or of unknown length, that lasts as long as the block."""
        yield lambda done, detail="", total=None: None  # noqa: ARG005


class Noting(Listener):
    """Passes everything on to another listener, and remembers the notes."""

    def __init__(self, listener: Listener, notes: Iterable[str] = ()) -> None:
        self.notes = [*notes]
        self.task = listener.task  # type: ignore[method-assign]
        self._note = listener.note

    def note(self, text: str) -> None:
        """Remember a note, and pass it on."""
        self.notes.append(text)
        self._note(text)
