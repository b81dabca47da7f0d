"""How a long job says what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]
"""Called with how much of a task is done by now."""


class Listener:
    """Hears notes and tasks. This one stays silent; a command line shows them."""

    def note(self, text: str) -> None:
        """Something the user should know."""

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """A task of `total` steps, or of unknown length, that lasts as long as the block."""
        yield lambda done: None  # noqa: ARG005
