"""Costs over queries: mean, median, 95th percentile and total of each count."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...rerankers.cascade import total
from ...rerankers.types import Cost
from ..files import fault, json_lines

Summary = dict[str, dict[str, float | None]]
"""Count → mean, p50, p95 and total over the queries; null where a query has none, as seconds of cached answers."""

COST = TypeAdapter(Cost)

FIELDS = tuple(field.name for field in dataclasses.fields(Cost) if field.name != "query_id")


def row(costs: Sequence[Cost], methods: Sequence[str]) -> dict[str, Any]:
    """A line of `costs.jsonl`: what a query cost, and in a cascade each stage with its method too."""
    found = dataclasses.asdict(total(costs))
    if len(costs) > 1:
        stages = zip(methods, costs, strict=True)
        found["stages"] = [
            {"method": method, **{name: getattr(cost, name) for name in FIELDS}} for method, cost in stages
        ]
    return found


def read(path: Path) -> list[Cost]:
    """The costs in a run's `costs.jsonl`. Raises `InputError` with the line that is none."""
    return [_checked(path, number, found) for number, found in json_lines(path)]


def read_stages(path: Path) -> list[list[Cost]]:
    """Each query's costs stage by stage, in a cascade; nothing a query else. Raises as `read` does."""
    rows = []
    for number, found in json_lines(path):
        stages = found.get("stages", [])
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise fault(path, number, "stages: a list of objects is expected")
        rows.append([_checked(path, number, {**stage, "query_id": found.get("query_id")}) for stage in stages])
    return rows


def stage_summaries(path: Path) -> list[Summary]:
    """What each stage of a cascade cost; nothing for a run of one stage. Raises as `read` does."""
    rows = [stages for stages in read_stages(path) if stages]
    return [summary(stage) for stage in zip(*rows, strict=False)]


def _checked(path: Path, number: int, found: dict[str, Any]) -> Cost:
    try:
        return COST.validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise fault(path, number, ": ".join([*map(str, first["loc"]), first["msg"]])) from error


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
