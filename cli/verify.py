"""`r2llm show`, `verify` and `doctor`: a run in full, whether it still is what its manifest says, and the machine."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from . import console, options, results

RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")]


def show(run_dir: RunDir, as_json: options.Json = False) -> None:
    """Show a run: what was run, with what, when, at what cost, and how it measured. `verify` checks it."""
    from ..pipeline.run import read as runs

    results.show_in_full(runs.read(run_dir), as_json=as_json)


def verify(run_dir: RunDir, as_json: options.Json = False, quiet: options.Quiet = False) -> None:
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
            console.line(check.state, check.file, f"{check.what}{f': {check.detail}' if check.detail else ''}")
        made = f"{states['agrees']} checks agree, {states['differs']} differ"
        console.line(f"{run_dir}: {made}, {states['not checked']} could not be made")
    raise typer.Exit(1 if states["differs"] else 0)


def doctor(as_json: options.Json = False) -> None:
    """Check Java, Lucene, GPU, packages, caches, disk and the hub; exit code 2 where one of them has a fault."""
    from ..pipeline import doctor as doctors

    done = []
    for check in doctors.checks():
        done.append(check)
        if not as_json:
            console.line(f"{check.status:5} {check.name}: {check.found}")
            if check.remedy:
                console.line(f"      remedy: {check.remedy}")
    healthy = all(check.status != "fault" for check in done)
    if as_json:
        console.as_json({"healthy": healthy, "checks": list(map(dataclasses.asdict, done))})
    if not healthy:
        raise typer.Exit(2)
