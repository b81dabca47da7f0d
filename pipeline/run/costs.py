"""Costs over queries: mean, median, 95th percentile and total of each count; what was had per PetaFLOP."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ...rerankers.accounting import total
from ...rerankers.flops import qpp, rpp
from ...rerankers.types import Cost
from ..io.files import fault, json_lines, reason

Summary = dict[str, dict[str, float | None]]
"""Count → mean, p50, p95, total and the `queries` they are over: for seconds those whose time is known; for every
other count all, or none if one query's is unknown."""

COST = TypeAdapter(Cost)

NO_QUALITY = "Judged@"
"""The prefix of measures that say how much was judged, not how good a ranking is."""

FIELDS = tuple(field.name for field in dataclasses.fields(Cost) if field.name != "query_id")


def row(costs: Sequence[Cost], methods: Sequence[str]) -> dict[str, Any]:
    """Return a line of `costs.jsonl`: a query's costs and, in a cascade, those of each stage with its method."""
    fields = [{name: getattr(cost, name) for name in FIELDS} for cost in costs]
    stages = [{"method": method, **values} for method, values in zip(methods, fields, strict=True)]
    return dataclasses.asdict(total(costs)) | ({"stages": stages} if len(costs) > 1 else {})


def read(path: Path) -> dict[str, list[Cost]]:
    """Return each query's costs by stage in a run's `costs.jsonl`. Raises as `by_stage` does."""
    return by_stage(path, json_lines(path))


def by_stage(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, list[Cost]]:
    """Return the costs by stage in each query's numbered row. Raises `InputError` with the line for what is no cost."""
    spent = {}
    for number, row in rows:
        stages = row.get("stages", [])
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise fault(path, number, "stages: a list of objects is expected")
        try:
            fields = [row, *(stage | {"query_id": row.get("query_id")} for stage in stages)]
            cost, *split = (COST.validate_json(json.dumps(one), strict=True) for one in fields)
        except ValidationError as error:
            raise fault(path, number, reason(error)) from error
        spent[cost.query_id] = split or [cost]
    return spent


def with_earlier(costs: Sequence[Cost], earlier: Sequence[Cost]) -> tuple[Cost, ...]:
    """Return the costs of a query that is ranked again out of the ledger, with the calls and seconds of when it was
    asked.
    """
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


def summary(costs: Iterable[Cost]) -> Summary:
    """Summarise the costs of one or more queries."""
    costs = list(costs)
    return {name: _figures([getattr(cost, name) for cost in costs], partly=name == "seconds") for name in FIELDS}


def energy(joules: Mapping[str, float | None], queries: int) -> Summary:
    """Summarise the energy by device, which is known of all queries together alone."""
    unknown = dict.fromkeys(("mean", "p50", "p95", "total"))
    return {
        f"{device}_joules": {**unknown, "queries": 0}
        if total is None
        else {**unknown, "mean": total / queries, "total": total, "queries": queries}
        for device, total in joules.items()
    }


def _figures(values: list[float | None], *, partly: bool) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if not known or (len(known) < len(values) and not partly):
        return {**dict.fromkeys(("mean", "p50", "p95", "total")), "queries": 0}
    p95 = statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else known[0]
    figures = {"mean": statistics.fmean(known), "p50": statistics.median(known), "p95": p95, "total": sum(known)}
    return {**figures, "queries": len(known)}


class Efficiency(BaseModel):
    """Queries per PetaFLOP, over all queries, and each measure per PetaFLOP, over those measured that cost anything."""

    qpp: float
    rpp: dict[str, dict[str, float]]
    """Measure → `mean_of_ratios` and `ratio_of_means`."""


def efficiency(costs: Iterable[Cost], per_query: Mapping[str, Mapping[str, float]] | None) -> dict[str, Any] | None:
    """Return an `Efficiency` as JSON has it, or None if nothing was measured, or a query's operations are unknown."""
    operations = {cost.query_id: cost.flops for cost in costs}
    known = {query: float(flops) for query, flops in operations.items() if flops is not None}
    spent = {query: flops for query, flops in known.items() if flops}
    measured = {query: values for query, values in (per_query or {}).items() if query in spent}
    if not measured or len(known) < len(operations):
        return None
    names = [name for name in next(iter(measured.values())) if not name.startswith(NO_QUALITY)]
    by_measure = {name: {query: values[name] for query, values in measured.items()} for name in names}
    return {"qpp": qpp(known), "rpp": {name: rpp(values, spent) for name, values in by_measure.items()}}
