"""Costs over queries: mean, median, 95th percentile and total of each count."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ...rerankers.accounting import total
from ...rerankers.types import Cost
from ..io.files import fault, json_lines

Summary = dict[str, dict[str, float | None]]
"""Count → mean, p50, p95 and total, and over how many `queries`: those whose seconds are known; all for every other
count, which is null where a query has none."""

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
    return [_stages(path, number, row) for number, row in json_lines(path)]


def by_stage(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, list[Cost]]:
    """What each query of numbered rows cost, stage by stage. Raises as `read` does."""
    spent = ((_checked(path, number, row), _stages(path, number, row)) for number, row in rows)
    return {cost.query_id: stages or [cost] for cost, stages in spent}


def with_earlier(costs: Sequence[Cost], earlier: Sequence[Cost]) -> tuple[Cost, ...]:
    """The costs of a query that is ranked again out of the ledger: calls and seconds are those of when it was asked."""
    if [cost.asks for cost in costs] != [cost.asks for cost in earlier]:
        return tuple(costs)
    return tuple(
        # A merged run does not know the model's shape and price: the shards have counted.
        dataclasses.replace(
            kept,
            flops=kept.flops if cost.flops is None else cost.flops,
            usd=kept.usd if cost.usd is None else cost.usd,
        )
        for cost, kept in zip(costs, earlier, strict=True)
    )


def _stages(path: Path, number: int, row: dict[str, Any]) -> list[Cost]:
    stages = row.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise fault(path, number, "stages: a list of objects is expected")
    return [_checked(path, number, {**stage, "query_id": row.get("query_id")}) for stage in stages]


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
    return {name: _summarise([getattr(cost, name) for cost in costs], partly=name == "seconds") for name in FIELDS}


def _summarise(values: list[float | None], *, partly: bool) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if not known or (len(known) < len(values) and not partly):
        return {**dict.fromkeys(("mean", "p50", "p95", "total")), "queries": 0}
    p95 = statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else known[0]
    figures = {"mean": statistics.fmean(known), "p50": statistics.median(known), "p95": p95, "total": sum(known)}
    return {**figures, "queries": len(known)}
