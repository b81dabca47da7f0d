"""`r2llm doctor`: whether this machine has what runs need."""

import dataclasses

import typer

from . import console, options


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
