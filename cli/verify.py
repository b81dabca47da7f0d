"""`r2llm verify`: is a run still what its manifest says?"""

from pathlib import Path
from typing import Annotated

import typer

from . import options


def verify(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Recompute every hash, sum and measure of a run that can be: exit 1, and what differs, where one is not right.

    Dataset, judgements and model files are checked too where they are on this machine; the rest is said to be
    `not checked`.
    """
    import dataclasses

    from ..pipeline import verify as verification
    from . import console

    checks = verification.verify(run_dir, console.listener(quiet))
    differing = [check for check in checks if check.state == "differs"]
    if as_json:
        listed = [dataclasses.asdict(check) for check in checks]
        console.as_json({"run_dir": str(run_dir), "ok": not differing, "checks": listed})
    else:
        for check in checks:
            why = f": {check.detail}" if check.detail else ""
            console.cells(check.state, check.file, f"{check.what}{why}")
        skipped = sum(check.state == "not checked" for check in checks)
        agreeing = len(checks) - len(differing) - skipped
        console.line(f"{run_dir}: {agreeing} checks agree, {len(differing)} differ, {skipped} could not be made")
    raise typer.Exit(1 if differing else 0)
