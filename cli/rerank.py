"""`r2llm rerank`: the whole chain."""

from . import options


def rerank(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Retrieve, rerank and evaluate. Run again after an interruption, it continues."""
    from ..pipeline import config as configs
    from ..pipeline import experiment
    from . import console, results

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    results.show(experiment.rerank(loaded, output, listener), as_json=as_json)
