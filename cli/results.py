"""How the outcome of an experiment is shown: a table of metrics, a table of costs, and where the files are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from ..pipeline.costs import Summary
    from ..pipeline.evaluate import Metrics
    from ..pipeline.experiment import Outcome


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome on stdout."""
    if as_json:
        console.line(json.dumps(_as_json(outcome)))
        return
    kind = " (simulated answers: not a model's result)" if outcome.simulated else ""
    console.line(f"{outcome.name}{kind}")
    _show_metrics(outcome)
    _show_costs(outcome)
    for measure, expected in outcome.expected.items():
        console.line(f"published {measure}: {expected.value:g} ± {expected.tolerance:g} ({expected.source})")
    console.line(f"run file: {outcome.run_file}")


def show_metrics(metrics: Metrics, *, per_query: bool, as_json: bool) -> None:
    """Print an evaluation on stdout."""
    if as_json:
        shown: dict[str, Any] = {"metrics": metrics.mean}
        console.line(json.dumps(shown | ({"per_query": metrics.per_query} if per_query else {})))
        return
    names = list(metrics.mean)
    rows = [["all", *(f"{metrics.mean[name]:.4f}" for name in names)]]
    if per_query:
        rows += [[q, *(f"{values[name]:.4f}" for name in names)] for q, values in metrics.per_query.items()]
    console.table(f"{len(metrics.per_query)} queries", ["query", *names], rows)


def _show_metrics(outcome: Outcome) -> None:
    if outcome.metrics is None:
        console.line("no relevance judgements: nothing to evaluate")
        return
    before = outcome.first_stage
    _means_table(outcome.metrics.mean, before.mean if before else None, len(outcome.metrics.per_query))


def show_means(metrics: Mapping[str, Any]) -> None:
    """Print the means in a run's `metrics.json` as a table."""
    before = metrics.get("first_stage")
    _means_table(metrics["all"], before["all"] if before else None, len(metrics["per_query"]))


def _means_table(after: Mapping[str, float], before: Mapping[str, float] | None, queries: int) -> None:
    header = ["measure", *(["first stage", "reranked"] if before else ["first stage"])]
    rows = [[name, *([f"{before[name]:.4f}"] if before else []), f"{value:.4f}"] for name, value in after.items()]
    console.table(f"mean over {queries} queries", header, rows)


def show_costs(costs: Summary, schedule: str) -> None:
    """Print a summary of costs as a table."""
    rows = [
        [_label(name, schedule), *(_number(name, value) for value in figures.values())]
        for name, figures in costs.items()
    ]
    console.table("cost of a query", ["cost", "mean", "p50", "p95", "total"], rows)


def _show_costs(outcome: Outcome) -> None:
    if not outcome.costs:
        return
    show_costs(outcome.costs, outcome.schedule)
    if outcome.schedule == "throughput" and outcome.wall_seconds:
        rate = outcome.queries / outcome.wall_seconds
        console.line(f"throughput: {rate:.3g} queries/s ({outcome.queries} in {outcome.wall_seconds:.1f} s, pooled)")


def _label(name: str, schedule: str) -> str:
    if name != "seconds":
        return name.replace("_", " ")
    return "latency, s" if schedule == "latency" else "seconds in the pool"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name == "seconds" else f"{value:,.1f}".removesuffix(".0")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "run_dir": str(outcome.run_dir),
        "run_file": str(outcome.run_file),
        "simulated": outcome.simulated,
        "schedule": outcome.schedule,
        "queries": outcome.queries,
        "metrics": _mean(outcome.metrics),
        "first_stage_metrics": _mean(outcome.first_stage),
        "costs": outcome.costs,
        "wall_seconds": outcome.wall_seconds,
        "expected": {
            measure: {"value": expected.value, "tolerance": expected.tolerance, "source": expected.source}
            for measure, expected in outcome.expected.items()
        },
    }


def _mean(metrics: Metrics | None) -> dict[str, float]:
    return metrics.mean if metrics else {}
