"""Evaluation through ir-measures: any of its measures, a query and in the mean."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..rerankers.errors import InputError

Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Each measure's mean over the queries, and its value for each query."""

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]


def parse(names: Iterable[str]) -> list[Any]:
    """The measures of these names, as ir-measures has them: nDCG@10, AP(rel=2), Judged@10, …

    Raises `InputError` that names the one that is none.
    """
    import ir_measures

    measures = []
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            measure.validate_params()
            if measure.params.get("cutoff", 1) < 1:
                raise ValueError("the cutoff must be at least 1")
            measures.append(measure)
        except (NameError, ValueError, SyntaxError, AssertionError) as error:
            raise InputError(
                f"{name} is no measure of ir-measures ({error}); examples: nDCG@10, AP(rel=2), RR@10, R@1000, P@10, "
                "Judged@10"
            ) from error
    return measures


def with_judged(names: Sequence[str]) -> list[str]:
    """The measures, and Judged@k beside each nDCG@k: a score says little where much of the top is unjudged."""
    added = [f"Judged@{m['cutoff']}" for m in parse(names) if m.NAME == "nDCG" and "cutoff" in m.params]
    return list(dict.fromkeys([*names, *added]))


def measure(names: Sequence[str], qrels: Qrels, run: Mapping[str, Sequence[str]], queries: Iterable[str]) -> Metrics:
    """Measure rankings (document ids, best first) of the queries that have judgements.

    A query without a ranking counts 0. The scores given to the evaluator follow from the rank, so ties cannot
    reorder a ranking. Raises `InputError` where no query is judged or a measure's provider is missing.
    """
    import ir_measures

    measures = parse(names)
    judged = [query for query in queries if qrels.get(query)]
    if not judged:
        raise InputError("none of the queries has relevance judgements; check that qrels and queries belong together")
    # Some providers only take numbers for query ids.
    numbers = {query: str(number) for number, query in enumerate(judged, 1)}
    relevance = {numbers[query]: dict(qrels[query]) for query in judged}
    scores = {
        numbers[query]: {doc: float(len(run[query]) - rank) for rank, doc in enumerate(run[query])}
        for query in judged
        if run.get(query)
    }
    values: dict[str, dict[str, float]] = {query: {str(m): 0.0 for m in measures} for query in judged}
    try:
        for metric in ir_measures.iter_calc(measures, relevance, scores) if scores else ():
            values[judged[int(metric.query_id) - 1]][str(metric.measure)] = float(metric.value)
    except (ValueError, RuntimeError, ImportError, subprocess.CalledProcessError) as error:
        raise InputError(f"cannot measure {', '.join(names)}: {' '.join(str(error).split())}") from error
    mean = {str(m): sum(values[query][str(m)] for query in judged) / len(judged) for m in measures}
    return Metrics(mean, values)
