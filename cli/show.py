"""`r2llm show`: a run in full."""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")],
    as_json: options.Json = False,
) -> None:
    """Show a run: what was run, with what, when, at what cost, and how it measured. `verify` checks it."""
    from ..pipeline.run import read as runs
    from . import results

    results.show_in_full(runs.read(run_dir), as_json=as_json)
