"""`r2llm list`: methods, prompts, backends, datasets, configs and keys."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from . import console, options

What = StrEnum("What", ["methods", "prompts", "backends", "models", "datasets", "configs", "keys"])


def list_(
    what: Annotated[What, typer.Argument(help="What to list; models are backends, keys those of a config.")],
    name: Annotated[
        str | None, typer.Argument(help="More about one: a method's or backend's keys, a prompt's or config's text.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List methods, prompts, backends, datasets, configs, or the keys of a config with type, default and meaning."""
    from ..pipeline import listing

    rows = listing.about(what.value, name) if name else listing.rows(what.value)
    if isinstance(rows, str):
        console.as_json({"name": name, "text": rows}) if as_json else console.block(rows.rstrip())
        return
    header = listing.KEYS if rows and len(rows[0]) == len(listing.KEYS) else ("name", "about")
    if as_json:
        console.as_json([dict(zip(header, row, strict=True)) for row in rows])
        return
    if what == What.configs and not name and sys.stdout.isatty():
        rows = listing.grouped(rows)
    console.table(name or what.value, header, rows)
