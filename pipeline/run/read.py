"""A run that is there, read back for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ..io.files import reason
from . import costs, manifest
from .costs import Summary

METRICS = "metrics.json"


class _Values(BaseModel):
    all: dict[str, float]
    per_query: dict[str, dict[str, float]]


class _Efficiency(BaseModel):
    qpp: float
    rpp: dict[str, dict[str, float]]


class _Metrics(_Values):
    first_stage: _Values | None = None
    reranked: _Values | None = None
    efficiency: _Efficiency | None = None


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
    if not (path / manifest.NAME).is_file():
        raise InputError(f"{path}: no run's folder: there is no {manifest.NAME} in it; r2llm rerank makes one")
    spent = path / "costs.jsonl"
    ranked = spent.is_file()
    return Record(
        path=path,
        manifest=manifest.read(path / manifest.NAME),
        metrics=metrics(path / METRICS),
        costs=costs.summary(costs.read(spent)) if ranked else {},
        stages=costs.stage_summaries(spent) if ranked else (),
    )


@contextmanager
def shown(path: Path) -> Iterator[None]:
    """Raise `InputError` where a run's manifest or metrics cannot be shown because they were changed."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        content = manifest.read(path / manifest.NAME)
        hashed = content.get("files", {}).get(METRICS)
        if content.get(manifest.SEAL) == manifest.seal(content) and (
            hashed is None or hashed == file_digest(path / METRICS, remember=False)
        ):
            raise
        found = f"{manifest.NAME} or {METRICS} is not as it was written ({type(error).__name__}: {error})"
        raise InputError(f"{path}: {found}; r2llm verify says more") from error


def metrics(path: Path) -> Mapping[str, Any]:
    """What a run's `metrics.json` holds; empty where there is none. Raises `InputError` where it is malformed."""
    if not path.is_file():
        return {}
    try:
        content: Mapping[str, Any] = json.loads(path.read_bytes())
        _Metrics.model_validate(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}; remove it and run again to measure anew") from error
    return content
