"""`r2llm evaluate`: measure any TREC run."""

from pathlib import Path
from typing import Annotated

import typer

from . import completion, options


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A TREC run or a run's folder; the config's run unless given."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", help="Judgements, queries and measures of this config.", autocompletion=completion.configs
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Judgements of an ir_datasets id or a BEIR folder.", autocompletion=completion.datasets),
    ] = None,
    qrels: Annotated[Path | None, typer.Option(help="Judgements in a TREC or BEIR file.")] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Any measure of ir-measures. Repeatable.")] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Each query's values too.")] = False,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a TREC run with --dataset, --qrels or --config, a run's folder, or, with --config alone, its run."""
    from ..pipeline.evaluate import Source, metrics_of
    from . import console, results

    source = Source(config, tuple(settings or ()), queries, dataset, qrels, output)
    metrics = metrics_of(source, run, measure or (), console.listener(quiet))
    results.show_metrics(metrics, per_query=per_query, as_json=as_json)
