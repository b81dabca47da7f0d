"""Marks on the fields of options: that a value may be a path, and that a key cannot change an answer.

prices: Annotated[str | None, PathMark("named file")] = Field(None, description="a file of prices")
batch_size: Speed[int] = Field(32, description="the most prompts a batch")
"""

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
        if self.kind == "any":
            return True
        there = {"folder": path.is_dir, "file or folder": path.exists}.get(self.kind, path.is_file)()
        return there and (self.kind != "named file" or bool(path.suffix))


@dataclass(frozen=True, slots=True)
class SpeedMark:
    """A key that changes how fast and at what cost answers come, and not the answers."""


Speed = Annotated[T, SpeedMark()]


def marks(model: type[BaseModel], kind: type[M]) -> dict[str, M]:
    """Return the mark of this kind on each field that has one, by the field's key in a config."""
    fields = model.model_fields.items()
    return {field.alias or name: mark for name, field in fields for mark in field.metadata if isinstance(mark, kind)}
