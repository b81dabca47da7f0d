"""Checks of a run: every hash, sum and measure that can be recomputed is compared with what the run recorded."""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..rerankers.accounting import total
from ..rerankers.backends.replay import Recorded
from ..rerankers.cascade import Stage
from ..rerankers.errors import InputError
from ..rerankers.hashing import file_digest
from ..rerankers.ledger import Ledger
from ..rerankers.types import Cost, Query
from .configs import load as configs
from .configs.load import FIRST_STAGE, Loaded
from .datasets import Dataset, Docs
from .first_stage.retrieve import FirstStage, chosen_queries, open_dataset, without_qrels
from .io.files import json_lines, lines
from .io.progress import Listener
from .run import contents, costs, fusion, manifest, runfile
from .run import measures as evaluation
from .run import read as record
from .run.efficiency import efficiency
from .run.folder import LEDGER
from .run.fusion import RERANKED
from .run.manifest import NAME as MANIFEST
from .run.manifest import Manifest

T = TypeVar("T")

NEGLIGIBLE = 1e-9
"""Difference of two figures that is none: another machine may add in another order."""

SHOWN = 5
"""Differences of one kind that are spelt out."""


@dataclass(frozen=True)
class Check:
    """One thing that was compared, the file it is of, and what differs or why it could not be checked."""

    file: str
    what: str
    state: Literal["agrees", "differs", "not checked"]
    detail: str = ""


def verify(path: Path, listener: Listener, *, alone: bool = False) -> list[Check]:
    """Check a run's folder against its manifest, and against dataset and model if these can be read.

    With `alone` nothing outside the folder is read. Without an intact manifest of a finished run that is the only
    check. Raises `InputError` if `path` is no run's folder.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path}: no run's folder: there is no {MANIFEST} in it; r2llm rerank makes one")
    try:
        run = _Run(path, manifest.intact(path / MANIFEST))
    except InputError as error:
        return [Check(MANIFEST, "content", "differs", f"{error}; nothing else can be judged by it")]
    parts = [part for part in _parts(run.manifest) if not (alone and part.outside)]
    checks = [Check(MANIFEST, "content", "agrees")]
    with listener.task("verifying", len(parts)) as advance:
        for number, part in enumerate(parts, 1):
            checks.append(part.check(run))
            advance(number, f"{part.file} {part.what}")
    return checks


def compared(recorded: object, found: object, where: str = "") -> Iterator[str]:
    """Yield the differences of two JSON trees, each with its keys."""
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*recorded, *found]):
            yield from compared(recorded.get(key), found.get(key), f"{where} {key}".strip())
    elif isinstance(recorded, list) and isinstance(found, list) and len(recorded) == len(found):
        for number, pair in enumerate(zip(recorded, found, strict=True), 1):
            yield from compared(*pair, f"{where} {number}")
    elif recorded != found and not (
        isinstance(recorded, float)
        and isinstance(found, float)
        and math.isclose(recorded, found, rel_tol=NEGLIGIBLE, abs_tol=NEGLIGIBLE)
    ):
        yield f"{where + ': ' if where else ''}{recorded} is recorded, {found} was found"


class _UnreadableError(InputError):
    """A file of the run is damaged: its own checks differ, and those of others that need it cannot be made."""

    def __init__(self, file: str, error: object) -> None:
        super().__init__(str(error))
        self.file = file


@dataclass
class _Run:
    """A run's folder, and what is read of it and of the world around it when a check asks."""

    path: Path
    manifest: Manifest

    @cached_property
    def loaded(self) -> Loaded:
        return configs.load(str((self.path / "config.yaml").resolve()))

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.loaded, _no_index)

    @cached_property
    def queries(self) -> Mapping[str, Query]:
        return chosen_queries(self.dataset.queries(), self.loaded.config.queries)

    @cached_property
    def qrels(self) -> str | None:
        return contents.qrels(self.dataset.qrels())

    @cached_property
    def spent(self) -> dict[str, list[Cost]]:
        return self._read("costs.jsonl", lambda path: costs.by_stage(path, json_lines(path)))

    @cached_property
    def metrics(self) -> Mapping[str, Any]:
        if not (measures := self._read(record.METRICS, record.measures)):
            raise _UnreadableError(record.METRICS, "the file is missing")
        return measures.content

    @cached_property
    def first_stage(self) -> Mapping[str, Any]:
        """The identity of the first stage: the whole experiment if nothing was reranked."""
        return self.manifest.first_stage

    @property
    def fingerprint(self) -> str:
        return contents.digest(self.manifest.content["experiment"])

    def ledger(self, read: Callable[[Ledger], T]) -> T:
        with closing(Ledger(self.path / LEDGER, read_only=True)) as ledger:
            return read(ledger)

    def scored(self, name: str) -> runfile.Run:
        return self._read(name, lambda path: runfile.read(path)[0])

    def order(self, name: str) -> dict[str, list[str]]:
        return {query: [doc for doc, _ in hits] for query, hits in self.scored(name).items()}

    def _read(self, name: str, reader: Callable[[Path], T]) -> T:
        try:
            return reader(self.path / name)
        except InputError as error:
            raise _UnreadableError(name, error) from error


@dataclass(frozen=True)
class _Part:
    """A check in waiting: a function that yields what differs.

    One that looks `outside` the run's folder is not made if what it needs cannot be had.
    """

    file: str
    what: str
    differences: Callable[[_Run], Iterable[str]]
    outside: bool = False

    def check(self, run: _Run) -> Check:
        found: list[str] = []
        try:
            found += self.differences(run)
        except InputError as error:
            damaged = error.file if isinstance(error, _UnreadableError) else None
            if damaged != self.file and (self.outside or damaged) and not found:
                return Check(self.file, self.what, "not checked", str(error))
            found.append(str(error))
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return Check(self.file, self.what, "differs" if found else "agrees", "; ".join([*found[:SHOWN], *more]))


def _parts(about: Manifest) -> Iterator[_Part]:
    """Yield all checks of a run with this manifest."""
    files, models = about.files, about.stage_models
    yield from (_Part(name, "sha256", partial(_file_hash, name)) for name in files)
    yield _Part(MANIFEST, "fingerprint", lambda run: compared(run.manifest.fingerprint, run.fingerprint))
    if "first_stage.trec" in files:  # else a shard whose queries have no candidates
        yield _Part("first_stage.trec", "depth", _depth)
    for name in files.keys() & {"first_stage.trec", "run.trec", RERANKED}:
        yield _Part(name, "scores, ranks and tag", partial(_columns, name))
        if name != "first_stage.trec":
            yield _Part(name, "a permutation of the first stage", partial(_permutation, name))
    if "run.trec" in files:
        yield _Part("costs.jsonl", "sums", _sums)
        yield _Part(LEDGER, "integrity", lambda run: run.ledger(Ledger.faults))
        yield _Part(LEDGER, "content", _ledger_content)
        if "metrics.json" in files:
            yield _Part("metrics.json", "efficiency", _efficiency)
    outside = {
        ("run.trec", "the fused order", _fused): RERANKED in files,
        ("config.yaml", "fingerprint", _config): True,
        ("dataset", "documents and queries", _dataset): True,
        ("dataset", "qrels", lambda run: compared(run.manifest.data["qrels"], run.qrels)): True,
        ("first_stage.run", "sha256", _given_run): "run" in about.config.first_stage,
        ("dataset", "texts of the candidates", _candidates): "candidates" in about.data,
        ("metrics.json", "measures", _measures): "metrics.json" in files,
    }
    yield from (_Part(*part, outside=True) for part, wanted in outside.items() if wanted)
    for number, model in enumerate(models):
        name = "model" if len(models) == 1 else f"model of stage {number + 1}"
        if "files" in model:
            yield _Part(name, "sha256 of its files", partial(_model_files, number), outside=True)
        if "answers" in model:
            yield _Part(name, "recorded answers", partial(_answers, number), outside=True)


# The folder by itself


def _file_hash(name: str, run: _Run) -> Iterator[str]:
    if not (run.path / name).is_file():
        yield "the file is missing"
    else:
        yield from compared(run.manifest.files[name], file_digest(run.path / name, remember=False))


def _columns(name: str, run: _Run) -> Iterator[str]:
    runfile.read(run.path / name)  # refuses what is no run file at all
    last: tuple[str, int, float] = ("", 0, math.inf)
    for number, line in lines(run.path / name):
        columns = line.split()
        if len(columns) != len(runfile.COLUMNS) or not columns[3].isdecimal():
            yield f"line {number} is not as r2llm writes it"
            continue
        query, _, _, rank, score, tag = columns
        _, last_rank, last_score = last if last[0] == query else (query, 0, math.inf)
        last = (query, int(rank), array("f", [float(score)])[0])
        if tag != run.manifest.name:
            yield f"the tag is {tag}, not {run.manifest.name}"
        if last[1] != last_rank + 1:
            yield f"rank {rank} follows rank {last_rank} of query {query}"
        if last[2] >= last_score:
            yield f"the score {score} of query {query} is not below the one before it"


def _depth(run: _Run) -> Iterator[str]:
    for query, docs in run.order("first_stage.trec").items():
        if len(docs) > run.first_stage["depth"]:
            yield f"query {query} has {len(docs)} documents, and the depth is {run.first_stage['depth']}"


def _permutation(name: str, run: _Run) -> Iterator[str]:
    ranking, first_stage = run.order(name), run.order("first_stage.trec")
    if list(ranking) != list(first_stage):
        yield f"queries {_some(ranking.keys() ^ first_stage.keys()) or 'in another order'}"
    for query in first_stage.keys() & ranking.keys():
        if lost := set(first_stage[query]) - set(ranking[query]):
            yield f"query {query}: {_some(lost)} lost"
        if invented := set(ranking[query]) - set(first_stage[query]):
            yield f"query {query}: {_some(invented)} was no candidate"


def _sums(run: _Run) -> Iterator[str]:
    if list(run.spent) != list(run.order("run.trec")):
        yield "its queries are not those of run.trec, in that order"
    count, spent = len(run.manifest.stages), costs.read(run.path / "costs.jsonl")
    for cost in spent:
        stages = run.spent[cost.query_id]
        if cost.asks != cost.calls + cost.cached:
            yield f"query {cost.query_id}: {cost.asks} asks, {cost.calls} calls and {cost.cached} cached"
        if len(stages) != count:
            yield f"query {cost.query_id}: {len(stages)} stages, and the run has {count}"
        elif any(compared(dataclasses.asdict(cost), dataclasses.asdict(total(stages)))):
            yield f"query {cost.query_id}: its stages add up to something else"
    unparsed, calls = sum(cost.unparsed for cost in spent), sum(cost.calls for cost in spent)
    yield from compared(run.manifest.unparsed, unparsed, "unparsed answers")
    yield from compared(sum(run.manifest.unparsed_by_kind.values()), unparsed, "unparsed by kind of ask")
    # An execution that was cut off may have asked more than the run needed, or it is not known what it asked.
    executed = [execution["calls"] for execution in run.manifest.content["executions"]]
    if None not in executed and (calls > sum(executed) or (len(executed) == 1 and calls < sum(executed))):
        yield from compared(sum(executed), calls, "calls")


def _ledger_content(run: _Run) -> Iterator[str]:
    yield from compared(run.manifest.content["ledger"]["answers"], run.ledger(len), "answers")
    yield from compared(run.manifest.content["ledger"]["content"], run.ledger(Ledger.digest), "content hash")


def _efficiency(run: _Run) -> Iterator[str]:
    found = efficiency([total(stages) for stages in run.spent.values()], run.metrics["per_query"])
    yield from compared(run.metrics.get("efficiency"), found)


# The world around it


def _config(run: _Run) -> Iterator[str]:
    """The experiment of the config; what only dataset and model tell is taken as recorded, and checked by itself."""
    config, experiment = run.loaded.config, run.manifest.content["experiment"]
    yield from compared(run.manifest.name, config.name, "name")
    first_stage = {**run.first_stage, "depth": config.first_stage.depth, "order": config.first_stage.order}
    if bm25 := config.first_stage.bm25:
        first_stage["source"] = {**run.first_stage["source"], "k1": bm25.k1, "b": bm25.b}
    found: Mapping[str, object] = first_stage
    if recorded := run.manifest.stages:
        models = [Recorded(stage.model) for stage in recorded]
        models += [Recorded({"backend": ""})] * (len(run.loaded.stages) - len(models))
        depths = [stage.depth for stage in run.loaded.stages]
        fuse = config.fuse
        fused = (
            {"method": fuse.method, "with": experiment.get("fuse", {}).get("with"), **fuse.parameters} if fuse else None
        )
        stages = list(map(Stage, run.loaded.rankers, models, depths))
        found = manifest.experiment(first_stage, stages, fused, config.seed)
    yield from compared(experiment, found)


def _dataset(run: _Run) -> Iterator[str]:
    yield from compared(run.first_stage["dataset"], without_qrels(run.dataset.identity()), "dataset")
    yield from compared(run.first_stage["queries"], contents.queries(run.queries), "queries")


def _given_run(run: _Run) -> Iterator[str]:
    given = _there(run.loaded.config.first_stage.run)
    yield from compared(run.first_stage["source"]["run"], file_digest(given, remember=False))


def _fused(run: _Run) -> Iterator[str]:
    fuse = run.loaded.config.fuse
    if fuse is None:
        yield "the config fuses nothing"
        return
    first_stage = fuse.other == FIRST_STAGE
    partner = fusion.Partner(fuse, run.scored("first_stage.trec") if first_stage else fusion.read(fuse, Listener()))
    yield from compared(run.manifest.experiment.fuse["with"], partner.identity["with"], "with")
    ranking = run.order("run.trec")
    for query, docs in partner.joined(run.scored(RERANKED)).items():
        if ranking.get(query) != docs:
            yield f"query {query} is in another order"


def _candidates(run: _Run) -> Iterator[str]:
    if "ir_datasets" in run.first_stage["dataset"]:
        raise InputError("the documents are ir_datasets', which might have to download them")
    docs, queries, hits = run.dataset.docs(), run.dataset.queries(), run.scored("first_stage.trec")
    if missing := docs.missing(doc for found in hits.values() for doc, _ in found):
        yield f"documents {_some(missing)} are not in the dataset"
    elif strangers := hits.keys() - queries.keys():
        yield f"queries {_some(strangers)} are not in the dataset"
    else:
        config, digest = run.loaded.config, contents.CandidatesDigest()
        stage = FirstStage(run.dataset, queries, hits, docs, {}, config.first_stage.order, config.shuffle_seed)
        for _ in digest.passing(stage):
            pass
        yield from compared(run.manifest.data["candidates"], digest.hexdigest())


def _measures(run: _Run) -> Iterator[str]:
    qrels = run.dataset.qrels()
    if qrels is None or run.qrels != run.manifest.data["qrels"]:
        raise InputError("the dataset's qrels are not those of the run")
    queries = run.manifest.shard.part(run.queries) if run.manifest.shard else run.queries
    names = evaluation.with_judged(run.loaded.config.evaluate.measures)
    orders = {"": "run.trec", "first_stage": "first_stage.trec", "reranked": RERANKED}
    if "run.trec" not in run.manifest.files:
        orders = {"": "first_stage.trec"}
    found: dict[str, Any] = {"efficiency": run.metrics.get("efficiency")}
    for order, name in orders.items():
        if name in run.manifest.files:
            metrics = evaluation.measure(names, qrels, run.order(name), queries)
            content = {"all": metrics.mean, "per_query": metrics.per_query}
            found |= {order: content} if order else content
    yield from compared(run.metrics, found)


def _model_files(stage: int, run: _Run) -> Iterator[str]:
    model, name = run.manifest.stage_models[stage], _model_section(run, stage).get("name", "")
    for file, recorded in model["files"].items():
        path = Path(name) / file
        if model["revision"] is not None:
            import huggingface_hub

            cached = huggingface_hub.try_to_load_from_cache(name, file, revision=model["revision"])
            path = Path(cached if isinstance(cached, str) else "/nowhere/at all")
        if not path.parent.is_dir():
            raise InputError(f"{name} is not on this machine")
        if not path.is_file():
            yield f"{file} is missing"
        else:
            yield from compared(recorded, file_digest(path, remember=False), file)


def _answers(stage: int, run: _Run) -> Iterator[str]:
    path = _there(_model_section(run, stage).get("answers"))
    if content := run.manifest.stage_models[stage].get("content"):
        with closing(Ledger(path, read_only=True)) as ledger:
            yield from compared(content, ledger.digest(), "content hash")
    else:
        identity = run.manifest.stages[stage].model
        yield from compared(identity["answers"], file_digest(path), "sha256")


def _model_section(run: _Run, stage: int) -> Mapping[str, Any]:
    return (run.loaded.stages[stage].model if stage < len(run.loaded.stages) else None) or {}


def _there(name: str | None) -> Path:
    if name is None or not Path(name).is_file():
        raise InputError(f"no file {name}")
    return Path(name)


def _no_index() -> Docs:
    raise InputError("the documents' text is in a Lucene index, which verify does not open")


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN])
