"""The parts of a report: groups of sections, with charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..io.tables import Table
from .charts import Chart


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
