"""What a person sees: progress and notes on stderr, results on stdout; plain lines where nobody is watching."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..pipeline.progress import Advance, Listener


class Console(Listener):
    """Shows progress bars on a terminal, and only notes elsewhere."""

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        print(f"note: {text}", file=sys.stderr)  # noqa: T201

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:
        """Show a progress bar while the block lasts."""
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        terminal = Terminal(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
            bar = progress.add_task(what, total=total, detail="")
            yield lambda done, detail="": progress.update(bar, completed=done, detail=detail)


def listener(quiet: bool) -> Listener:
    """Whoever hears of progress: nobody, if the user wants quiet."""
    return Listener() if quiet else Console()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: framed on a terminal, tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        print("\t".join(header))  # noqa: T201
        for row in rows:
            print("\t".join(row))  # noqa: T201
        return
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title, title_justify="left")
    for number, name in enumerate(header):
        shown.add_column(name, justify="right" if number else "left")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    Terminal().print(shown)


def line(text: str) -> None:
    """Print a line on stdout."""
    print(text)  # noqa: T201
