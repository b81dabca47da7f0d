"""Progress of long jobs, told without knowing who listens."""

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


class Jobs:
    """The notes and the progress of several jobs, told as one task: each note once, and where every job at work is."""

    def __init__(self, listener: Listener, advance: Advance) -> None:
        self.through = 0
        self._listener = listener
        self._advance = advance
        self._notes = set[str]()
        self._at = dict[str, str]()

    def hear(self, name: str, kind: str, text: str) -> None:
        """Take a `note` or the `progress` of a job."""
        if kind == "progress":
            self._at[name] = text
            self._advance(self.through, "\n".join(": ".join(one) for one in self._at.items()))
        elif text not in self._notes:
            self._notes.add(text)
            self._listener.note(f"{name}: {text}")

    def end(self, name: str) -> None:
        """Take note that a job is through."""
        self.through += 1
        self._at.pop(name, None)
        self._advance(self.through, "\n".join(": ".join(one) for one in self._at.items()))


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


class Gathering(Noting):
    """A listener that keeps the notes, and passes on everything else."""

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)
