"""Checks of a run: every hash, sum and measure that can be recomputed is compared with what the run recorded."""

from __future__ import annotations

import dataclasses
import math
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
    """A fact about a file, whether it agrees with the record, and what differs or why it could not be checked."""

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
    facts = [fact for fact in _facts(run.manifest) if not (alone and fact.outside)]
    checks = [Check(MANIFEST, "content", "agrees")]
    with listener.task("verifying", len(facts)) as advance:
        for number, fact in enumerate(facts, 1):
            checks.append(fact.check(run))
            advance(number, f"{fact.file} {fact.what}")
    return checks


def compared(recorded: object, recomputed: object, where: str = "") -> Iterator[str]:
    """Yield the differences of two JSON trees, each with its keys."""
    if isinstance(recorded, Mapping) and isinstance(recomputed, Mapping):
        for key in dict.fromkeys([*recorded, *recomputed]):
            yield from compared(recorded.get(key), recomputed.get(key), f"{where} {key}".strip())
    elif isinstance(recorded, list) and isinstance(recomputed, list) and len(recorded) == len(recomputed):
        for number, pair in enumerate(zip(recorded, recomputed, strict=True), 1):
            yield from compared(*pair, f"{where} {number}")
    elif (
        isinstance(recorded, float)
        and isinstance(recomputed, float)
        and math.isclose(recorded, recomputed, rel_tol=NEGLIGIBLE, abs_tol=NEGLIGIBLE)
    ):
        return
    elif recorded != recomputed:
        yield f"{where + ': ' if where else ''}{recorded} is recorded, {recomputed} was found"


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

    def model(self, stage: int) -> Mapping[str, Any]:
        """Return the `model` section of a stage; empty if the config has none."""
        return (self.loaded.stages[stage].model if stage < len(self.loaded.stages) else None) or {}

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
class _Fact:
    """A recorded fact, and how it differs now; one `outside` the run's folder may be out of reach."""

    file: str
    what: str
    differences: Callable[[_Run], Iterable[str]]
    outside: bool = False

    def check(self, run: _Run) -> Check:
        differences: list[str] = []
        try:
            differences += self.differences(run)
        except InputError as error:
            damaged = error.file if isinstance(error, _UnreadableError) else None
            if damaged != self.file and (self.outside or damaged) and not differences:
                return Check(self.file, self.what, "not checked", str(error))
            differences.append(str(error))
        if len(differences) > SHOWN:
            differences[SHOWN:] = [f"and {len(differences) - SHOWN} more"]
        return Check(self.file, self.what, "differs" if differences else "agrees", "; ".join(differences))


def _facts(about: Manifest) -> Iterator[_Fact]:
    """Yield all facts that can be checked of a run with this manifest."""
    files, content, models = about.files, about.content, about.stage_models
    orders = [name for name in ("first_stage.trec", RERANKED, "run.trec") if name in files]
    ranked, measured = "run.trec" in files, record.METRICS in files
    yield from (_Fact(name, "sha256", partial(_file, name)) for name in files)
    yield _Fact(MANIFEST, "fingerprint", lambda _: compared(about.fingerprint, contents.digest(content["experiment"])))
    if orders:  # else a shard whose queries have no candidates
        yield _Fact("first_stage.trec", "depth", _depth)
    for name in orders:
        yield _Fact(name, "scores, ranks and tag", partial(_columns, name))
        if name != "first_stage.trec":
            yield _Fact(name, "a permutation of the first stage", partial(_permutation, name))
    facts: Mapping[_Fact, bool] = {
        _Fact("costs.jsonl", "sums", _sums): ranked,
        _Fact(LEDGER, "integrity", lambda run: run.ledger(Ledger.faults)): ranked,
        _Fact(LEDGER, "content", lambda run: compared(content["ledger"], run.ledger(_ledger_content))): ranked,
        _Fact(record.METRICS, "efficiency", _efficiency): ranked and measured,
        _Fact("run.trec", "the fused order", _fused, outside=True): RERANKED in files,
        _Fact("config.yaml", "fingerprint", _config, outside=True): True,
        _Fact("dataset", "documents and queries", _dataset, outside=True): True,
        _Fact("dataset", "qrels", lambda run: compared(about.data["qrels"], run.qrels), outside=True): True,
        _Fact("first_stage.run", "sha256", _given_run, outside=True): "run" in about.config.first_stage,
        _Fact("dataset", "texts of the candidates", _candidates, outside=True): "candidates" in about.data,
        _Fact(record.METRICS, "measures", _measures, outside=True): measured,
    }
    yield from (fact for fact, recorded in facts.items() if recorded)
    for number, model in enumerate(models):
        name = "model" if len(models) == 1 else f"model of stage {number + 1}"
        if "files" in model:
            yield _Fact(name, "sha256 of its files", partial(_model_files, number), outside=True)
        if "answers" in model:
            yield _Fact(name, "recorded answers", partial(_answers, number), outside=True)


# The folder by itself


def _file(name: str, run: _Run) -> Iterator[str]:
    if not (run.path / name).is_file():
        yield "the file is missing"
    else:
        yield from compared(run.manifest.files[name], file_digest(run.path / name, remember=False))


def _columns(name: str, run: _Run) -> Iterator[str]:
    """Compare a run file with what r2llm writes of its order: ranks from 1, scores that decrease strictly."""
    order = runfile.strict(run.scored(name))
    hits = ((query, rank, *hit) for query in order for rank, hit in enumerate(order[query], 1))
    for (number, line), (query, rank, doc, score) in zip(lines(run.path / name), hits, strict=True):
        recorded = line.split()[4]
        written = recorded if float(recorded) == score else repr(score)
        if line != (expected := f"{query} Q0 {doc} {rank} {written} {run.manifest.name}"):
            yield f"line {number} is {line}, not {expected}"


def _depth(run: _Run) -> Iterator[str]:
    depth = run.manifest.first_stage["depth"]
    for query, docs in run.order("first_stage.trec").items():
        if len(docs) > depth:
            yield f"query {query} has {len(docs)} documents, and the depth is {depth}"


def _permutation(name: str, run: _Run) -> Iterator[str]:
    ranking, first_stage = run.order(name), run.order("first_stage.trec")
    runfile.check(ranking, first_stage)
    if list(ranking) != list(first_stage):
        yield "queries in another order"


def _sums(run: _Run) -> Iterator[str]:
    if list(run.spent) != list(run.order("run.trec")):
        yield "its queries are not those of run.trec, in that order"
    about, spent = run.manifest, costs.read(run.path / "costs.jsonl")
    for cost in spent:
        stages, asks = run.spent[cost.query_id], "asks, calls and cached"
        recorded = dataclasses.asdict(cost) | {"stages": len(about.stages), asks: cost.asks}
        sums = dataclasses.asdict(total(stages)) | {"stages": len(stages), asks: cost.calls + cost.cached}
        yield from compared(recorded, sums, f"query {cost.query_id}")
    unparsed, calls = sum(cost.unparsed for cost in spent), sum(cost.calls for cost in spent)
    yield from compared(about.unparsed, unparsed, "unparsed answers")
    yield from compared(sum(about.unparsed_by_kind.values()), unparsed, "unparsed by kind of ask")
    # An execution that was cut off may have asked more than the run needed, or it is not known what it asked.
    executed = [execution["calls"] for execution in about.content["executions"]]
    if None not in executed and (calls > sum(executed) or (len(executed) == 1 and calls < sum(executed))):
        yield from compared(sum(executed), calls, "calls")


def _ledger_content(ledger: Ledger) -> Mapping[str, object]:
    return {"content": ledger.digest(), "answers": len(ledger)}


def _efficiency(run: _Run) -> Iterator[str]:
    recomputed = efficiency([total(stages) for stages in run.spent.values()], run.metrics["per_query"])
    yield from compared(run.metrics.get("efficiency"), recomputed)


# The world around it


def _config(run: _Run) -> Iterator[str]:
    """Compare the experiment with the config's; what only dataset and model tell is taken as recorded."""
    config, experiment = run.loaded.config, run.manifest.content["experiment"]
    yield from compared(run.manifest.name, config.name, "name")
    first_stage = {**run.manifest.first_stage, "depth": config.first_stage.depth, "order": config.first_stage.order}
    if bm25 := config.first_stage.bm25:
        first_stage["source"] = {**run.manifest.first_stage["source"], "k1": bm25.k1, "b": bm25.b}
    recomputed: Mapping[str, object] = first_stage
    if recorded := run.manifest.stages:
        models = [Recorded(stage.model) for stage in recorded]
        models += [Recorded({"backend": ""})] * (len(run.loaded.stages) - len(models))
        stages = list(map(Stage, run.loaded.rankers, models, (stage.depth for stage in run.loaded.stages)))
        fused = None
        if fuse := config.fuse:
            fused = {"method": fuse.method, "with": experiment.get("fuse", {}).get("with"), **fuse.parameters}
        recomputed = manifest.experiment(first_stage, stages, fused, config.seed)
    yield from compared(experiment, recomputed)


def _dataset(run: _Run) -> Iterator[str]:
    yield from compared(run.manifest.first_stage["dataset"], without_qrels(run.dataset.identity()), "dataset")
    yield from compared(run.manifest.first_stage["queries"], contents.queries(run.queries), "queries")


def _given_run(run: _Run) -> Iterator[str]:
    given = _there(run.loaded.config.first_stage.run)
    yield from compared(run.manifest.first_stage["source"]["run"], file_digest(given, remember=False))


def _fused(run: _Run) -> Iterator[str]:
    fuse = run.loaded.config.fuse
    if fuse is None:
        yield "the config fuses nothing"
        return
    first_stage = fuse.other == FIRST_STAGE
    partner = fusion.Partner(fuse, run.scored("first_stage.trec") if first_stage else fusion.read(fuse, Listener()))
    yield from compared(run.manifest.experiment.fuse["with"], partner.identity["with"], "with")
    ranking, fused = run.order("run.trec"), partner.joined(run.scored(RERANKED))
    yield from (f"query {query} is in another order" for query in fused if ranking.get(query) != fused[query])


def _candidates(run: _Run) -> Iterator[str]:
    if "ir_datasets" in run.manifest.first_stage["dataset"]:
        raise InputError("the documents are ir_datasets', which might have to download them")
    docs, queries, hits = run.dataset.docs(), run.dataset.queries(), run.scored("first_stage.trec")
    if missing := docs.missing(doc for ranking in hits.values() for doc, _ in ranking):
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
    recomputed: dict[str, Any] = {"efficiency": run.metrics.get("efficiency")}
    for order, name in orders.items():
        if name in run.manifest.files:
            metrics = evaluation.measure(names, qrels, run.order(name), queries)
            content = {"all": metrics.mean, "per_query": metrics.per_query}
            recomputed |= {order: content} if order else content
    yield from compared(run.metrics, recomputed)


def _model_files(stage: int, run: _Run) -> Iterator[str]:
    model, given = run.manifest.stage_models[stage], run.model(stage)
    name = str(Path(given["gguf"]).parent) if given.get("gguf") else given.get("name", "")
    for file, recorded in model["files"].items():
        path = Path(name) / file
        if model["revision"] is not None:
            import huggingface_hub

            cached = huggingface_hub.try_to_load_from_cache(name, file, revision=model["revision"])
            path = Path(cached if isinstance(cached, str) else "/nowhere/at all")
        if not path.parent.is_dir():
            raise InputError(f"{name} is not on this machine")
        there = path.is_file()
        yield from compared(recorded, file_digest(path, remember=False), file) if there else [f"{file} is missing"]


def _answers(stage: int, run: _Run) -> Iterator[str]:
    path = _there(run.model(stage).get("answers"))
    if content := run.manifest.stage_models[stage].get("content"):
        with closing(Ledger(path, read_only=True)) as ledger:
            yield from compared(content, ledger.digest(), "content hash")
    else:
        yield from compared(run.manifest.stages[stage].model["answers"], file_digest(path), "sha256")


def _there(name: str | None) -> Path:
    if name is None or not Path(name).is_file():
        raise InputError(f"no file {name}")
    return Path(name)


def _no_index() -> Docs:
    raise InputError("the documents' text is in a Lucene index, which verify does not open")


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:SHOWN])
