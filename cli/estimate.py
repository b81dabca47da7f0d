"""`r2llm estimate`: what a run will cost, before it is run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..pipeline.estimate import Estimate, StageEstimate


def estimate(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    probe_seconds: Annotated[
        float, typer.Option("--probe-seconds", metavar="S", help="How long to ask the real model; 0: not at all.")
    ] = 10,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what a run would ask, and what that would cost in tokens, FLOPs and time on this machine.

    Simulated answers stand in for the model's; the model itself is only asked to see how fast it is.
    """
    import json

    from ..pipeline import config as configs
    from ..pipeline import estimate as estimates
    from . import console

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    found = estimates.estimate(loaded, probe_seconds, listener)
    if as_json:
        console.line(json.dumps(_as_json(found)))
    else:
        _show(found)


def _show(found: "Estimate") -> None:
    from . import console

    console.line(f"{found.name}: {found.queries} queries; {found.judge} answers stood in for the model's")
    for number, stage in enumerate(found.stages, 1):
        which = f"stage {number}: " if len(found.stages) > 1 else ""
        console.line(f"{which}{stage.method}: {_basis(stage)}")
        _show_table(stage.figures, stage.corrections, found.queries)
        if stage.sampled:
            console.line(f"tokens and FLOPs: the mean of {stage.sampled} requests, times the asks")
            if stage.figures["seconds"] is not None:
                console.line("seconds: on this machine as it is now, without loading the model")
        else:
            console.line("no tokens, FLOPs and seconds: nothing is asked, or the backend has no tokenizer of its own")
    if len(found.stages) > 1:
        console.line("all stages")
        _show_table(found.total, {}, found.queries)


def _basis(stage: "StageEstimate") -> str:
    from ..pipeline.estimate import COUNTS

    known = f"{', '.join(stage.exact) or 'nothing'} exact"
    estimated = ", ".join(name for name in COUNTS if name not in stage.exact)
    if not estimated:
        return f"{known}, independent of the answers"
    inverse = f" ({stage.asks_inverse:,.1f} asks a query with inverse answers)" if "asks" not in stage.exact else ""
    return f"{known}; {estimated} depend on the answers{inverse}"


def _show_table(figures: Mapping[str, float | None], left_out: Mapping[str, float], queries: int) -> None:
    from . import console

    labels = {"completion_tokens": "completion tokens, at most", "flops": "FLOPs"}
    rows = [(labels.get(name, name.replace("_", " ")), name, value) for name, value in figures.items()]
    rows += [(f"not in FLOPs: {name.replace('_', ' ')}", "flops", value) for name, value in left_out.items()]
    shown = [[label, _number(name, value, queries), _number(name, value, 1)] for label, name, value in rows]
    console.table("estimated cost", ["cost", "a query", "total"], shown)


def _number(name: str, value: float | None, share: int) -> str:
    if value is None:
        return "-"
    if name == "flops":
        return f"{value / share:.3e}"
    return f"{value / share:.3f}" if name == "seconds" else f"{value / share:,.1f}".removesuffix(".0")


def _as_json(found: "Estimate") -> dict[str, Any]:
    return {
        "name": found.name,
        "queries": found.queries,
        "judge": found.judge,
        "costs": _costs(found.total, found.queries),
        "stages": [_stage(stage, found.queries) for stage in found.stages],
    }


def _stage(stage: "StageEstimate", queries: int) -> dict[str, Any]:
    return {
        "method": stage.method,
        "exact": stage.exact,
        "asks_inverse": stage.asks_inverse,
        "sampled": stage.sampled,
        "costs": _costs(stage.figures, queries),
        "flops_left_out": _costs(stage.corrections, queries),
    }


def _costs(figures: Mapping[str, float | None], queries: int) -> dict[str, dict[str, float | None]]:
    return {
        name: {"mean": None if total is None else total / queries, "total": total} for name, total in figures.items()
    }
