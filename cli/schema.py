"""`r2llm schema`: the JSON Schema of the YAML files."""


def schema() -> None:
    """Print the JSON Schema by which editors complete and check a config; it ships as configs/schema.json."""
    from ..pipeline.configs import json_schema as schemas
    from . import console

    console.block(schemas.text().rstrip("\n"))
