"""`r2llm estimate`: what a run will cost, before it is run."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from . import console, options

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
    --probe-queries. The range of what depends on the answers is that of other simulated answers.
    """
    from ..pipeline import estimate as estimates
    from ..pipeline.configs import load as configs

    listener = console.listener(quiet)
    if probe_seconds > 0:
        listener.note("--probe-seconds is deprecated and counts as --probe-queries 1, which also measures the time")
        probe_queries = probe_queries or 1
    loaded = configs.load_noting(config, settings or (), queries, listener)
    content = estimates.estimate(loaded, probe_queries, listener)
    if as_json:
        console.as_json(content)
    else:
        _show(**content)


def _show(
    name: str, queries: int, tried: int, judged_by: str, costs: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]
) -> None:
    basis = f"{tried} of them ranked for real, and scaled up" if tried else STAND_INS[judged_by]
    console.line(f"{name}: {queries} queries; {basis}")
    for number, stage in enumerate(stages, 1):
        which, exact = f"stage {number}: " if len(stages) > 1 else "", stage["exact"]
        varying = [count for count in ("asks", "calls", "rounds") if count not in exact]
        basis = f"; {', '.join(varying)} depend on the answers" if varying else ""
        console.line(f"{which}{stage['method']}: {', '.join(exact) or 'nothing'} exact{basis}")
        _show_table(stage["costs"] if which else costs, stage["flops_left_out"], stage["bounded"])
        if varying:
            console.line(RANGE)
        if stage["sampled"] and not tried:
            console.line(f"tokens and FLOPs: the means of {stage['sampled']} prompts, times the asks")
            console.line("no seconds: --probe-queries N measures them on this machine")
        if stage["costs"]["prompt_tokens"]["total"] is None:
            console.line("no tokens, FLOPs and USD: nothing is asked, or nothing here counts the model's tokens")
    if len(stages) > 1:
        console.line("all stages")
        _show_table(costs, {}, any(stage["bounded"] for stage in stages))
    if tried:
        console.line("seconds: on this machine as it is now, with loading the model")


def _show_table(costs: Mapping[str, Any], left_out: Mapping[str, Any], bounded: bool) -> None:
    from .results import number

    most = ", at most" if bounded else ""
    labels = {"completion_tokens": f"completion tokens{most}", "flops": f"FLOPs{most}", "usd": f"USD{most}"}
    rows = [
        [labels.get(name, name.replace("_", " ")), *(number(name, value) for value in cost.values())]
        for name, cost in costs.items()
        if name != "usd" or cost["total"] is not None
    ]
    for name, flops in left_out.items():
        rows.append([f"not in FLOPs: {name.replace('_', ' ')}", *(number("flops", x) for x in flops.values()), "", ""])
    console.table("estimated cost", ["cost", "a query", "total", "low", "high"], rows)
