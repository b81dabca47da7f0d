"""Measures of rankings through ir-measures: any of its measures, of each query and in the mean."""

import difflib
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...rerankers.errors import InputError
from ..io.progress import Listener

Qrels = Mapping[str, Mapping[str, int]]

TREC_EVAL = re.compile(r"[A-Za-z]+(_[A-Za-z]+)*([._]\d+(\.\d+)?(,\d+(\.\d+)?)*)?")
"""A measure as trec_eval names it: `map`, `ndcg_cut_10`, `P.5,10`; its names for sets of measures are none."""

EXACT = 1e-6  # the default tolerance of a measure: what rounding can make of an equal value

LARGEST = 2**31 - 1
"""The evaluators' integers are C's."""


class Metrics(BaseModel):
    """Each measure's mean over the queries (of counts the sum), and its value for each query."""

    model_config = ConfigDict(populate_by_name=True, from_attributes=True)

    mean: dict[str, float] = Field(alias="all")
    per_query: dict[str, dict[str, float]]


def parse(names: Iterable[str]) -> list[Any]:
    """Return the measures of these names: ir-measures' (nDCG@10, AP(rel=2), Judged@10, …) or trec_eval's (ndcg_cut_10).

    One text may hold several, with blanks between them. Raise InputError for a name that is no measure.
    """
    # Blanks within parentheses separate nothing.
    words = [word for name in names for word in re.split(r"\s+(?![^(]*\))", name.strip())]
    return [measure for word in words for measure in _measures(word)]


def _measures(name: str) -> list[Any]:
    """Return the measures of one name: one of trec_eval's may stand for several cutoffs, as `ndcg_cut.5,10` does."""
    import ir_measures
    import pytrec_eval

    try:
        try:
            measures = [ir_measures.parse_measure(name)]
        except (NameError, ValueError):
            if not TREC_EVAL.fullmatch(name) or name in pytrec_eval.supported_nicknames:
                raise
            measures = ir_measures.parse_trec_measure(name)
        for measure in measures:
            measure.validate_params()
            if measure.params.get("cutoff", 1) < 1:
                raise ValueError("the cutoff must be at least 1")
            if any(isinstance(value, int) and value > LARGEST for value in measure.params.values()):
                raise ValueError(f"a cutoff or grade is at most {LARGEST}")
    except (NameError, ValueError, SyntaxError, AssertionError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{name[:99]} is no measure of ir-measures ({str(error)[:199]}){_nearest(name[:99])}; examples: nDCG@10, "
            "AP(rel=2), RR@10, R@1000, P@10, Judged@10"
        ) from error
    return measures


def _nearest(name: str) -> str:
    """Return the hint for a misspelt name, with the cutoff it was given; empty where no name is near."""
    import ir_measures

    known = {alias.lower(): measure for alias, measure in ir_measures.measures.registry.items()}
    base, cutoff, *_ = [*re.split(r"[._@]?(\d{1,9})$", name), ""]
    near = [known[close] for close in difflib.get_close_matches(base.lower(), known, n=1, cutoff=0.7)]
    meant = [f"{m.NAME}@{cutoff}" if cutoff and "cutoff" in m.SUPPORTED_PARAMS else str(m.NAME) for m in near]
    return f"; did you mean {meant[0]}?" if meant and meant[0] != name else ""


def with_judged(names: Sequence[str]) -> list[str]:
    """Return the measures, and Judged@k beside each nDCG@k: a score says little where much of the top is unjudged."""
    added = [f"Judged@{m['cutoff']}" for m in parse(names) if m.NAME == "nDCG" and "cutoff" in m.params]
    return list(dict.fromkeys([*names, *added]))


def measure(names: Sequence[str], qrels: Qrels, run: Mapping[str, Sequence[str]], queries: Iterable[str]) -> Metrics:
    """Measure rankings (document ids, best first) of the queries that have judgements.

    A query without a ranking counts 0. Counts, such as NumRet, are sums, as trec_eval's; all else is a mean. The
    evaluator's scores follow from the rank, so ties cannot reorder a ranking. Raise InputError where no query is judged
    or a measure's provider is missing.
    """
    import ir_measures

    measures = list(dict.fromkeys(parse(names)))
    judged = [query for query in queries if qrels.get(query)]
    if not judged:
        raise InputError("none of the queries has relevance judgements; check that qrels and queries belong together")
    # Some providers only take numbers for query ids.
    numbers = {query: str(number) for number, query in enumerate(judged)}
    relevance = {number: dict(qrels[query]) for query, number in numbers.items()}
    # Measures with a cutoff look no deeper, unless they pass over unjudged documents.
    deep = any("cutoff" not in m.params or m.params.get("judged_only") for m in measures)
    depth = None if deep else max(m["cutoff"] for m in measures)
    tops = {number: run[query][:depth] for query, number in numbers.items() if run.get(query)}
    scores = {
        number: dict(zip(docs, map(float, range(len(docs), 0, -1)), strict=True)) for number, docs in tops.items()
    }
    spelt = {id(m): str(m) for m in measures}  # as text only once: ir-measures takes long to spell one
    values = {query: {spelt[id(m)]: _without_ranking(m, qrels[query]) for m in measures} for query in judged}
    try:
        for metric in ir_measures.iter_calc(measures, relevance, scores) if scores else ():
            if metric.query_id in scores:
                name = spelt.get(id(metric.measure)) or str(metric.measure)
                values[judged[int(metric.query_id)]][name] = float(metric.value)
    except (ValueError, RuntimeError, ImportError, ArithmeticError, subprocess.CalledProcessError) as error:
        raise InputError(f"cannot measure {', '.join(names)}: {' '.join(str(error).split())}") from error
    mean = {}
    for m in measures:
        divisor = 1 if isinstance(m.aggregator(), ir_measures.SumAgg) else len(judged)
        name = spelt[id(m)]
        mean[name] = sum(values[query][name] for query in judged) / divisor
    return Metrics(mean=mean, per_query=values)


def marked(metrics: Metrics, run: Mapping[str, Sequence[str]], models: Mapping[tuple[str, str], str]) -> Metrics:
    """Return measures under names that say which share of the top documents models judged: a bare name is people's.

    `models` has the model of each judgement that one made, by query and document.
    """
    judges = ", ".join(sorted(set(models.values())))

    def name(measure: str) -> str:
        depth = parse([measure])[0].params.get("cutoff")
        top = [(query, doc) for query in metrics.per_query for doc in list(run.get(query, ()))[:depth]]
        share = 100 * sum(pair in models for pair in top) / max(1, len(top))
        return f"{measure} ({share:.0f} % of {f'the top {depth}' if depth else 'all documents'} judged by {judges})"

    names = {measure: name(measure) for measure in metrics.mean}
    return Metrics(
        mean={names[measure]: value for measure, value in metrics.mean.items()},
        per_query={
            q: {names[measure]: value for measure, value in row.items()} for q, row in metrics.per_query.items()
        },
    )


def _without_ranking(measure: Any, grades: Mapping[str, int]) -> float:
    """Return the value of a query without a ranking: it is a query, and has relevant documents; all else is 0."""
    if measure.NAME == "NumQ":
        return 1.0
    return float(sum(grade >= measure["rel"] for grade in grades.values())) if measure.NAME == "NumRel" else 0.0


def notes(names: Sequence[str], qrels: Qrels, run: Mapping[str, object], queries: Iterable[str]) -> list[str]:
    """Return what is left out when these queries are averaged over, what counts 0, and how grades are taken."""
    judged = {query: qrels[query] for query in queries if qrels.get(query)}
    missing, unjudged = sum(not run.get(query) for query in judged), len(run.keys() - judged.keys())
    highest = max((grade for grades in judged.values() for grade in grades.values()), default=0)
    graded = [m for m in parse(names) if "rel" in m.SUPPORTED_PARAMS and "rel" not in m.params]
    binary = ", ".join(str(m) for m in graded if m.SUPPORTED_PARAMS["rel"].default == 1)
    lines = {
        f"{missing} of {len(judged)} judged queries have no documents in the run and count 0": missing,
        f"{unjudged} of {len(run)} queries of the run are not measured: they have no judgements here": unjudged,
        f"judgements go up to {highest}, and {binary} count 1 as relevant; AP(rel=2) would not": highest > 1 and binary,
    }
    return [line for line, applies in lines.items() if applies]


def measured(
    names: Sequence[str], qrels: Qrels, run: Mapping[str, Sequence[str]], queries: Iterable[str], listener: Listener
) -> Metrics:
    """Return `measure` of the names and the Judged@k beside them; the listener receives the notes."""
    names, queries = with_judged(names), list(queries)
    metrics = measure(names, qrels, run, queries)
    for note in notes(names, qrels, run, queries):
        listener.note(note)
    return metrics
