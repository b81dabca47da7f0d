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

    def note(self, name: str, text: str) -> None:
        """Take a note of a job."""
        if text not in self._notes:
            self._notes.add(text)
            self._listener.note(f"{name}: {text}")

    def advance(self, name: str, text: str | None) -> None:
        """Take the progress of a job; None: it is through."""
        if text is None:
            self.through += 1
            self._at.pop(name, None)
        else:
            self._at[name] = text
        self._advance(self.through, "\n".join(": ".join(one) for one in self._at.items()))


class Job(Listener):
    """A listener to one of several jobs."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self.jobs, self.name = jobs, name

    def note(self, text: str) -> None:
        """Pass a note on."""
        self.jobs.note(self.name, text)

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:
        """Pass on how far the task is."""

        def advance(done: int, detail: str = "", total: int | None = total) -> None:  # noqa: ARG001
            self.jobs.advance(self.name, f"{what} {done:,}{'' if total is None else f' of {total:,}'}")

        yield advance


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
