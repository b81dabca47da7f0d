"""`r2llm rerank`: retrieve, rerank and evaluate."""

from typing import Annotated

import typer

from . import console, options, results


def rerank(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="NUMBER/COUNT", help="Only this part of the queries: 3/16. See `merge`."),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Retrieve, rerank and evaluate. Run again after an interruption, it continues.

    With --shard each of several processes, such as the tasks of a job array, ranks its part of the queries in a folder
    of its own; `r2llm merge` makes one run of them.
    """
    from ..pipeline import experiment
    from ..pipeline.configs import load as configs
    from ..pipeline.run.shards import Shard

    listener = console.listener(quiet)
    part = Shard.parse(shard) if shard is not None else None
    loaded = configs.load_noting(config, settings or (), queries, listener)
    results.show(experiment.rerank(loaded, output, listener, part), as_json=as_json)
