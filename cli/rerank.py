"""`r2llm rerank`: retrieve, rerank and evaluate."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..rerankers.errors import InputError
from . import console, options, results

if TYPE_CHECKING:
    from ..pipeline.run.read import Run


def rerank(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="NUMBER/COUNT", help="Only this part of the queries: 3/16. See `merge`."),
    ] = None,
    launcher: options.Launcher = None,
    shards: Annotated[
        int | None, typer.Option("--shards", metavar="N", min=1, help="With --launcher: divide the queries, and merge.")
    ] = None,
    jobs: options.Jobs = None,
    resources: options.Resources = None,
    ray_address: options.RayAddress = None,
    runs: Annotated[Path | None, typer.Option("--runs", hidden=True)] = None,  # of a sweep, whose cell this is
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Retrieve, rerank and evaluate. Run again after an interruption, it continues.

    With --shard each of several processes, such as the tasks of a job array, ranks its part of the queries in a folder
    of its own; `r2llm merge` makes one run of them. --launcher starts all shards as processes, here or on a cluster
    that shares this disk, and merges them.
    """
    from ..pipeline import experiment
    from ..pipeline import shards as merging
    from ..pipeline.configs import load as configs
    from ..pipeline.io.progress import Listener
    from ..pipeline.launchers import rerank_words
    from ..pipeline.run.shards import Shard

    listener = console.listener(quiet)
    part = Shard.parse(shard) if shard is not None else None
    launch = options.launch(launcher, jobs or shards, resources, ray_address)
    loaded = configs.load_noting(config, settings or (), queries, Listener() if launch else listener)  # shards note it
    if (launch is None) != (shards is None) or (launch and part):
        raise InputError("--launcher goes with --shards N, and not with --shard: --launcher local --shards 4")
    if launch is None or shards is None:
        if runs:
            from ..pipeline.sweep import run_cell

            run = run_cell(loaded, runs, listener)
        else:
            run = experiment.rerank(loaded, output, listener, part)
    else:
        words = rerank_words(config, settings or (), queries, *(["--output", str(output)] if output else []))
        place = output or Path("runs", loaded.config.name)
        ended = merging.rank(words, place.with_name(f".{place.name}.logs"), shards, launch, listener)
        _show_shards(ended, as_json=as_json)
        run = merging.merge([each.run_dir for each in ended if not isinstance(each, str)], output, listener, loaded)
    results.show(run, as_json=as_json)


def _show_shards(shards: "Sequence[Run | str]", *, as_json: bool) -> None:
    """Print a row a shard, unless as JSON. Exits with 1 if one failed."""
    rows, errors = [], [(number, run) for number, run in enumerate(shards, 1) if isinstance(run, str)]
    for number, run in enumerate(shards, 1):
        cells = ["failed", *"----"]
        if not isinstance(run, str):
            totals = [run.costs[name]["total"] if run.costs else 0 for name in ("asks", "calls")]
            figures = {"asks": totals[0], "calls": totals[1], "seconds": run.manifest.wall_seconds}
            cells = ["done", str(run.queries), *(results.number(*figure) for figure in figures.items())]
        rows.append([f"{number}/{len(shards)}", *cells])
    if not as_json:
        console.table("shards", ["shard", "status", "queries", "asks", "calls", "seconds"], rows)
    for number, error in errors:
        console.error(f"shard {number}/{len(shards)}: {error}")
    if errors:
        console.error(f"{len(errors)} of {len(shards)} shards failed; the same command again runs what is missing")
        raise typer.Exit(1)
