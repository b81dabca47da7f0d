"""`r2llm schema`: the JSON Schema of a config."""

from . import console


def schema() -> None:
    """Print the JSON Schema by which editors complete and check a config; it ships as configs/schema.json."""
    from ..pipeline.configs import json_schema as schemas

    console.block(schemas.text().rstrip("\n"))
