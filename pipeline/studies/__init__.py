"""Studies of rankers and their answers: abstention, a model as judge, attacks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..io.files import replacing
from ..run.manifest import json_text


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a study's JSON file. Raises `InputError` if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as stream:
        stream.write(json_text(content))
