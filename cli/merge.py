"""`r2llm merge`: one run out of its shards."""

from pathlib import Path
from typing import Annotated

import typer

from ..rerankers.errors import InputError
from . import console, options, results


def merge(
    run_dirs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN_DIR]...", help="The run's folder, which holds the shards; or those of shards."),
    ] = None,
    config: Annotated[str | None, options.config("The config that was sharded; finds its shards in runs/.")] = None,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make one run of the shards that `rerank --shard` left: the run that one execution would have left.

    Each shard is verified first; then all queries are ranked once more with the shards' answers, and the manifest says
    which shards it was. Needs the dataset, and no model.
    """
    from ..pipeline import shards as merging
    from ..pipeline.configs import load as configs

    if not run_dirs and config is None:
        raise InputError("merge needs the shards: name the run's folder, or give --config")
    if config is None and (settings or queries is not None):
        raise InputError("--set and --queries go with --config: a run's folder says itself what was run")
    listener = console.listener(quiet)
    loaded = None if config is None else configs.load_noting(config, settings or (), queries, listener)
    if loaded:
        run_dirs = run_dirs or [output or merging.find(loaded)]
    results.show(merging.merge(run_dirs or [], output, listener, loaded), as_json=as_json)
