"""`r2llm show`: a run in full."""

from . import options, results


def show(run_dir: options.RunDir, as_json: options.Json = False) -> None:
    """Show a run: what was run, with what, when, at what cost, and how it measured. `verify` checks it."""
    from ..pipeline.run import read as runs

    results.show_in_full(runs.read(run_dir), as_json=as_json)
