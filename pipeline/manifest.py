"""The manifest: what an experiment was, with what it was done, and what came of it, with a hash of every file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..rerankers.backends import Backend
from ..rerankers.digests import file_digest
from ..rerankers.prompts.prompts import Prompt
from ..rerankers.ranker import Ranker
from . import contents
from .config import Config
from .retrieve import FirstStage

SEAL = "sha256"
"""The key under which a manifest holds the hash of all its other content."""


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
    return contents.digest(content)


def description(config: Config, prompts: Iterable[Prompt]) -> dict[str, Any]:
    """The experiment in the words of its config: resolved, with its prompts in full and its seeds."""
    sampled = {"queries": config.queries.seed} if config.queries.sample is not None else {}
    return {
        "config": portable(config.model_dump(mode="json", exclude_none=True)),
        "prompts": {
            prompt.name: {"digest": prompt.digest} | prompt.model_dump(mode="json", exclude_defaults=True)
            for prompt in prompts
        },
        "schedule": config.schedule,
        "seeds": {"experiment": config.seed} | sampled,
    }


def portable(value: Any) -> Any:
    """The same JSON value, absolute paths in it cut to their last name: the rest is this machine's, or a person's."""
    if isinstance(value, Mapping):
        return {key: portable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [portable(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file of a run."""
    return {name: file_digest(folder / name, remember=False) for name in names}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of its own content, by which `verify` sees that it was changed."""
    return {**content, SEAL: seal(content)}


def seal(content: Mapping[str, Any]) -> str:
    """The hash that belongs to a manifest of this content, whatever hash it holds."""
    return contents.digest({key: value for key, value in content.items() if key != SEAL})
