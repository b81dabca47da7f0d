"""`r2llm verify`: is a run still what its manifest says?"""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def verify(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Recompute every hash, sum and measure of a run that can be: exit 1, and what differs, if one is not right.

    Dataset, judgements and model files are checked too if they are on this machine; the rest is `not checked`.
    """
    from ..pipeline import verify as verification

    checks = verification.verify(run_dir, console.listener(quiet))
    states = Counter(check.state for check in checks)
    if as_json:
        listed = [dataclasses.asdict(check) for check in checks]
        console.as_json({"run_dir": str(run_dir), "ok": not states["differs"], "checks": listed})
    else:
        for check in checks:
            console.cells(check.state, check.file, f"{check.what}{f': {check.detail}' if check.detail else ''}")
        counts = (
            f"{states['agrees']} checks agree, {states['differs']} differ, {states['not checked']} could not be made"
        )
        console.line(f"{run_dir}: {counts}")
    raise typer.Exit(1 if states["differs"] else 0)
