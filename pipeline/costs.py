"""Costs over queries: mean, median, 95th percentile and total of each count."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..rerankers.types import Cost
from .files import fault, lines

Summary = dict[str, dict[str, float | None]]
"""Count → mean, p50, p95 and total over the queries; null where a query has none, as seconds of cached answers."""

FIELDS = tuple(field.name for field in dataclasses.fields(Cost) if field.name != "query_id")


def read(path: Path) -> list[Cost]:
    """The costs in a run's `costs.jsonl`. Raises `InputError` with the line that is none."""
    kind = TypeAdapter(Cost)
    found = []
    for number, line in lines(path):
        try:
            found.append(kind.validate_json(line, strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            raise fault(path, number, ": ".join([*map(str, first["loc"]), first["msg"]])) from error
    return found


def summary(costs: Iterable[Cost]) -> Summary:
    """Summarise the costs of one or more queries."""
    costs = list(costs)
    return {name: _summarise([getattr(cost, name) for cost in costs]) for name in FIELDS}


def _summarise(values: list[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return dict.fromkeys(("mean", "p50", "p95", "total"))
    p95 = statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else known[0]
    return {"mean": statistics.fmean(known), "p50": statistics.median(known), "p95": p95, "total": sum(known)}
