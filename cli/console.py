"""Output: progress and notes on stderr, results on stdout; plain lines off a terminal.

Everything is printed through here, so that nothing in data steers the terminal, and a line stays one line.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ..pipeline.io.progress import Advance, Listener
from ..pipeline.io.tables import Table
from ..rerankers.errors import InputError, visible

MINUTE = 60.0  # seconds between two lines of progress off a terminal
LEGIBLE = 16  # characters: the least width of a column of texts on a narrow terminal

IDENTIFIERS = frozenset({"query", "document", "presented", "read as"})
"""Columns of identifiers, as every first column is: texts that look like numbers, and are never broken."""

NUMBER = re.compile(r"[-+]?[\d,.]*(e[-+]\d+)?%?")
"""A cell of a column that is aligned to the right; columns of texts are aligned to the left."""


class Console(Listener):
    """A listener that shows a progress bar on a terminal, a line a minute elsewhere, and notes."""

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        _complain(f"note: {visible(text)}")

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:
        """Show progress while the block lasts."""
        plain = os.environ.get("NO_COLOR") or not sys.stderr.isatty()  # no-color.org: no control sequences either
        with (_minutes if plain else _bar)(visible(what), total) as advance:
            yield advance


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name, detail = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[detail]}"))
    columns = (name, BarColumn(), MofNCompleteColumn(), detail, TimeElapsedColumn())
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as progress:
        bar = progress.add_task(what, total=total, detail="")

        def advance(done: int, detail: str = "", total: int | None = total) -> None:
            progress.update(bar, completed=done, total=total, detail=visible(detail, keep="\n"))

        yield advance


@contextmanager
def _minutes(what: str, total: int | None) -> Iterator[Advance]:
    reached, begun, ended = "", time.monotonic(), threading.Event()

    def advance(done: int, detail: str = "", total: int | None = total) -> None:
        nonlocal reached
        of = "" if total is None else f" of {total:,}"
        reached = f"{done:,}{of}{', ' if detail else ''}{visible('; '.join(detail.splitlines()))}"

    def report() -> None:
        while not ended.wait(MINUTE):
            _complain(f"{what}: {reached}, {(time.monotonic() - begun) / 60:.0f} min")

    advance(0)
    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield advance
    finally:
        ended.set()
        reporter.join()


def listener(quiet: bool) -> Listener:
    """Return the listener that shows progress and notes, or a silent one."""
    return Listener() if quiet else Console()


def tables(shown: Iterable[Table]) -> None:
    """Print tables on stdout, each with its caption below."""
    for each in shown:
        table(each.name, each.header, each.rows)
        if each.caption:
            line(each.caption)


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
        width = longest if kept or numbers else min(longest, LEGIBLE)
        shown.add_column(Text(name), justify="right" if numbers else "left", overflow="fold", min_width=width)
    for cells in lines[1:]:
        shown.add_row(*map(Text, cells))
    terminal = Terminal(color_system=None if os.environ.get("NO_COLOR") else "auto")
    with terminal.capture() as captured:
        terminal.print(shown, width=max(terminal.width, terminal.measure(shown).minimum), no_wrap=True, crop=False)
    _print(captured.get().rstrip("\n"))


def line(*cells: str) -> None:
    """Print a line on stdout, of one text or of tab-separated cells."""
    _print("\t".join(map(visible, cells)))


def block(text: str) -> None:
    """Print a text with lines of its own on stdout, such as a prompt."""
    _print(visible(text, keep="\n\t"))


def as_json(value: object) -> None:
    """Print a value as one line of JSON on stdout; JSON has no infinite numbers and no NaN, so they become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    _print(json.dumps(finite).replace("\x7f", "\\u007f"))


def error(text: str) -> None:
    """Print an error on stderr."""
    _complain(f"error: {visible(text)}")


def trouble(text: str) -> None:
    """Print a text with lines of its own on stderr, such as a traceback or a usage message."""
    _complain(visible(text, keep="\n\t").rstrip("\n"))


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it, and the work goes on
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as fault:
        raise InputError(f"standard output cannot be written: {fault.strerror}") from fault
