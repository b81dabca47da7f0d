"""`r2llm doctor`: check what this machine offers."""

import typer

from . import options


def doctor(as_json: options.Json = False) -> None:
    """Check Java, Lucene, GPU, packages, caches, disk and the hub; exit code 2 where one of them has a fault."""
    import dataclasses

    from ..pipeline import doctor as doctors
    from . import console

    done = []
    for check in doctors.checks():
        done.append(check)
        if not as_json:
            console.line(f"{check.status:5} {check.name}: {check.found}")
            if check.remedy:
                console.line(f"      remedy: {check.remedy}")
    healthy = all(check.status != "fault" for check in done)
    if as_json:
        console.as_json({"healthy": healthy, "checks": [dataclasses.asdict(check) for check in done]})
    if not healthy:
        raise typer.Exit(2)
