"""Effectiveness and throughput per PetaFLOP: RPP for each measure, and QPP (see `rerankers.flops`)."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from ...rerankers.flops import qpp, rpp
from ...rerankers.types import Cost

NO_QUALITY = "Judged@"
"""The prefix of measures that say how much was judged, not how good a ranking is."""


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
