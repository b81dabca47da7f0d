"""`r2llm verify`: whether a run still is what its manifest says."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def verify(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder, or a zip file of `pack`.")],
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Recompute every hash, sum and measure of a run that can be: exit 1, and what differs, if one is not right.

    Dataset, judgements and model files are checked too if they are on this machine; the rest is `not checked`.
    """
    from ..pipeline import verify as verification
    from ..pipeline.io import archive

    if run_dir.suffix == ".zip":
        checks = [
            dataclasses.replace(check, file=f"{name}/{check.file}")
            for name, folder in archive.unpacked(run_dir).items()
            for check in verification.verify(folder, console.listener(quiet))
        ]
    else:
        checks = verification.verify(run_dir, console.listener(quiet))
    states = Counter(check.state for check in checks)
    if as_json:
        listed = [dataclasses.asdict(check) for check in checks]
        console.as_json({"run_dir": str(run_dir), "ok": not states["differs"], "checks": listed})
    else:
        for check in checks:
            console.line(check.state, check.file, f"{check.what}{f': {check.detail}' if check.detail else ''}")
        made = f"{states['agrees']} checks agree, {states['differs']} differ"
        console.line(f"{run_dir}: {made}, {states['not checked']} could not be made")
    raise typer.Exit(1 if states["differs"] else 0)
