"""What a person sees: progress and notes on stderr, results on stdout; plain lines where nobody is watching.

All that is printed goes through here: nothing in data steers the terminal, and a line stays one line.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ..pipeline.io.progress import Advance, Listener
from ..rerankers.errors import InputError
from ..rerankers.visible import visible

MINUTE = 60.0
"""How many seconds lie between two lines of progress where nobody is watching."""

IDENTIFIERS = frozenset({"query", "document", "presented", "read as"})
"""Columns of identifiers, as every first column is: texts, though they look like numbers, and never broken."""

NUMBER = re.compile(r"[-+]?[\d,.]*(e[-+]\d+)?%?")
"""A cell of a column that stands at the right; other columns are texts and stand at the left."""

LEGIBLE = 16
"""How many characters of a line a column of texts has at least, where the terminal is narrow."""


@dataclass
class _State:
    """How far a task is."""

    done: int = 0
    detail: str = ""
    total: int | None = None


class Console(Listener):
    """Shows a progress bar on a terminal, a line a minute elsewhere, and notes."""

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        _complain(f"note: {visible(text)}")

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:
        """Show progress while the block lasts."""
        with (_bar if sys.stderr.isatty() and not _plain() else _minutes)(visible(what), total) as advance:
            yield advance


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total, detail="")

        def advance(done: int, detail: str = "", total: int | None = total) -> None:
            progress.update(bar, completed=done, total=total, detail=visible(detail))

        yield advance


@contextmanager
def _minutes(what: str, total: int | None) -> Iterator[Advance]:
    state, begun, ended = _State(total=total), time.monotonic(), threading.Event()

    def advance(done: int, detail: str = "", total: int | None = total) -> None:
        state.done, state.detail, state.total = done, detail, total

    def tell() -> None:
        while not ended.wait(MINUTE):
            of = "" if state.total is None else f" of {state.total:,}"
            detail = f", {visible(state.detail)}" if state.detail else ""
            _complain(f"{what}: {state.done:,}{of}{detail}, {(time.monotonic() - begun) / 60:.0f} min")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield advance
    finally:
        ended.set()
        teller.join()


def listener(quiet: bool) -> Listener:
    """Whoever hears of progress: nobody, if the user wants quiet."""
    return Listener() if quiet else Console()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: framed on a terminal, tab-separated lines elsewhere."""
    lines = [[visible(cell) for cell in row] for row in (header, *rows)]
    if not sys.stdout.isatty():
        _print("\n".join(map("\t".join, lines)))
        return
    from rich.cells import cell_len
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(visible(title)), title_justify="left")
    for number, name in enumerate(lines[0]):
        column = [cells[number] for cells in lines]
        kept = name in IDENTIFIERS or not number
        numbers = not kept and all(map(NUMBER.fullmatch, column[1:]))
        longest = max(cell_len(word) for cell in column for word in cell.split() or [""])
        shown.add_column(
            Text(name),
            justify="right" if numbers else "left",
            overflow="fold",
            min_width=longest if kept or numbers else min(longest, LEGIBLE),
        )
    for cells in lines[1:]:
        shown.add_row(*map(Text, cells))
    terminal = Terminal(color_system=None if _plain() else "auto")
    with terminal.capture() as captured:
        terminal.print(shown, width=max(terminal.width, terminal.measure(shown).minimum), no_wrap=True, crop=False)
    _print(captured.get().rstrip("\n"))


def _plain() -> bool:
    """Return whether the user wants no colours, and so none of a terminal's control sequences (no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


def line(text: str) -> None:
    """Print a line on stdout."""
    _print(visible(text))


def cells(*texts: str) -> None:
    """Print cells on stdout, tab-separated in one line."""
    _print("\t".join(map(visible, texts)))


def block(text: str) -> None:
    """Print a text that has lines of its own, such as a prompt, on stdout."""
    _print(visible(text, keep="\n\t"))


def as_json(value: object) -> None:
    """Print a value as one line of JSON on stdout; JSON has no infinite numbers and no NaN, so they become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    _print(json.dumps(finite).replace("\x7f", "\\u007f"))


def error(text: str) -> None:
    """Print an error on stderr."""
    _complain(f"error: {visible(text)}")


def trouble(text: str) -> None:
    """Print on stderr what has lines of its own: a traceback, or how a command is used."""
    _complain(visible(text, keep="\n\t").rstrip("\n"))


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody can be told, and the work goes on
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # whoever read the output has seen enough
        raise
    except OSError as fault:
        raise InputError(f"standard output cannot be written: {fault.strerror}") from fault
