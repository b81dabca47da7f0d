"""`r2llm probe`: how a ranker is fooled by what is written into passages."""

from typing import Annotated

import typer

from . import console, options, results


def probe(
    config: options.Config,
    probes: Annotated[str, typer.Option(metavar="NAME,NAME", help="Only these: doh,dch; all by default.")] = "",
    sets: Annotated[int, typer.Option(min=0, help="How many sets of four documents are attacked.")] = 256,
    rankings: Annotated[
        bool, typer.Option("--rankings/--no-rankings", help="Attack whole rankings too: two a probe.")
    ] = True,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write instructions, claims, labels or nothing at all into passages, and see how the ranker takes it.

    A placebo of the same length says what any addition does. Run again after an interruption, it continues.
    """
    from ..pipeline.configs import load as configs
    from ..pipeline.studies import probe as study

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    names = [name.strip() for name in probes.split(",") if name.strip()]
    content = study.probe(loaded, names, sets, output, listener, rankings=rankings)
    results.show_study(content, as_json=as_json)
