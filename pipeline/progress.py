"""How a long job says what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Called with how much of a task is done by now, and with what there is to say about it."""

    def __call__(self, done: int, detail: str = "") -> None:
        """Hear of it."""


class Listener:
    """Hears notes and tasks. This one stays silent; a command line shows them."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """A task of `total` steps, or of unknown length, that lasts as long as the block."""
        yield lambda done, detail="": None  # noqa: ARG005
