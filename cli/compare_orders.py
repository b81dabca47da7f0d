"""The tables of `r2llm compare --sensitivity` and `--positions`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..pipeline.compare import positions, sensitivity
from ..pipeline.compare.runs import Run
from ..pipeline.compare.tables import markdown_table
from ..pipeline.io.progress import Listener
from . import console


def show(runs: Sequence[Run], listener: Listener, form: str, *, of_positions: bool) -> None:
    """Print the sensitivity of methods to the initial order, or the positions that their asks prefer.

    The form is json, csv, markdown or text.
    """
    content: Sequence[Any]
    if of_positions:
        title, (content, notes) = "choices by slot", positions.positions(runs)
        header, rows = positions.table(content)
    else:
        title, (content, notes) = "sensitivity to the initial order", sensitivity.sensitivity(runs)
        header, rows = sensitivity.table(content)
    for note in notes:
        listener.note(note)
    if form == "json":
        name = "positions" if of_positions else "sensitivity"
        console.as_json({name: list(map(asdict, content)), "notes": notes})
    elif form == "csv":
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows([header, *rows])
        console.block(stream.getvalue().rstrip())
    elif form == "markdown":
        console.block(markdown_table(header, rows))
    else:
        console.table(title, header, rows)
