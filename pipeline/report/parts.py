"""The parts of a report: groups of sections, with charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..compare.changes import some
from .charts import SIMULATED, Chart


@dataclass(frozen=True)
class Table:
    """A table, the name of its files, and what a reader is told about it."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    latex: str | None = None
    """The LaTeX table, if it is not made of the rows."""


@dataclass(frozen=True)
class Section:
    """A part of a report: the command that prints the same figures, then notes, charts, tables and stories."""

    title: str
    command: str
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    stories: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Group:
    """The sections about runs of the same queries and judgements."""

    title: str
    simulated: Sequence[str]
    sections: list[Section] = field(default_factory=list)


def marked(text: str, simulated: Sequence[str]) -> str:
    """Return a caption that names the runs whose answers were simulated."""
    return f"{text}{' ' if text else ''}{SIMULATED.capitalize()}: {some(simulated)}." if simulated else text
