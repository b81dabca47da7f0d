"""A run on the terminal: which it was, how it measured, what it cost and, for `show`, how it was made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..pipeline.io.tables import ENERGY, FORMS, NOT_ALWAYS_KNOWN, label
from ..rerankers.errors import BackendError
from . import console

if TYPE_CHECKING:
    from ..pipeline.run.costs import Summary
    from ..pipeline.run.manifest import Manifest
    from ..pipeline.run.measures import Metrics
    from ..pipeline.run.read import Run, RunMeasures

Facts = Iterator[tuple[str, str]]
"""Names and values."""

COLUMNS = ("what", "value")

FIGURES = ("mean", "p50", "p95", "total")

HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
"""A SHA-256, of which 12 digits are shown: enough to tell runs apart by eye."""

CHOICES = ("limit", "sample", "first")
"""The keys of `queries` that say how many."""

ELSEWHERE = "version name simulated experiment config schedule queries status unread warnings"
"""The keys of a manifest that are shown elsewhere, or say nothing to people."""


def show(run: Run, *, as_json: bool) -> None:
    """Print a run on stdout. Raises `BackendError` if more answers are unread than its config allows."""
    if as_json:
        console.as_json(_as_json(run))
        for warning in run.manifest.warnings:
            console.trouble(f"warning: {warning}")
    else:
        kind = " (simulated answers: not a model's result)" if run.manifest.simulated else ""
        part = f", shard {run.manifest.shard}" if run.manifest.shard else ""
        console.line(f"{run.manifest.name}{part}{kind}")
        if not run.queries:
            console.line(f"no query of this shard has candidates: nothing to rank; noted in {run.run_dir}")
            return
        _show_result(run)
        for measure, expected in run.expected.items():
            console.line(f"published {measure}: {expected.value:g} ± {expected.tolerance:g} ({expected.source})")
        if not run.executed:
            console.line("the run was finished before: nothing was asked, and its costs are those of then")
        console.line(f"run file: {run.run_file}")
    if run.refusal:
        raise BackendError(run.refusal)


def show_in_full(run: Run, *, as_json: bool) -> None:
    """Print all that a run's folder says on stdout."""
    if as_json:
        content = {"manifest": run.manifest.content, "metrics": run.metrics.content if run.metrics else {}}
        stages = {"stages": list(run.stages)} if run.stages else {}
        console.as_json({"run_dir": str(run.run_dir), **content, "costs": run.costs, **stages})
        return
    console.line(f"{run.manifest.name} in {run.run_dir}")
    if run.manifest.simulated:
        console.line("SIMULATED ANSWERS: these figures are no model's result")
    if run.manifest.status != "finished":
        console.line("NOT FINISHED: r2llm rerank with the same config and settings goes on where it stopped")
    _show_result(run)
    if run.stages:
        rows = [[name, *figures] for name, *figures in _cost_rows(run.stages, ["mean"], run.manifest.schedule)]
        header = ["cost", *(f"stage {number}" for number in range(1, len(run.stages) + 1))]
        console.table("mean cost of a query, stage by stage", header, rows)
    console.table("how", COLUMNS, list(_how(run.manifest)))


def show_metrics(metrics: Metrics, *, per_query: bool, as_json: bool) -> None:
    """Print an evaluation on stdout."""
    if as_json:
        console.as_json({"metrics": metrics.mean} | ({"per_query": metrics.per_query} if per_query else {}))
        return
    count = len(metrics.per_query)
    orders = [("all", metrics.mean, count), *((query, values, 1) for query, values in metrics.per_query.items())]
    rows = [[query, *(f"{values[name]:.4f}" for name in metrics.mean), str(of)] for query, values, of in orders]
    console.table(f"{count} queries", ["query", *metrics.mean, "queries"], rows if per_query else rows[:1])


def show_study(content: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what a study found on stdout."""
    from ..pipeline.report import studies

    if as_json:
        console.as_json(content)
        return
    section = studies.section(content)
    console.line(section.title + (" (SIMULATED answers: not a model's result)" if content["simulated"] else ""))
    for note in section.notes:
        console.line(note)
    console.tables(section.tables)


def _show_result(run: Run) -> None:
    """Print which run it is, its doubts, measures and costs."""
    console.table("which", COLUMNS, list(_which(run)))
    for warning in run.manifest.warnings:
        console.line(f"WARNING: {warning}")
    if run.metrics:
        _show_means(run.metrics)
    elif run.manifest.status == "finished":
        which = " of these queries" if run.manifest.shard else ""
        console.line(f"no relevance judgements{which}: nothing to evaluate")
    schedule, seconds = run.manifest.schedule, run.manifest.wall_seconds
    if run.costs:
        console.table("cost of a query", ["cost", *FIGURES], _cost_rows([run.costs], FIGURES, schedule))
    if run.costs and schedule == "throughput" and seconds:
        rate = run.queries / seconds
        console.line(f"throughput: {rate:.3g} queries/s ({run.queries} in {seconds:.1f} s, pooled)")
    tracked = [run.costs[name]["total"] for name in ENERGY if name in run.costs]
    if tracked and not any(tracked):
        lost = any(run.manifest.executions[-1].joules.values())
        console.line("energy: " + ("not known of an earlier execution" if lost else "not measurable here"))
    if efficiency := run.metrics and run.metrics.efficiency:
        for measure, ratio in efficiency.rpp.items():
            both = f"{ratio['mean_of_ratios']:,.4g} (mean of ratios), {ratio['ratio_of_means']:,.4g} (ratio of means)"
            console.line(f"RPP, {measure} per PetaFLOP: {both}")
        console.line(f"QPP, queries per PetaFLOP: {efficiency.qpp:,.4g}")


def _show_means(measures: RunMeasures) -> None:
    """Print a column for each order, the last called by what was done last, and its change over the first."""
    before = {"first stage": measures.first_stage, "reranked": measures.reranked}
    orders = {name: order.mean for name, order in before.items() if order}
    orders[("first stage", "reranked", "fused")[len(orders)]] = measures.mean
    changes = len(orders) > 1
    rows = [[name, *(f"{order[name]:.4f}" for order in orders.values())] for name in measures.mean]
    if changes:
        first, *_, last = orders.values()
        rows = [[name, *means, f"{last[name] - first[name]:+.4f}"] for name, *means in rows]
    queries = len(measures.per_query)
    rows.append(["queries", *(str(queries) for _ in orders), *([""] if changes else [])])
    header = ["measure", *orders, *(["change"] if changes else [])]
    console.table(f"mean over {queries} queries", header, rows)


def _cost_rows(summaries: Sequence[Summary], figures: Sequence[str], schedule: str) -> list[list[str]]:
    """Return a row a count with these figures of each summary; FLOPs and prices only if known."""
    rows = []
    for name, first in summaries[0].items():
        if name in NOT_ALWAYS_KNOWN and all(summary[name]["mean"] is None for summary in summaries):
            continue
        title = label(name)
        if name == "seconds":
            title = "latency, s" if schedule == "latency" else "seconds in the pool"
        known, queries = first["queries"], summaries[0]["asks"]["queries"]
        part = f" (of {known} of {queries} queries)" if len(summaries) == 1 and known and known != queries else ""
        rows.append([title + part, *(number(name, each[name][figure]) for each in summaries for figure in figures)])
    blank = [""] * (len(figures) - 1)
    counts = [[*blank, number("queries", summary["asks"]["queries"])] for summary in summaries]
    return [*rows, ["queries", *(cell for cells in counts for cell in cells)]]


def number(name: str, value: float | None) -> str:
    """Return a cost as its name demands, or a dash if it is unknown."""
    if value is None:
        return "-"
    return FORMS[name].format(value) if name in FORMS else f"{value:,.1f}".removesuffix(".0")


def _as_json(run: Run) -> dict[str, Any]:
    about, measures = run.manifest, run.metrics
    first, reranked = (measures.first_stage, measures.reranked) if measures else (None, None)
    return {
        "name": about.name,
        "run_dir": str(run.run_dir),
        "run_file": str(run.run_file),
        "simulated": about.simulated,
        "schedule": about.schedule,
        **({"shard": str(about.shard)} if about.shard else {}),
        **({"warnings": about.warnings} if about.warnings else {}),
        "queries": run.queries,
        "metrics": measures.mean if measures else {},
        "first_stage_metrics": first.mean if first else {},
        **({"reranked_metrics": reranked.mean} if reranked else {}),
        "costs": run.costs,
        "efficiency": measures.content.get("efficiency") if measures else None,
        "wall_seconds": about.wall_seconds,
        "expected": {measure: expected.model_dump() for measure, expected in run.expected.items()},
    }


def _which(run: Run) -> Facts:
    from ..pipeline.run.manifest import MODEL_NAME

    about, config = run.manifest, run.manifest.config
    yield "dataset", words(config.dataset)
    yield "first stage", words(config.first_stage)
    settings = config.stages or [{}]
    for which, stage, section in zip(_numbered(about), about.stages, settings, strict=False):
        ranker, depth = stage.ranker, f", the first {stage.depth}" if stage.depth else ""
        options = "; ".join(filter(None, [words(ranker.params), ranker.scoring]))
        yield f"{which}method", f"{ranker.method} ({options}){depth}"
        model = section.get("model") or config.model or {}
        named = next((key for key in MODEL_NAME if model.get(key)), "answers")
        rest = words({key: value for key, value in model.items() if key not in (named, "backend")})
        name = model.get(named)
        yield f"{which}model", f"{name} ({model.get('backend')}{f'; {rest}' if rest else ''})"
    for name, prompt in about.prompts.items():
        yield "prompt", f"{name}, {words(prompt.digest)}"
    if about.experiment.fuse:
        yield "fused", words(about.experiment.fuse)
    chosen = words({key: value for key, value in config.queries.items() if key in CHOICES})
    if run.queries:
        yield "queries", f"{run.queries:,}" + (f" ({chosen})" if chosen else "")


def _how(about: Manifest) -> Facts:
    """Yield all else that the manifest holds."""
    for which, stage in zip(_numbered(about), about.stages, strict=True):
        yield f"{which}ranker options", words(stage.ranker.options)
    content = {name: value for name, value in about.content.items() if name not in ELSEWHERE.split()}
    content["prompts"] = {name: {"source": prompt.source} for name, prompt in about.prompts.items()}
    if about.merged:
        content["merged"] = {"shards": len(about.merged.shards), "differing_answers": about.merged.differing_answers}
    for name, value in content.items():
        yield from _facts({"model": "model details", "models": "model details"}.get(name, name), value)


def _facts(name: str, value: Any) -> Facts:
    """Yield a row for each list item and each mapping that a JSON value holds."""
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            yield from _facts(f"{name} {number}" if len(value) > 1 else name, item)
    elif isinstance(value, Mapping):
        plain = {key: item for key, item in value.items() if not isinstance(item, Mapping | list)}
        if text := words(plain):
            yield name.replace("_", " "), text
        for key in (key for key in value if key not in plain):
            yield from _facts(f"{name} {key}", value[key])
    elif value is not None:
        yield name.replace("_", " "), words(value)


def _numbered(about: Manifest) -> list[str]:
    """Return the beginnings of the rows of each stage; empty for the only one."""
    count = len(about.stages)
    return [f"stage {number}, " if count > 1 else "" for number in range(1, count + 1)]


def words(value: Any) -> str:
    """Return a JSON value in a line, without nulls, hashes cut short."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({words(item)})" if isinstance(item, Mapping) else f"{name} {words(item)}"
            for name, item in value.items()
            if item is not None
        )
    if isinstance(value, list):
        return " ".join(map(words, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if isinstance(value, bool) else HASH.sub(r"\1", str(value))
