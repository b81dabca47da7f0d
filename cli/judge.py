"""`r2llm judge`: let a model judge the first documents of runs, and hold it against people."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options, results


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
    content = study.judge(loaded, plan, listener)
    results.show_study(content, as_json=as_json)
    if as_json:
        for warning in content["warnings"]:
            console.trouble(f"warning: {warning}")
    else:
        console.line(f"qrels: {output}")
