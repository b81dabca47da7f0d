"""`r2llm judge`: let a model judge the first documents of runs, and hold it against people."""

from pathlib import Path
from typing import Annotated, Any

import typer

from . import console, options


def judge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, folders of these, or TREC files.")],
    config: Annotated[str, options.config("The judge: its `model`, and the `dataset` with texts and judgements.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The qrels of documents that people did not judge.")
    ] = Path("judged.qrels"),
    depth: Annotated[int, typer.Option(min=1, help="How many of a run's first documents are judged.")] = 10,
    measure: Annotated[str, typer.Option(help="Any measure of ir-measures.")] = "nDCG@10",
    first_stage: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A first stage that TREC files reranked; run folders have it. Repeatable."),
    ] = None,
    holes: Annotated[bool, typer.Option("--holes", help="Ask only about documents that people did not judge.")] = False,
    allow_circular: Annotated[
        bool, typer.Option("--allow-circular", help="Accept a judge whose prompt is a ranker's.")
    ] = False,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Let a model grade the first documents of runs. Run again after an interruption, it continues.

    People's grades come first, in every figure. Shown are the agreement with them, each run's measure by people's, by
    filled and by the model's judgements, and by how much the latter favour rankers over first stages.
    """
    from ..pipeline.configs import load as configs
    from ..pipeline.studies import judge as study

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    plan = study.Plan(runs, first_stage or (), output, depth, measure, holes, allow_circular)
    found = study.judge(loaded, plan, listener)
    for warning in found["warnings"] if as_json else ():
        console.trouble(f"warning: {warning}")
    if as_json:
        console.as_json(found)
    else:
        _show(found)
        console.line(f"qrels: {output}")


def _show(found: dict[str, Any]) -> None:
    name, measure = found["judge"], found["measure"]
    console.line(f"judged by {name}" + (" (SIMULATED answers: not a model's judgements)" if found["simulated"] else ""))
    for warning in found["warnings"]:
        console.line(f"WARNING: {warning}")
    counts = {key.replace("_", " "): f"{count:,}" for key, count in found["documents"].items()}
    console.table(
        f"documents in the top {found['depth']} of {found['queries']} queries", list(counts), [[*counts.values()]]
    )
    if agreement := found["agreement"]:
        confusion, figures = (
            agreement.pop("confusion"),
            {key.replace("_", " "): _number(v) for key, v in agreement.items()},
        )
        console.table("agreement with people, where both judged", list(figures), [[*figures.values()]])
        header = ["people's grade", *(f"{name}: {grade}" for grade in range(4))]
        rows = [[str(grade), *map(str, row)] for grade, row in enumerate(confusion or ())]
        console.table("people's grades (rows) and the model's", header, rows)
    header = ["run", "kind", measure, f"{measure}, filled", f"{measure} by people*", f"{measure} by {name}*"]
    rows = [
        [
            row["name"],
            row["kind"],
            _number(row["human"]),
            f"{_number(row['filled'])} {row['filled_name'] or ''}",
            *(_number(row[by]) for by in ("human_same", "model_same")),
        ]
        for row in found["runs"]
    ]
    console.table("by people's judgements; * by documents that both judged", header, rows)
    if ranks := found["rankings"]:
        header, row = ["Kendall's τ", "τ of the better half"], [_number(ranks["tau"]), _number(ranks["tau_top_half"])]
        console.table("the order of runs by both", header, [row])
    if bias := found["bias"]:
        low, high = (_number(end) for end in bias["interval"] or (None, None))
        favour = f"the judge favours rankers over first stages by {bias['difference']:+.4f} {measure}"
        console.line(f"{favour}, 95 % {low} to {high}, {bias['queries']} queries")


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"
