"""The manifest: the experiment, the environment, the results, and a hash of every file."""

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ...rerankers.accounting import Tally
from ...rerankers.cascade import Stage
from ...rerankers.errors import InputError
from ...rerankers.prompts.template import Prompt
from ...rerankers.types import plus
from ..configs.load import Config
from ..io.files import reason
from . import contents
from .shards import Shard

NAME = "manifest.json"

VERSION = 2
"""The version of the manifest's form; before 2 it was not recorded."""

SEAL = "sha256"
"""The key under which a manifest holds the hash of all its other content."""

FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^/\s:;,]+/)+")
"""The folders of an absolute path in a text."""


MODEL_NAME = ("name", "gguf", "answers")
"""The keys of a `model` section, of which the first that is given is the model's name."""


UNREAD = 0.05
"""The share of unread answers above which a run is warned of."""

EXAMPLE = 80
"""The characters of an example."""

HINTS = {
    "empty": "the model wrote nothing that counts: raise ranker.max_new_tokens, or switch its thinking off",
    "unfinished_thought": "the answer ended inside a thought: raise ranker.max_new_tokens, or switch thinking off",
    "refused": "the model or its provider declined: see the example",
}
"""Remedies by the form of an unread answer."""


class _Part(BaseModel):
    """A part of a manifest: typed where it is read, open to fields of other versions, which may lack some of these."""

    model_config = ConfigDict(extra="allow", validate_assignment=True)


class _Ranker(_Part):
    method: str
    params: dict[str, Any]
    prompts: list[str] = []
    scoring: str
    options: dict[str, Any]


class StageIdentity(_Part):
    """A stage of the experiment; its depth only in a cascade."""

    ranker: _Ranker
    model: dict[str, Any]
    depth: int | None = None


class _Experiment(_Part):
    first_stage: dict[str, Any] = {}
    ranker: _Ranker | None = None
    model: dict[str, Any] = {}
    stages: list[StageIdentity] = []
    fuse: dict[str, Any] = {}


class Settings(_Part):
    """The config, resolved."""

    dataset: str | dict[str, Any] = ""
    first_stage: dict[str, Any] = {}
    queries: dict[str, Any] = {}
    model: dict[str, Any] | None = None
    stages: list[dict[str, Any]] | None = None
    evaluate: dict[str, Any] = {}
    max_unparsed: float | None = None


class Hardware(_Part):
    """Processor, memory (bytes) and GPUs."""

    cpu: str | None = None
    architecture: str | None = None
    cores: int | None = None
    memory: int | None = None
    gpus: list[dict[str, str]] = []


class Environment(_Part):
    """Python, packages, machine and checkout."""

    python: str = ""
    packages: dict[str, str] = {}
    hardware: Hardware = Hardware()
    git: dict[str, Any] | None = None


class _Prompt(_Part):
    digest: str
    source: str = ""


class LedgerContent(_Part):
    """The ledger's content hash, which does not depend on how SQLite lays it out, and its number of answers."""

    content: str
    answers: int


class Merged(_Part):
    """The shards that a run was merged from."""

    shards: list[dict[str, Any]] = []
    differing_answers: int = 0


class _Unread(_Part):
    answers: int
    example: str


class Execution(_Part):
    """One execution of a run, which was killed and run again if it has several; its times in UTC.

    One that was cut off ended with the last answer it wrote to the ledger, and took the whole seconds until then; its
    calls are the answers that it left there, None if it had a shared ledger, whose answers lie there too.
    """

    status: str
    """`running`, `finished` or `interrupted`."""

    started: str
    ended: str | None = None
    calls: int | None = None
    answers_before: int = 0
    """The answers in the ledger when it began."""

    shared_ledger: bool = False
    seconds: float | None = None
    """The seconds of ranking."""

    joules: dict[str, float | None] = {}
    """The energy of ranking by device, None if not measurable; empty if nothing tracked it."""

    @classmethod
    def begin(cls, answers: int = 0, *, shared: bool = False) -> Self:
        """Return the execution that begins now."""
        sharing = {"shared_ledger": True} if shared else {}
        return cls(status="running", started=now(), ended=None, calls=None, answers_before=answers, **sharing)

    def finish(self, calls: int, seconds: float | None = None, joules: dict[str, float | None] | None = None) -> None:
        """Note that it is done, the model's answers in it, and the seconds and joules of ranking."""
        self.status, self.ended, self.calls, self.seconds = "finished", now(), calls, seconds
        if joules:
            self.joules = joules

    def closed(self, answers: int, last_answer: str | None) -> Self:
        """Return what is known of an earlier execution: one still `running` was cut off, for the lock is ours."""
        if self.status != "running":
            return self
        added = answers - self.answers_before
        ended, seconds = last_answer if added else None, None
        if ended:
            began, end = map(datetime.datetime.fromisoformat, (self.started, ended))
            seconds = max((end - began).total_seconds(), 0.0)
        calls = None if self.shared_ledger else added
        return self.model_copy(update={"status": "interrupted", "calls": calls, "ended": ended, "seconds": seconds})


class Manifest(_Part):
    """The description of a run in its folder. Fields that are not known yet are left out of the file.

    `data` are the hashes of queries, judgements and candidates, `files` those of the files; `queries` are those with
    candidates, and `equal_scores` those whose documents all have one score. `wall_seconds` are those of ranking, all
    queries together, in all executions, or None if one is unknown. A cascade has `models`, another run `model`.
    """

    version: int = 1
    name: str
    fingerprint: str
    simulated: bool = False
    shard: Shard | None = None
    experiment: _Experiment
    environment: Environment
    config: Settings
    prompts: dict[str, _Prompt] = {}
    schedule: Literal["throughput", "latency"] = "throughput"
    seeds: dict[str, Any] = {}
    data: dict[str, str | None] = {}
    queries: int = 0
    status: Literal["running", "finished"]
    started: str | None = None
    finished: str | None = None
    executions: list[Execution] = []
    wall_seconds: float | None = None
    shared_ledger: dict[str, int] = {}
    unparsed: int = 0
    unparsed_by_kind: dict[str, int] = {}
    answer_forms: dict[str, int] = {}
    unread: dict[str, _Unread] = {}
    equal_scores: int = 0
    model: dict[str, Any] = {}
    models: list[dict[str, Any]] = []
    ledger: LedgerContent | None = None
    merged: Merged | None = None
    notes: list[str] = []
    warnings: list[str] = []
    files: dict[str, str] = {}

    @property
    def content(self) -> dict[str, Any]:
        """Return the JSON object in the file."""
        return self.model_dump(mode="json", exclude_unset=True)

    @property
    def stages(self) -> list[StageIdentity]:
        """Return the stages of reranking; none for a first stage alone."""
        one = self.experiment
        return one.stages or ([StageIdentity(ranker=one.ranker, model=one.model)] if one.ranker else [])

    @property
    def run_file(self) -> str:
        """Return the name of the last order's run file."""
        return "run.trec" if self.stages else "first_stage.trec"

    @property
    def stage_models(self) -> list[dict[str, Any]]:
        """Return the details of each stage's model; none for an unfinished run."""
        return self.models or ([self.model] if self.model else [])

    def doubts(self, asks: int) -> list[str]:
        """Return what is doubtful about so many asks, a sentence each: answers unread, documents not told apart."""
        doubts = []
        if self.unparsed > UNREAD * asks:
            form, commonest = next(iter(self.unread.items()))
            hint = HINTS.get(form.partition(": ")[2])
            doubts.append(
                f"{self.unparsed:,} of {asks:,} answers ({self.unparsed / asks:.0%}) could not be read, so the "
                f"measures say little about the model; most often {form} ({commonest.answers:,}), for example "
                f"{commonest.example!r}" + (f"; {hint}" if hint else "")
            )
        if self.equal_scores:
            doubts.append(
                f"all documents of a query got one and the same score in {self.equal_scores:,} of {self.queries:,} "
                "queries and kept their order: check prompt, labels and chat template with r2llm prompt and r2llm "
                "inspect"
            )
        return doubts

    @property
    def first_stage(self) -> dict[str, Any]:
        """Return the identity of the first stage: the whole experiment if nothing was reranked."""
        return self.experiment.first_stage or self.experiment.model_dump(exclude_unset=True)


def read(path: Path) -> Manifest:
    """Return the manifest in a file. Raises `InputError` if it is none."""
    try:
        return Manifest.model_validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError) as error:
        what = "is no manifest of a run, or damaged" if isinstance(error, ValidationError) else "cannot be read"
        remedy = "r2llm verify says more; restore it, or use another folder"
        raise InputError(f"{path}: {what}: {reason(error)}; {remedy}") from error


def intact(path: Path) -> Manifest:
    """Return the manifest of a finished run. Raises `InputError` if any byte of it was changed."""
    try:
        text = path.read_bytes().decode()
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read: {reason(error)}") from error
    # The seal is over the values; other white space and other spellings of them are found by writing it again.
    if not isinstance(content, dict) or json_text(content) != text:
        raise InputError("is not as r2llm writes it")
    if content.get(SEAL) != (expected := sealed(content)[SEAL]):
        raise InputError(f"was changed: its {SEAL} is {content.get(SEAL)}, its content's {expected}")
    if content["status"] != "finished":
        raise InputError("tells of a run that is not finished; run r2llm rerank again, and it goes on")
    return read(path)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's content with the hash of all else in it, by which a change shows."""
    return {**content, SEAL: contents.digest({key: value for key, value in content.items() if key != SEAL})}


def unread(tally: Tally) -> dict[str, Any]:
    """Return the number of unread answers by reason, the commonest first, each with an example."""
    return {
        form: {"answers": count, "example": tally.examples[form][:EXAMPLE]}
        for form, count in sorted(tally.unread.items(), key=lambda item: (-item[1], item[0]))
    }


def json_text(content: Mapping[str, Any]) -> str:
    """Return a JSON file's text: the one way in which those of a run are written."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def experiment(
    first_stage: Mapping[str, object], cascade: Sequence[Stage], fused: Mapping[str, object] | None, seed: int
) -> dict[str, object]:
    """Return everything that can change the ranking: `ranker` and `model`, or a cascade's `stages`."""
    stages = [{"ranker": stage.ranker.identity, "model": dict(stage.backend.identity)} for stage in cascade]
    ranked: dict[str, object] = {**stages[0]}
    if is_cascade(cascade):
        ranked = {"stages": [one | {"depth": stage.depth} for one, stage in zip(stages, cascade, strict=True)]}
    return {"first_stage": first_stage, **ranked, **({"fuse": fused} if fused else {}), "seed": seed}


def is_cascade(stages: Sequence[Stage]) -> bool:
    """Return whether the stages are more than one ranker of all candidates."""
    return len(stages) > 1 or stages[0].depth is not None


def description(config: Config, prompts: Iterable[Prompt]) -> dict[str, Any]:
    """Return the experiment in the words of its config: resolved, with its prompts in full and its seeds."""
    sampled = {"queries": config.queries.seed} if config.queries.sample is not None else {}
    named: dict[str, Any] = {}
    for prompt in prompts:
        content = {"digest": prompt.digest} | prompt.model_dump(mode="json", exclude_defaults=True)
        # Of two that share a name, as a shipped one and a changed copy may, the later has a hash in it.
        if named.setdefault(prompt.name, content)["digest"] != prompt.digest:
            named[f"{prompt.name} {prompt.digest[:8]}"] = content
    return {
        "config": portable(config.model_dump(mode="json", exclude_none=True)),
        "prompts": named,
        "schedule": config.schedule,
        "seeds": {"experiment": config.seed} | sampled,
    }


def model_name(model: Mapping[str, Any]) -> str | None:
    """Return the name in a `model` section, if it has any: the model's, its file's, or whose answers are simulated."""
    return next((str(model[key]) for key in MODEL_NAME if model.get(key)), None)


def portable(value: Any) -> Any:
    """Return the JSON value with absolute paths cut to their last name: the rest is this machine's, or a person's."""
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def without_folders(text: str) -> str:
    """Return a note with absolute paths in it cut to their last name."""
    return FOLDERS.sub("", text)


def seconds(executions: Iterable[Execution]) -> float | None:
    """Return the seconds of ranking in all executions that asked anything, else in the last; None if unknown."""
    return reduce(plus, [execution.seconds for execution in _asking(executions)])


def joules(executions: Iterable[Execution]) -> dict[str, float | None]:
    """Return the energy of the same executions by device, None if unknown of one; {} if it was tracked in none."""
    asking = _asking(executions)
    devices = dict.fromkeys(device for execution in asking for device in execution.joules)
    return {device: reduce(plus, [execution.joules.get(device) for execution in asking]) for device in devices}


def _asking(executions: Iterable[Execution]) -> list[Execution]:
    *earlier, last = executions
    return [execution for execution in (*earlier, last) if execution.calls != 0] or [last]


def now() -> str:
    """Return the time in UTC, to the second."""
    return _written(datetime.datetime.now(datetime.UTC))


def last_change(ledger: Path) -> str | None:
    """Return the last time a closed ledger was written to, its write-ahead log included; None if there is none."""
    files = [path for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()]
    times = [path.stat().st_mtime for path in files]
    return _written(datetime.datetime.fromtimestamp(max(times), datetime.UTC)) if times else None


def _written(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")
