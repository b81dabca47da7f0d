"""`r2llm list`: methods, prompts, backends, datasets, configs, systems, keys, and the cells of a grid."""

from enum import StrEnum
from typing import Annotated

import typer

from ..rerankers.errors import InputError
from . import console, options

What = StrEnum("What", ["methods", "prompts", "backends", "models", "datasets", "configs", "systems", "keys", "cells"])


def list_(
    what: Annotated[What, typer.Argument(help="What to list; models are backends, keys those of a config.")],
    name: Annotated[
        str | None,
        typer.Argument(help="More about one: a method's or backend's keys, a prompt's, config's or system's text."),
    ] = None,
    config: Annotated[str | None, options.config("cells: a grid, such as grids/setwise-paper.")] = None,
    only: options.Only = None,
    as_json: options.Json = False,
) -> None:
    """List methods, prompts, backends, datasets, configs, published systems, keys of a config, or cells of a grid."""
    from ..pipeline.configs import grid, listing

    if (what == What.cells) != bool(config) or (only and not config):
        raise InputError("`r2llm list cells` takes --config GRID, and no other list does; `list configs` has the grids")
    if config:
        cells = grid.read(config).only(only or ()).cells
        if as_json:
            console.as_json([{"name": cell.name, "settings": cell.settings} for cell in cells])
        else:
            console.block("\n".join(cell.name for cell in cells))
        return
    rows = listing.about(what.value, name) if name else listing.rows(what.value)
    if isinstance(rows, str):
        console.as_json({"name": name, "text": rows}) if as_json else console.block(rows.rstrip())
        return
    headers = (listing.KEYS, listing.SYSTEMS, ("name", "about"))
    header = next(header for header in headers if not rows or len(header) == len(rows[0]))
    if as_json:
        console.as_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    console.table(name or what.value, header, rows)
