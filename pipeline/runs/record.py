"""A run that is there, read back for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ..files import reason
from . import costs
from .costs import Summary


@dataclass(frozen=True)
class Record:
    """What a run's folder says, taken at its word: `verification` is there to check it."""

    path: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    """The content of `metrics.json`; empty where there is none."""
    costs: Summary
    """Empty where nothing was reranked yet."""
    stages: Sequence[Summary] = ()
    """Those of each stage of a cascade."""

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.manifest.get("status") == "finished")


def read(path: Path) -> Record:
    """The record of a run. Raises `InputError` where `path` is no run's folder, or a file of it cannot be read."""
    manifest = _json(path / "manifest.json")
    if manifest is None:
        raise InputError(f"{path}: no run's folder: there is no manifest.json in it; r2llm rerank makes one")
    spent = path / "costs.jsonl"
    ranked = spent.is_file()
    return Record(
        path=path,
        manifest=manifest,
        metrics=_json(path / "metrics.json") or {},
        costs=costs.summary(costs.read(spent)) if ranked else {},
        stages=costs.stage_summaries(spent) if ranked else (),
    )


def _json(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}; r2llm verify tells what else is damaged") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; r2llm verify tells what else is damaged")
    return found
