"""`r2llm estimate`: what a run will cost, before it is run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..pipeline.estimate import Estimate, Figures

STAND_INS = {
    "qrels": "answers that follow the relevance judgements, with noise, stand in for the model's",
    "first_stage": "answers that follow the first stage's order, with noise, stand in for the model's",
    "model": "the simulated model itself answers",
}

RANGE = "low, high: if the first document shown always won, or the last candidate, or a random one"


def estimate(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    probe_queries: Annotated[
        int,
        typer.Option(
            "--probe-queries",
            metavar="N",
            help="Rank N queries with the real model and scale up: gives seconds, and the best estimate of the rest.",
        ),
    ] = 0,
    probe_seconds: Annotated[float, typer.Option("--probe-seconds", hidden=True)] = 0.0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Estimate the asks, tokens, FLOPs, US dollars and time of a run.

    Simulated answers stand in for the model's, and a sample of the prompts is tokenized; the model is asked only with
    --probe-queries. The range of what depends on the answers is that of other simulated answers or, with
    --probe-queries, a 95 % interval (Student's t).
    """
    from ..pipeline import estimate as estimates
    from ..pipeline.configs import load as configs
    from . import console

    listener = console.listener(quiet)
    if probe_seconds > 0:
        listener.note("--probe-seconds is deprecated and counts as --probe-queries 1, which also measures the time")
        probe_queries = probe_queries or 1
    loaded = configs.load_noting(config, settings or (), queries, listener)
    result = estimates.estimate(loaded, probe_queries, listener)
    if as_json:
        console.as_json(_as_json(result))
    else:
        _show(result)


def _show(result: "Estimate") -> None:
    from . import console

    basis = f"{result.tried} of them ranked for real, and scaled up" if result.tried else STAND_INS[result.judged_by]
    console.line(f"{result.name}: {result.queries} queries; {basis}")
    for number, stage in enumerate(result.stages, 1):
        which = f"stage {number}: " if len(result.stages) > 1 else ""
        varying = [name for name in ("asks", "calls", "rounds") if name not in stage.exact]
        basis = f"; {', '.join(varying)} depend on the answers" if varying else ""
        console.line(f"{which}{stage.method}: {', '.join(stage.exact) or 'nothing'} exact{basis}")
        _show_table(stage.figures, stage.corrections, stage.bounded, result.queries)
        if varying:
            console.line("low, high: a 95 % interval (Student's t)" if result.tried else RANGE)
        if stage.sampled and not result.tried:
            console.line(f"tokens and FLOPs: the means of {stage.sampled} prompts, times the asks")
            console.line("no seconds: --probe-queries N measures them on this machine")
        if stage.figures["prompt_tokens"].total is None:
            console.line("no tokens, FLOPs and USD: nothing is asked, or nothing here counts the model's tokens")
        if stage.figures["seconds"].total is not None:
            console.line("seconds: on this machine as it is now, with loading the model")
    if len(result.stages) > 1:
        console.line("all stages")
        _show_table(result.total, {}, any(stage.bounded for stage in result.stages), result.queries)


def _show_table(figures: "Figures", corrections: Mapping[str, float], bounded: bool, queries: int) -> None:
    from . import console

    most = ", at most" if bounded else ""
    labels = {"completion_tokens": f"completion tokens{most}", "flops": f"FLOPs{most}", "usd": f"USD{most}"}
    rows = [
        [labels.get(name, name.replace("_", " ")), *(_number(name, value) for value in costs.values())]
        for name, costs in _costs(figures, queries).items()
        if name != "usd" or costs["total"] is not None
    ]
    for name, value in corrections.items():
        label = f"not in FLOPs: {name.replace('_', ' ')}"
        rows.append([label, _number("flops", value / queries), _number("flops", value), "", ""])
    console.table("estimated cost", ["cost", "a query", "total", "low", "high"], rows)


def _number(name: str, value: float | None) -> str:
    from .results import FORMS

    if value is None:
        return "-"
    return FORMS[name].format(value) if name in FORMS else f"{value:,.1f}".removesuffix(".0")


def _as_json(result: "Estimate") -> dict[str, Any]:
    queries, content = (
        result.queries,
        {name: getattr(result, name) for name in ("name", "queries", "tried", "judged_by")},
    )
    stages = [
        {name: getattr(stage, name) for name in ("method", "exact", "bounded", "sampled")}
        | {"costs": _costs(stage.figures, queries)}
        | {"flops_left_out": {name: {"mean": n / queries, "total": n} for name, n in stage.corrections.items()}}
        for stage in result.stages
    ]
    return content | {"costs": _costs(result.total, queries), "stages": stages}


def _costs(figures: "Figures", queries: int) -> dict[str, dict[str, float | None]]:
    """Return each figure with its mean per query first."""
    import dataclasses

    means = {name: None if each.total is None else each.total / queries for name, each in figures.items()}
    return {name: {"mean": means[name], **dataclasses.asdict(each)} for name, each in figures.items()}
