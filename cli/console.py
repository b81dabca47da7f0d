"""What a person sees: progress and notes on stderr, results on stdout; plain lines where nobody is watching.

All that is printed goes through here: nothing in data steers the terminal, and a line stays one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..pipeline.progress import Advance, Listener
from ..rerankers.visible import visible


class Console(Listener):
    """Shows progress bars on a terminal, and only notes elsewhere."""

    def note(self, text: str) -> None:
        """Print a note on stderr."""
        print(f"note: {visible(text)}", file=sys.stderr)  # noqa: T201

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
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
            bar = progress.add_task(visible(what), total=total, detail="")
            yield lambda done, detail="": progress.update(bar, completed=done, detail=visible(detail))


def listener(quiet: bool) -> Listener:
    """Whoever hears of progress: nobody, if the user wants quiet."""
    return Listener() if quiet else Console()


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout: framed on a terminal, tab-separated lines elsewhere."""
    lines = [[visible(cell) for cell in row] for row in (header, *rows)]
    if not sys.stdout.isatty():
        for cells in lines:
            print("\t".join(cells))  # noqa: T201
        return
    from rich.console import Console as Terminal
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(visible(title)), title_justify="left")
    for number, name in enumerate(lines[0]):
        shown.add_column(Text(name), justify="right" if number else "left")
    for cells in lines[1:]:
        shown.add_row(*map(Text, cells))
    Terminal().print(shown)


def line(text: str) -> None:
    """Print a line on stdout."""
    print(visible(text))  # noqa: T201


def block(text: str) -> None:
    """Print a text that has lines of its own, such as a prompt, on stdout."""
    print(visible(text, keep="\n\t"))  # noqa: T201


def as_json(value: object) -> None:
    """Print a value as one line of JSON on stdout."""
    print(json.dumps(value).replace("\x7f", "\\u007f"))  # noqa: T201


def error(text: str) -> None:
    """Print an error on stderr."""
    print(f"error: {visible(text)}", file=sys.stderr)  # noqa: T201
