"""`r2llm retrieve`: the first stage alone."""

from . import console, options, results


def retrieve(
    config: options.Config,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Do the first stage alone, and evaluate it where there are relevance judgements."""
    from ..pipeline import experiment
    from ..pipeline.configs import load as configs

    listener = console.listener(quiet)
    loaded = configs.load_noting(config, settings or (), queries, listener)
    results.show(experiment.retrieve_only(loaded, output, listener), as_json=as_json)
