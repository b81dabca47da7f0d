"""How the outcome of an experiment is shown: a table of metrics, a table of costs, and where the files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..rerankers.errors import BackendError
from . import console, heading

if TYPE_CHECKING:
    from ..pipeline.evaluate import Metrics
    from ..pipeline.experiment import Outcome
    from ..pipeline.run.costs import Summary


FIGURES = ("mean", "p50", "p95", "total")

FORMS = {"seconds": "{:.3f}", "flops": "{:.3e}", "usd": "{:.6f}"}
"""How costs are written that are not counts."""


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Print an outcome on stdout. Raises `BackendError` where more answers are unread than its config allows."""
    if as_json:
        console.as_json(_as_json(outcome))
        for warning in outcome.warnings:
            console.trouble(f"warning: {warning}")
    else:
        _show(outcome)
    if outcome.refusal:
        raise BackendError(outcome.refusal)


def _show(outcome: Outcome) -> None:
    from ..pipeline.run import read as record

    kind = " (simulated answers: not a model's result)" if outcome.simulated else ""
    part = f", shard {outcome.shard}" if outcome.shard else ""
    console.line(f"{outcome.name}{part}{kind}")
    if not outcome.queries:
        console.line(f"no query of this shard has candidates: nothing to rank; noted in {outcome.run_dir}")
        return
    left = record.read(outcome.run_dir)
    console.table("which", heading.COLUMNS, list(heading.rows(left.manifest, left.metrics)))
    for warning in outcome.warnings:
        console.line(f"WARNING: {warning}")
    _show_metrics(outcome)
    _show_costs(outcome)
    show_efficiency(outcome.efficiency)
    for measure, expected in outcome.expected.items():
        console.line(f"published {measure}: {expected.value:g} ± {expected.tolerance:g} ({expected.source})")
    if not outcome.executed:
        console.line("the run was finished before: nothing was asked, and its costs are those of then")
    console.line(f"run file: {outcome.run_file}")


def show_metrics(metrics: Metrics, *, per_query: bool, as_json: bool) -> None:
    """Print an evaluation on stdout."""
    if as_json:
        shown: dict[str, Any] = {"metrics": metrics.mean}
        console.as_json(shown | ({"per_query": metrics.per_query} if per_query else {}))
        return
    names = list(metrics.mean)
    rows = [["all", *(f"{metrics.mean[name]:.4f}" for name in names), str(len(metrics.per_query))]]
    if per_query:
        rows += [[q, *(f"{values[name]:.4f}" for name in names), "1"] for q, values in metrics.per_query.items()]
    console.table(f"{len(metrics.per_query)} queries", ["query", *names, "queries"], rows)


def _show_metrics(outcome: Outcome) -> None:
    if outcome.metrics is None:
        which = " of these queries" if outcome.shard else ""
        console.line(f"no relevance judgements{which}: nothing to evaluate")
        return
    orders = {"first stage": outcome.first_stage, "reranked": outcome.reranked}
    before = {name: found.mean for name, found in orders.items() if found}
    _means_table(outcome.metrics.mean, before, len(outcome.metrics.per_query))


def show_means(metrics: Mapping[str, Any]) -> None:
    """Print the means in a run's `metrics.json` as a table."""
    orders = {"first stage": metrics.get("first_stage"), "reranked": metrics.get("reranked")}
    before = {name: found["all"] for name, found in orders.items() if found}
    _means_table(metrics["all"], before, len(metrics["per_query"]))


def _means_table(last: Mapping[str, float], before: Mapping[str, Mapping[str, float]], queries: int) -> None:
    """A column for each order on the way, and one for the last, which is called by what was done last."""
    names = ("first stage", "reranked", "fused")
    orders = {**before, names[len(before)]: last}
    rows = [[name, *(f"{means[name]:.4f}" for means in orders.values())] for name in last]
    rows.append(["queries", *(str(queries) for _ in orders)])
    console.table(f"mean over {queries} queries", ["measure", *orders], rows)


def show_costs(costs: Summary, schedule: str) -> None:
    """Print a summary of costs as a table."""
    rows = [
        [_label(name, schedule) + _part(figures, costs), *(_number(name, figures[each]) for each in FIGURES)]
        for name, figures in costs.items()
        if _is_told(name, [costs])
    ]
    rows.append(["queries", "", "", "", _number("queries", costs["asks"]["queries"])])
    console.table("cost of a query", ["cost", *FIGURES], rows)


def _part(figures: Mapping[str, float | None], costs: Summary) -> str:
    """Over how many queries a figure is, where not over all."""
    over, queries = figures["queries"], costs["asks"]["queries"]
    return f" (of {over} of {queries} queries)" if over and over != queries else ""


def show_efficiency(found: Mapping[str, Any] | None) -> None:
    """Print what a run came to per PetaFLOP, where that is known."""
    if not found:
        return
    for measure, ratio in found["rpp"].items():
        both = f"{ratio['mean_of_ratios']:,.4g} (mean of ratios), {ratio['ratio_of_means']:,.4g} (ratio of means)"
        console.line(f"RPP, {measure} per PetaFLOP: {both}")
    console.line(f"QPP, queries per PetaFLOP: {found['qpp']:,.4g}")


def show_stages(stages: Sequence[Summary], schedule: str) -> None:
    """Print the mean costs of a query in each stage of a cascade as a table."""
    rows = [
        [_label(name, schedule), *(_number(name, stage[name]["mean"]) for stage in stages)]
        for name in stages[0]
        if _is_told(name, stages)
    ]
    rows.append(["queries", *(_number("queries", stage["asks"]["queries"]) for stage in stages)])
    header = ["cost", *(f"stage {number}" for number in range(1, len(stages) + 1))]
    console.table("mean cost of a query, stage by stage", header, rows)


def _show_costs(outcome: Outcome) -> None:
    if not outcome.costs:
        return
    show_costs(outcome.costs, outcome.schedule)
    if outcome.schedule == "throughput" and outcome.wall_seconds:
        rate = outcome.queries / outcome.wall_seconds
        console.line(f"throughput: {rate:.3g} queries/s ({outcome.queries} in {outcome.wall_seconds:.1f} s, pooled)")


def _is_told(name: str, summaries: Sequence[Summary]) -> bool:
    """Whether a cost has a row of its own: operations and prices only where some are known."""
    return name not in ("flops", "usd") or any(found[name]["mean"] is not None for found in summaries)


def _label(name: str, schedule: str) -> str:
    if name != "seconds":
        return {"flops": "FLOPs", "usd": "USD"}.get(name, name.replace("_", " "))
    return "latency, s" if schedule == "latency" else "seconds in the pool"


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in FORMS:
        return FORMS[name].format(value)
    return f"{value:,.1f}".removesuffix(".0")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "run_dir": str(outcome.run_dir),
        "run_file": str(outcome.run_file),
        "simulated": outcome.simulated,
        "schedule": outcome.schedule,
        **({"shard": str(outcome.shard)} if outcome.shard else {}),
        **({"warnings": outcome.warnings} if outcome.warnings else {}),
        "queries": outcome.queries,
        "metrics": _mean(outcome.metrics),
        "first_stage_metrics": _mean(outcome.first_stage),
        **({"reranked_metrics": _mean(outcome.reranked)} if outcome.reranked else {}),
        "costs": outcome.costs,
        "efficiency": outcome.efficiency,
        "wall_seconds": outcome.wall_seconds,
        "expected": {
            measure: {"value": expected.value, "tolerance": expected.tolerance, "source": expected.source}
            for measure, expected in outcome.expected.items()
        },
    }


def _mean(metrics: Metrics | None) -> dict[str, float]:
    return metrics.mean if metrics else {}
