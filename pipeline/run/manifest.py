"""The manifest: what an experiment was, with what it was done, and what came of it, with a hash of every file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...rerankers.cascade import Stage
from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ...rerankers.prompts.template import Prompt
from ..configs.load import Config
from ..io.files import reason
from . import contents

NAME = "manifest.json"

SEAL = "sha256"
"""The key under which a manifest holds the hash of all its other content."""

FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^/\s:;,]+/)+")
"""The folders of an absolute path in a text."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Execution(_Part):
    status: str
    started: str
    ended: str | None
    calls: int | None
    answers_before: int = 0
    seconds: float | None = None


class _Ranker(_Part):
    method: str
    params: dict[str, Any]
    scoring: str
    options: dict[str, Any]


class _Stage(_Part):
    ranker: _Ranker
    model: dict[str, Any]
    depth: int | None = None


class _Experiment(_Part):
    first_stage: dict[str, Any] = {}
    ranker: _Ranker | None = None
    stages: list[_Stage] = []
    fuse: dict[str, Any] = {}


class _Prompt(_Part):
    digest: str
    source: str = ""


class _Shard(_Part):
    number: int
    of: int


class _Ledger(_Part):
    content: str
    answers: int


class _Merged(_Part):
    shards: list[_Shard] = []
    differing_answers: int = 0


class _Unread(_Part):
    answers: int
    example: str


class _Manifest(_Part):
    """The types of what is read of a manifest; it may lack what an earlier version or an unfinished run has not."""

    name: str
    fingerprint: str
    status: Literal["running", "finished"]
    schedule: str = "throughput"
    simulated: bool = False
    experiment: _Experiment
    environment: dict[str, Any]
    config: dict[str, Any]
    prompts: dict[str, _Prompt] = {}
    seeds: dict[str, Any] = {}
    data: dict[str, str | None] = {}
    executions: list[_Execution] = []
    shard: _Shard = _Shard(number=1, of=1)
    merged: _Merged = _Merged()
    shared_ledger: dict[str, int] = {}
    ledger: _Ledger | None = None
    files: dict[str, str] = {}
    model: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    queries: int = 0
    wall_seconds: float | None = None
    unparsed: int = 0
    unparsed_by_kind: dict[str, int] = {}
    answer_forms: dict[str, int] = {}
    unread: dict[str, _Unread] = {}
    equal_scores: int = 0
    notes: list[str] = []
    warnings: list[str] = []


def read(path: Path) -> dict[str, Any]:
    """The manifest in a file; `files` is there even where it lists none. Raises `InputError` for one that is none."""
    try:
        content = json.loads(path.read_bytes())
        _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([".".join(map(str, first["loc"])) or "content", first["msg"]])
        raise InputError(
            f"{path}: is no manifest of a run, or damaged: {what}; restore it, or use another folder"
        ) from (error)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}; restore it, or use another folder") from error
    return {"files": {}, **content}


def experiment(
    first_stage: Mapping[str, object], cascade: Sequence[Stage], fused: Mapping[str, object] | None, seed: int
) -> dict[str, object]:
    """Everything that can change the ranking, and nothing else: `ranker` and `model`, or a cascade's `stages`."""
    stages = [{"ranker": stage.ranker.identity, "model": dict(stage.backend.identity)} for stage in cascade]
    ranked: dict[str, object] = {**stages[0]}
    if is_cascade(cascade):
        ranked = {"stages": [found | {"depth": stage.depth} for found, stage in zip(stages, cascade, strict=True)]}
    fusion = {"fuse": fused} if fused else {}
    return {"first_stage": first_stage, **ranked, **fusion, "seed": seed}


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


def without_folders(text: str) -> str:
    """A note with absolute paths in it cut to their last name."""
    return FOLDERS.sub("", text)


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each file of a run."""
    return {name: file_digest(folder / name, remember=False) for name in names}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the hash of its own content, by which `verify` sees that it was changed."""
    return {**content, SEAL: seal(content)}


def seal(content: Mapping[str, Any]) -> str:
    """The hash that belongs to a manifest of this content, whatever hash it holds."""
    return contents.digest({key: value for key, value in content.items() if key != SEAL})


def intact(path: Path) -> dict[str, Any]:
    """The manifest of a finished run. Raises `InputError` where any byte of it was changed."""
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read: {reason(error)}") from error
    # The seal is over the values; other white space and other spellings of them are found by writing it again.
    if not isinstance(content, dict) or json_text(content) != text:
        raise InputError("is not as r2llm writes it")
    if SEAL not in content:
        raise InputError(f"has no {SEAL} of its own content")
    if content[SEAL] != (found := seal(content)):
        raise InputError(f"was changed: its {SEAL} is {content[SEAL]}, its content's {found}")
    if content["status"] != "finished":
        raise InputError("tells of a run that is not finished; run r2llm rerank again, and it goes on")
    return content


def json_text(content: Mapping[str, Any]) -> str:
    """A JSON file's text: the one way in which those of a run are written."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
