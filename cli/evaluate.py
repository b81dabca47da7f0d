"""`r2llm evaluate`: measure any TREC run."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options, results


def evaluate(
    run: Annotated[Path | None, typer.Argument(help="A TREC run or a run's folder; else the config's run.")] = None,
    config: Annotated[str | None, options.config("Judgements, queries and measures of this config.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Judgements of an ir_datasets id or a BEIR folder.")] = None,
    qrels: options.Qrels = None,
    measure: options.Measures = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Each query's values too.")] = False,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Evaluate a TREC run with --dataset, --qrels or --config, a run's folder, or, with --config alone, its run."""
    from ..pipeline.compare.evaluate import Source, metrics_of

    source = Source(config, tuple(settings or ()), queries, dataset, qrels, output)
    metrics = metrics_of(source, run, measure or (), console.listener(quiet))
    results.show_metrics(metrics, per_query=per_query, as_json=as_json)
