"""Marks on the fields of options: that a value may be a path, and that a key cannot change an answer.

prices: Annotated[str | None, PathMark("named file")] = Field(None, description="a file of prices")
batch_size: Speed[int] = Field(32, description="the most prompts a batch")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel

T = TypeVar("T")
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class PathMark:
    """A value that is a path where it leads to a thing of this kind: any other value, such as a hub id, is none.

    A named file is one whose name has an ending, so that no plain name means it; `any` is also what is not there yet.
    """

    kind: Literal["file", "folder", "named file", "file or folder", "any"]
    word: str | None = None  # a value that is no path, whatever files and folders are called

    def leads(self, path: Path) -> bool:
        """Return whether the path leads to a thing of this kind."""
        match self.kind:
            case "file":
                return path.is_file()
            case "folder":
                return path.is_dir()
            case "named file":
                return bool(path.suffix) and path.is_file()
            case "file or folder":
                return path.exists()
        return True


@dataclass(frozen=True, slots=True)
class SpeedMark:
    """A key that changes how fast and at what cost answers come, and not the answers."""


Speed = Annotated[T, SpeedMark()]


def marks(model: type[BaseModel], kind: type[M]) -> dict[str, M]:
    """Return the mark of this kind on each field that has one, by the field's key in a config."""
    marked = {}
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, kind):
                marked[field.alias or name] = mark
    return marked
