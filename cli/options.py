"""Options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from . import completion

Config = Annotated[
    str,
    typer.Option("--config", help="A YAML file, or the name of a shipped config.", autocompletion=completion.configs),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key: ranker.num_child=4. Repeatable."),
]
QueryLimit = Annotated[int | None, typer.Option("--queries", metavar="N", help="Only the first N queries.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="DIR", help="The run's folder, instead of runs/NAME-FINGERPRINT."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no notes.")]
