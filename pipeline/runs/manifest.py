"""The manifest: what an experiment was, with what it was done, and what came of it, with a hash of every file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rerankers.cascade import Stage
from ...rerankers.digests import file_digest
from ...rerankers.prompts.prompts import Prompt
from .. import contents
from ..config import Config
from ..fusion import Partner
from ..retrieve import FirstStage

SEAL = "sha256"
"""The key under which a manifest holds the hash of all its other content."""


def experiment(
    first_stage: FirstStage, cascade: Sequence[Stage], fused: Partner | None, seed: int
) -> dict[str, object]:
    """Everything that can change the ranking, and nothing else: `ranker` and `model`, or a cascade's `stages`."""
    stages = [{"ranker": stage.ranker.identity, "model": dict(stage.backend.identity)} for stage in cascade]
    ranked: dict[str, object] = {**stages[0]}
    if is_cascade(cascade):
        ranked = {"stages": [found | {"depth": stage.depth} for found, stage in zip(stages, cascade, strict=True)]}
    fusion = {"fuse": fused.identity} if fused else {}
    return {"first_stage": first_stage.identity, **ranked, **fusion, "seed": seed}


def is_cascade(stages: Sequence[Stage]) -> bool:
    """Whether the stages are more than one ranker of all candidates."""
    return len(stages) > 1 or stages[0].depth is not None


def stages(experiment: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The `ranker`, `model` and, in a cascade, `depth` of each stage of an experiment; none of a first stage alone."""
    found: list[Mapping[str, Any]] = experiment.get("stages", [experiment] if "ranker" in experiment else [])
    return found


def models(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a manifest says of the model of each stage; nothing where the run is not finished."""
    found: list[Mapping[str, Any]] = content.get("models", [content["model"]] if "model" in content else [])
    return found


def fingerprint(content: dict[str, object]) -> str:
    """The SHA-256 of an experiment's description: two runs of one fingerprint must give one ranking."""
    return contents.digest(content)


def description(config: Config, prompts: Iterable[Prompt]) -> dict[str, Any]:
    """The experiment in the words of its config: resolved, with its prompts in full and its seeds."""
    sampled = {"queries": config.queries.seed} if config.queries.sample is not None else {}
    return {
        "config": portable(config.model_dump(mode="json", exclude_none=True)),
        "prompts": _in_full(prompts),
        "schedule": config.schedule,
        "seeds": {"experiment": config.seed} | sampled,
    }


def _in_full(prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Prompts by name; of two that share one, as a shipped one and a changed copy may, the later has a hash in it."""
    found: dict[str, Any] = {}
    for prompt in prompts:
        content = {"digest": prompt.digest} | prompt.model_dump(mode="json", exclude_defaults=True)
        if found.setdefault(prompt.name, content)["digest"] != prompt.digest:
            found[f"{prompt.name} {prompt.digest[:8]}"] = content
    return found


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
