"""`r2llm list`: what there is to choose from."""

from enum import StrEnum
from typing import Annotated

import typer

from . import options


class What(StrEnum):
    """What can be listed."""

    methods = "methods"
    prompts = "prompts"
    models = "models"
    datasets = "datasets"
    configs = "configs"


def list_(
    what: Annotated[What, typer.Argument(help="What to list.")],
    as_json: options.Json = False,
) -> None:
    """List methods, prompts, models (backends), datasets or configs."""
    from ..pipeline import listing
    from . import console

    rows = listing.rows(what.value)
    if as_json:
        console.as_json([{"name": name, "about": about} for name, about in rows])
        return
    console.table(what.value, ["name", "about"], rows)
