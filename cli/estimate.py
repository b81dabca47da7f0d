"""`r2llm estimate`: what a run will cost, before it is run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..pipeline.estimate import Estimate, Figures, StageEstimate
    from ..pipeline.trial import Figure

JUDGES = {
    "qrels": "answers that follow the relevance judgements, with noise, stood in for the model's",
    "first_stage": "answers that follow the first stage's order, with noise, stood in for the model's",
    "model": "the simulated model itself answered",
}

OTHER_RULES = "were the first one shown always the best, or the last candidate, or any at random"


def estimate(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    probe_seconds: Annotated[
        float | None,
        typer.Option(
            "--probe-seconds",
            metavar="S",
            help="How long to ask the real model for its speed; 10 unless given, and 0 for a server, which may charge.",
        ),
    ] = None,
    probe_queries: Annotated[
        int,
        typer.Option(
            "--probe-queries",
            metavar="N",
            help="Rank N queries with the real model instead, and scale up: the nearest estimate for every method.",
        ),
    ] = 0,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what a run would ask, and what that would cost in tokens, FLOPs, US dollars and time on this machine.

    Simulated answers stand in for the model's; the model itself is only asked to see how fast it is, and for some
    queries where you say so.
    """
    from ..pipeline import estimate as estimates
    from ..pipeline.configs import load as configs
    from . import console

    listener = console.listener(quiet)
    effort = estimates.Effort(probe_seconds, probe_queries)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    found = estimates.estimate(loaded, effort, listener)
    if as_json:
        console.as_json(_as_json(found))
    else:
        _show(found)


def _show(found: "Estimate") -> None:
    from . import console

    basis = f"{found.tried} of them ranked for real, and scaled up" if found.tried else JUDGES[found.judged_by]
    console.line(f"{found.name}: {found.queries} queries; {basis}")
    for number, stage in enumerate(found.stages, 1):
        which = f"stage {number}: " if len(found.stages) > 1 else ""
        console.line(f"{which}{stage.method}: {_basis(stage)}")
        _show_table(stage.figures, stage.corrections, stage.bounded, found.queries)
        _show_notes(stage, found.tried)
    if len(found.stages) > 1:
        console.line("all stages")
        _show_table(found.total, {}, any(stage.bounded for stage in found.stages), found.queries)


def _basis(stage: "StageEstimate") -> str:
    from ..pipeline.estimate import COUNTS

    known = f"{', '.join(stage.exact) or 'nothing'} exact"
    estimated = ", ".join(name for name in COUNTS if name not in stage.exact)
    return f"{known}; {estimated} depend on the answers" if estimated else known


def _show_notes(stage: "StageEstimate", tried: int) -> None:
    from ..pipeline.estimate import COUNTS
    from . import console

    if len(stage.exact) < len(COUNTS):
        console.line(f"low, high: {'a 95 % interval (Student t)' if tried else OTHER_RULES}")
    if stage.sampled and not tried:
        console.line(f"tokens and FLOPs: the means of {stage.sampled} requests, times the asks")
    if stage.figures["prompt_tokens"].total is None:
        console.line("no tokens, FLOPs and USD: nothing is asked, or nothing here counts the model's tokens")
    if stage.figures["seconds"].total is not None:
        console.line("seconds: on this machine as it is now, and with loading the model")


def _show_table(figures: "Figures", left_out: Mapping[str, float], bounded: bool, queries: int) -> None:
    from . import console

    most = ", at most" if bounded else ""
    labels = {"completion_tokens": f"completion tokens{most}", "flops": f"FLOPs{most}", "usd": f"USD{most}"}
    rows = [
        [
            labels.get(name, name.replace("_", " ")),
            *(_number(name, value) for value in (_share(figure.total, queries), figure.total, figure.low, figure.high)),
        ]
        for name, figure in figures.items()
        if name != "usd" or figure.total is not None
    ]
    for name, value in left_out.items():
        label = f"not in FLOPs: {name.replace('_', ' ')}"
        rows.append([label, _number("flops", value / queries), _number("flops", value), "", ""])
    console.table("estimated cost", ["cost", "a query", "total", "low", "high"], rows)


def _share(total: float | None, queries: int) -> float | None:
    return None if total is None else total / queries


def _number(name: str, value: float | None) -> str:
    from .results import FORMS

    if value is None:
        return "-"
    return FORMS[name].format(value) if name in FORMS else f"{value:,.1f}".removesuffix(".0")


def _as_json(found: "Estimate") -> dict[str, Any]:
    return {
        "name": found.name,
        "queries": found.queries,
        "tried": found.tried,
        "judged_by": found.judged_by,
        "costs": _costs(found.total, found.queries),
        "stages": [_stage(stage, found.queries) for stage in found.stages],
    }


def _stage(stage: "StageEstimate", queries: int) -> dict[str, Any]:
    return {
        "method": stage.method,
        "exact": stage.exact,
        "bounded": stage.bounded,
        "sampled": stage.sampled,
        "costs": _costs(stage.figures, queries),
        "flops_left_out": {
            name: {"mean": total / queries, "total": total} for name, total in stage.corrections.items()
        },
    }


def _costs(figures: "Figures", queries: int) -> dict[str, dict[str, float | None]]:
    return {name: _figure(figure, queries) for name, figure in figures.items()}


def _figure(figure: "Figure", queries: int) -> dict[str, float | None]:
    return {
        "mean": _share(figure.total, queries),
        "total": figure.total,
        "low": figure.low,
        "high": figure.high,
    }
