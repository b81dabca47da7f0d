"""Shards: equal parts of an experiment's queries, each ranked by its own process, and their folders."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from ...rerankers.errors import InputError

_Value = TypeVar("_Value")

FOLDERS = "shard-*-of-*"
"""The names of the folders of shards, in the folder of their run."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `of` parts: every `of`-th query, from the `number`-th on, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard written `3/16`. Raises `InputError` for any other form."""
        numbers = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if not numbers:
            raise InputError(f"--shard {text}: expected NUMBER/COUNT, such as 3/16 for the third of sixteen")
        shard = cls(int(numbers[1]), int(numbers[2]))
        if not 1 <= shard.number <= shard.of:
            raise InputError(f"--shard {text}: shards are counted from 1 to their number: 1/16, 2/16, … 16/16")
        return shard

    @property
    def folder(self) -> str:
        """The name of its folder; names sort as numbers do."""
        return f"shard-{self.number:0{len(str(self.of))}}-of-{self.of}"

    def part(self, queries: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return its part of the experiment's queries, in their order."""
        return dict(islice(queries.items(), self.number - 1, None, self.of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def folders(run_dir: Path) -> list[Path]:
    """Return the folders of shards in a run's folder, whatever they hold."""
    return sorted(path for path in run_dir.glob(FOLDERS) if path.is_dir())
