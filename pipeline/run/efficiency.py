"""What a run came to per PetaFLOP: RPP for each measure, and QPP (see `rerankers.flops`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...rerankers.flops import qpp, rpp
from ...rerankers.types import Cost

PER_QUERY = Mapping[str, Mapping[str, float]]
"""Query id → measure → value."""

Efficiency = dict[str, Any]
"""`{"qpp": queries per PetaFLOP, "rpp": {measure: {"mean_of_ratios": …, "ratio_of_means": …}}}`."""

NO_QUALITY = "Judged@"
"""How measures begin that say how much was judged, and not how good a ranking is."""


def efficiency(costs: Iterable[Cost], per_query: PER_QUERY | None) -> Efficiency | None:
    """QPP over all queries, and RPP over those that were measured and cost anything.

    None where nothing was measured, or where the operations of any query are not known.
    """
    operations = {cost.query_id: cost.flops for cost in costs}
    known = {query: float(flops) for query, flops in operations.items() if flops is not None}
    spent = {query: flops for query, flops in known.items() if flops}
    measured = {query: values for query, values in (per_query or {}).items() if query in spent}
    if not measured or len(known) < len(operations):
        return None
    names = [name for name in next(iter(measured.values())) if not name.startswith(NO_QUALITY)]
    by_measure = {name: {query: values[name] for query, values in measured.items()} for name in names}
    return {
        "qpp": qpp(known),
        "rpp": {name: rpp(values, spent) for name, values in by_measure.items()},
    }
