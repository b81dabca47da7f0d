"""Checks of a run: what its folder says beside what comes out of its files, config, data, models and ledger now."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from ..rerankers.accounting import total
from ..rerankers.backends.base import Setting
from ..rerankers.backends.replay import Recorded
from ..rerankers.cascade import Cascade, Ranked
from ..rerankers.errors import InputError, R2llmError
from ..rerankers.hashing import file_digest
from ..rerankers.ledger import Ledger
from ..rerankers.models import KeptModels
from . import experiment
from .configs import load as configs
from .configs.load import Loaded
from .datasets import Dataset
from .datasets.local import TextStore
from .first_stage.retrieve import chosen_queries, open_dataset, without_qrels
from .io.files import json_lines, lines
from .io.progress import Listener
from .run import contents, costs, ledgers, manifest, runfile
from .run import read as record
from .run.folder import LEDGER
from .run.fusion import RERANKED
from .run.manifest import NAME as MANIFEST
from .run.manifest import Manifest
from .run.plan import Plan, open_models, stages
from .run.read import METRICS, RunMeasures

NEGLIGIBLE = 1e-9
"""Difference of two figures that is none: another machine may add in another order."""

SHOWN = 5
"""Differences of one kind that are spelt out."""

KEPT = ("cached", "seconds", "flops", "usd")
"""Costs of asking, which ranking again does not tell anew."""

FIRST, LAST, COSTS = "first_stage.trec", "run.trec", "costs.jsonl"

AGAIN = "ranked again from the ledger"

Tree = Callable[[], object]
"""A function that returns a JSON tree."""

_hash = partial(file_digest, remember=False)


@dataclass(frozen=True)
class Check:
    """A fact about a file, whether it agrees with the record, and what differs or why it could not be checked."""

    file: str
    what: str
    state: Literal["agrees", "differs", "not checked"]
    detail: str = ""


def verify(path: Path, listener: Listener, *, alone: bool = False) -> list[Check]:
    """Check a run's folder against its manifest, and against dataset, models and ledger if these can be read.

    With `alone` nothing outside the folder is read. Without an intact manifest of a finished run that is the only
    check. Raises `InputError` if `path` is no run's folder.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path}: no run's folder: there is no {MANIFEST} in it; r2llm rerank makes one")
    try:
        run = _Run(path, manifest.intact(path / MANIFEST))
    except InputError as error:
        return [Check(MANIFEST, "content", "differs", f"{error}; nothing else can be judged by it")]
    facts, checks = [*_facts(run, alone=alone)], [Check(MANIFEST, "content", "agrees")]
    with listener.task("verifying", len(facts)) as advance:
        for number, fact in enumerate(facts, 1):
            checks.append(_check(path, *fact))
            advance(number, f"{fact[0]} {fact[1]}")
    return checks


def _check(folder: Path, file: str, what: str, said: object, told: Tree) -> Check:
    """Compare two trees; they cannot be if an `InputError` blames anything but the file itself."""
    try:
        differences = list(compared(said() if callable(said) else said, told()))
    except R2llmError as error:
        if isinstance(error, InputError) and str(folder / file) not in str(error):
            return Check(file, what, "not checked", str(error))
        differences = [str(error)]
    if len(differences) > SHOWN:
        differences[SHOWN:] = [f"and {len(differences) - SHOWN} more"]
    return Check(file, what, "differs" if differences else "agrees", "; ".join(differences))


def compared(recorded: object, recomputed: object, where: str = "") -> Iterator[str]:
    """Yield the differences of two JSON trees, each with its keys."""
    if isinstance(recorded, Mapping) and isinstance(recomputed, Mapping):
        for key in dict.fromkeys([*recorded, *recomputed]):
            yield from compared(recorded.get(key), recomputed.get(key), f"{where} {key}".strip())
    elif isinstance(recorded, list) and isinstance(recomputed, list) and len(recorded) == len(recomputed):
        for number, pair in enumerate(zip(recorded, recomputed, strict=True), 1):
            yield from compared(*pair, f"{where} {number}")
    elif isinstance(recorded, float) and isinstance(recomputed, float):
        if not math.isclose(recorded, recomputed, rel_tol=NEGLIGIBLE, abs_tol=NEGLIGIBLE):
            yield f"{where}: {recorded} is recorded, {recomputed} was found"
    elif recorded != recomputed:
        yield f"{where + ': ' if where else ''}{recorded} is recorded, {recomputed} was found"


def _facts(run: "_Run", *, alone: bool) -> Iterator[tuple[str, str, object, Tree]]:
    """Yield each fact's file and name, the fact as recorded, and the function that tells it anew.

    The facts that the folder alone can tell come first, then those that the world around it tells too.
    """
    about, path, ranked = run.manifest, run.path, LAST in run.manifest.files
    for name, digest in about.files.items():
        yield name, "sha256", digest, partial(_hash, path / name)
    yield MANIFEST, "fingerprint", about.fingerprint, partial(contents.digest, about.content["experiment"])
    if FIRST in about.files:  # else a shard whose queries have no candidates
        yield FIRST, "scores, ranks and tag", partial(_lines, path / FIRST), partial(run.written, FIRST)
    if ranked:
        yield LEDGER, "integrity", [], partial(ledgers.faults, path / LEDGER)
        yield LEDGER, "content", about.content["ledger"], lambda: experiment.ledger_content(path / LEDGER).model_dump()
    if alone:
        return
    said = {"name": about.name, **about.content["experiment"]}
    yield "config.yaml", "fingerprint", said, lambda: {"name": run.loaded.config.name, **run.plan.content}
    data = {key: about.first_stage[key] for key in ("dataset", "queries")}
    yield "dataset", "documents and queries", data, run.data
    yield "dataset", "qrels", about.data["qrels"], lambda: contents.qrels(run.dataset.qrels())
    if given := about.first_stage["source"].get("run"):
        yield "first_stage.run", "sha256", given, lambda: _hash(Path(run.loaded.config.first_stage.run or ""))
    if "candidates" in about.data:  # else a shard without any, or an earlier version's run
        yield "dataset", "texts of the candidates", about.data["candidates"], lambda: run.candidates
    for name in (LAST, RERANKED):
        if name in about.files:
            yield name, AGAIN, partial(_lines, path / name), partial(run.written, name)
    if ranked:
        yield COSTS, AGAIN, partial(_rows, path / COSTS), run.costs_again
        yield MANIFEST, "unparsed answers", about.unparsed, lambda: sum(o.cost.unparsed for o in run.again.values())
    if METRICS in about.files:
        yield METRICS, "measures", lambda: _content(record.measures(path / METRICS)), run.measured
    for number, model in enumerate(about.stage_models):
        name = "model" if len(about.stage_models) == 1 else f"model of stage {number + 1}"
        if "files" in model:
            yield name, "sha256 of its files", model["files"], partial(run.model_files, number)
        if "answers" in model:
            answers = model.get("content") or about.stages[number].model["answers"]
            yield name, "recorded answers", answers, partial(run.recorded_answers, number)


@dataclass
class _Run:
    """A run's folder, and what comes out of it and of the world around it now."""

    path: Path
    manifest: Manifest

    @cached_property
    def loaded(self) -> Loaded:
        return configs.of_run(self.path)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.loaded, lambda: _IndexedTexts("a Lucene index"))

    @cached_property
    def plan(self) -> Plan:
        """The experiment in the config's words, as if its first stage and its models were those of the run."""
        hits = runfile.read(self.path / FIRST)[0] if FIRST in self.manifest.files else {}
        models = map(Recorded, (stage.model for stage in self.manifest.stages))
        return experiment.recorded(self.loaded, self.dataset, self.manifest, hits, models, Listener())

    @cached_property
    def candidates(self) -> str:
        """The hash of the candidates, or what the dataset lacks of them."""
        first_stage, sha256 = self.plan.first_stage, hashlib.sha256()
        if not first_stage.docs.at_hand:
            raise InputError("the documents are not on this machine, or in a Lucene index, which verify does not open")
        absent = first_stage.docs.missing(doc for hits in first_stage.run.values() for doc, _ in hits)
        for kind, names in (("documents", absent), ("queries", first_stage.run.keys() - first_stage.queries.keys())):
            if names:
                return f"no text of {kind} {', '.join(sorted(names)[:SHOWN])}"
        deque(contents.hashed(first_stage, sha256), maxlen=0)
        return sha256.hexdigest()

    @cached_property
    def again(self) -> dict[str, Ranked]:
        """The rankings that the ledger's answers give, or recorded texts, of which no ledger is kept.

        Raises `InputError` if they are answers to other questions, and `R2llmError` if some are missing.
        """
        asked, loaded = self.plan.stages, self.loaded
        if not all(options.remembers for options in loaded.models):
            asked = stages(loaded, open_models(loaded, Setting(loaded.config.seed, weights=False), KeptModels()))
        same_models = [dict(stage.backend.identity) for stage in asked] == [one.model for one in self.manifest.stages]
        if not same_models or self.candidates != self.manifest.data.get("candidates", self.candidates):
            raise InputError("the candidates or the models are not those of the run")
        try:
            with closing(Ledger(self.path / LEDGER, read_only=True)) as ledger:
                ranked = {one.cost.query_id: one for one in Cascade(asked, ledger).rank(self.plan.first_stage)}
        except R2llmError as error:
            raise R2llmError(f"its answers lead to no ranking: {error}") from error
        return {query: ranked[query] for query in self.plan.first_stage.run}

    def data(self) -> dict[str, object]:
        """Return what the dataset holds."""
        queries = chosen_queries(self.dataset.queries(), self.loaded.config.queries)
        return {"dataset": without_qrels(self.dataset.identity()), "queries": contents.queries(queries)}

    def written(self, name: str) -> dict[str, str]:
        """Return the lines that r2llm writes: of a first stage those of its order, else those of the ledger's."""
        if name == FIRST:
            run: Iterable[runfile.Hits] = runfile.strict(runfile.read(self.path / FIRST)[0])
        else:
            final, unfused = self.plan.orders({query: one.ranking for query, one in self.again.items()})
            run = runfile.descending(final) if name == LAST else (unfused or {}).items()
        return {f"line {number}": line for number, line in enumerate(runfile.lines(run, self.manifest.name), 1)}

    def costs_again(self) -> dict[str, object]:
        """Return the rows of ranking again, with the recorded costs of asking."""
        rows, methods = dict[str, object](), [stage.ranker.method.name for stage in self.plan.stages]
        spent = costs.read(self.path / COSTS)
        for number, (query, one) in enumerate(self.again.items(), 1):
            stages = [
                replace(new, calls=new.asks - old.cached, **{name: getattr(old, name) for name in KEPT})
                for new, old in zip(one.costs, spent.get(query, one.costs), strict=False)
            ]
            rows[f"query {query}"] = {"line": number, **costs.row(stages, methods)}
        return rows

    def measured(self) -> Mapping[str, object]:
        """Return the measures of the run files."""
        if self.plan.data["qrels"] != self.manifest.data["qrels"]:
            raise InputError("the dataset's qrels are not those of the run")
        spent = costs.read(self.path / COSTS) if LAST in self.manifest.files else {}
        return _content(experiment.evaluated(self.plan, self.path, list(map(total, spent.values()))))

    def model_files(self, stage: int) -> dict[str, str]:
        """Return the hashes of a model's files, in its folder or in the hub's cache."""
        from huggingface_hub.constants import HF_HUB_CACHE

        section, recorded = self._section(stage), self.manifest.stage_models[stage]
        name, revision = section.get("name", ""), recorded["revision"]
        folder = Path(section["gguf"]).parent if section.get("gguf") else Path(name)
        if revision is not None:
            folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots", revision)
        files = {file: folder / file for file in recorded["files"]}
        # A cache that holds some of a model's files was not changed: the others were never downloaded.
        if not folder.is_dir() or (revision is not None and not all(map(Path.is_file, files.values()))):
            raise InputError(f"{name or folder} is not on this machine")
        return {file: _hash(path) if path.is_file() else "no such file" for file, path in files.items()}

    def recorded_answers(self, stage: int) -> str:
        """Return the hash of a stage's recorded answers: of a ledger's content, or of a file of texts."""
        path = Path(self._section(stage).get("answers", ""))
        is_ledger = "content" in self.manifest.stage_models[stage]
        return experiment.ledger_content(path).content if is_ledger else _hash(path)

    def _section(self, stage: int) -> Mapping[str, Any]:
        return (self.loaded.stages[stage].model if stage < len(self.loaded.stages) else None) or {}


class _IndexedTexts(TextStore):
    """Documents whose texts are in a Lucene index, which is not opened to verify."""

    at_hand = False


def _content(measures: RunMeasures | None) -> Mapping[str, object]:
    return measures.content if measures else {}


def _rows(path: Path) -> dict[str, object]:
    return {f"query {row.get('query_id')}": {"line": number, **row} for number, row in json_lines(path)}


def _lines(path: Path) -> dict[str, str]:
    return {f"line {number}": line for number, line in lines(path)}
