"""Whether a run still is what its manifest says: every hash, sum and measure that can be recomputed is."""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..rerankers.accounting import total
from ..rerankers.errors import InputError
from ..rerankers.hashing import file_digest
from ..rerankers.ledger import Ledger
from ..rerankers.types import Cost, Query
from . import contents, evaluate, fusion
from .configs import load as configs
from .configs.load import FIRST_STAGE, Loaded
from .datasets import Dataset, Docs
from .evaluate import Metrics
from .files import fault, lines, reason
from .first_stage.retrieve import FirstStage, chosen_queries, open_dataset, without_qrels
from .fusion import RERANKED
from .progress import Listener
from .run import costs, manifest, runfile
from .run.efficiency import efficiency
from .run.manifest import NAME as MANIFEST
from .run.shards import Shard

State = Literal["agrees", "differs", "not checked"]

NEGLIGIBLE = 1e-9
"""How far a recomputed measure may be from the recorded one: another machine may add in another order."""

SHOWN = 5
"""How many differences of one kind are spelt out."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: of which file, and what came of it."""

    file: str
    what: str
    state: State
    detail: str = ""
    """What differs, or why it could not be checked."""


def verify(path: Path, listener: Listener, *, alone: bool = False) -> list[Check]:
    """Check a run's folder against its manifest, and against dataset and model where these can be read.

    With `alone` nothing outside of the folder is looked at. Without an intact manifest of a finished run nothing else
    can be judged: then it is the only check. Raises `InputError` where `path` is no run's folder.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path}: no run's folder: there is no {MANIFEST} in it; r2llm rerank makes one")
    try:
        content = manifest.intact(path / MANIFEST)
    except InputError as error:
        return [Check(MANIFEST, "content", "differs", f"{error}; nothing else can be judged by it")]
    run = _Run(path, content)
    parts = [part for part in _parts(content) if not (alone and part.outside)]
    checks = [Check(MANIFEST, "content", "agrees")]
    with listener.task("verifying", len(parts)) as advance:
        for number, part in enumerate(parts, 1):
            checks.append(part.check(run))
            advance(number, f"{part.file} {part.what}")
    return checks


class _UnreadableError(InputError):
    """A run file is damaged: its own check says so, and checks of other files that need it cannot be made."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message)
        self.file = file


@dataclass
class _Run:
    """A run's folder, and what is read of it and of the world around it when a check asks."""

    path: Path
    manifest: Mapping[str, Any]

    @cached_property
    def loaded(self) -> Loaded:
        """The config in the folder."""
        return configs.load(str((self.path / "config.yaml").resolve()))

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset that the config names."""
        return open_dataset(self.loaded, _no_index)

    @cached_property
    def first_stage(self) -> dict[str, list[str]]:
        """Each query's candidates, best first."""
        return self._documents("first_stage.trec")

    @cached_property
    def ranking(self) -> dict[str, list[str]]:
        """Each query's documents as reranked, and fused where they were, best first."""
        return self._documents("run.trec")

    @property
    def rankings(self) -> dict[str, dict[str, list[str]]]:
        """All orders that were measured, by what `metrics.json` calls them; the last one goes by no name there."""
        if not self.reranked:
            return {"": self.first_stage}
        between = {"reranked": self._documents(RERANKED)} if self.fused else {}
        return {"": self.ranking, "first_stage": self.first_stage, **between}

    def scored(self, name: str) -> runfile.Run:
        """One of its run files."""
        try:
            return runfile.read(self.path / name)[0]
        except InputError as error:
            raise _UnreadableError(name, str(error)) from error

    def _documents(self, name: str) -> dict[str, list[str]]:
        return {query: [doc for doc, _ in found] for query, found in self.scored(name).items()}

    @property
    def reranked(self) -> bool:
        """Whether it is more than a first stage."""
        return "run.trec" in self.manifest["files"]

    @property
    def shard(self) -> Shard | None:
        """Which part of an experiment's queries it is about; None where about all."""
        return Shard(**self.manifest["shard"]) if "shard" in self.manifest else None

    @property
    def queries(self) -> Mapping[str, Query]:
        """The queries that were to be ranked, as the dataset has them."""
        chosen = chosen_queries(self.dataset.queries(), self.loaded.config.queries)
        return self.shard.part(chosen) if self.shard else chosen

    @property
    def fused(self) -> bool:
        """Whether the reranked order was fused with another run."""
        return RERANKED in self.manifest["files"]

    @property
    def stage_identity(self) -> Mapping[str, Any]:
        """What the first stage was: all of the experiment where nothing was reranked."""
        experiment = self.manifest["experiment"]
        found: Mapping[str, Any] = experiment.get("first_stage", experiment)
        return found


@dataclass(frozen=True)
class _Part:
    """One check in waiting: a function that yields what differs."""

    file: str
    what: str
    differences: Callable[[_Run], Iterator[str]]
    outside: bool = False
    """Whether it needs more than the run's folder: where that cannot be had, it is not checked."""

    def check(self, run: _Run) -> Check:
        found: list[str] = []
        try:
            found += self.differences(run)
        except InputError as error:
            elsewhere = isinstance(error, _UnreadableError) and error.file != self.file
            if (self.outside or elsewhere) and not found:
                return Check(self.file, self.what, "not checked", str(error))
            found.append(str(error))
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return Check(self.file, self.what, "differs" if found else "agrees", "; ".join([*found[:SHOWN], *more]))


def _parts(content: Mapping[str, Any]) -> list[_Part]:
    """All there is to check of a run with this manifest."""
    files = content["files"]
    parts = [_Part(name, "sha256", _file_hash(name)) for name in files]
    parts.append(_Part(MANIFEST, "fingerprint", _fingerprint))
    if "first_stage.trec" in files:  # else a shard whose queries have no candidates
        parts += [
            _Part("first_stage.trec", "scores, ranks and tag", _lines_of("first_stage.trec")),
            _Part("first_stage.trec", "depth", _depth),
        ]
    if "run.trec" in files:
        parts += [
            _Part("run.trec", "scores, ranks and tag", _lines_of("run.trec")),
            _Part("run.trec", "a permutation of the first stage", _permutation("run.trec")),
            _Part("costs.jsonl", "sums", _sums),
            _Part("ledger.sqlite", "integrity", _ledger_integrity),
            _Part("ledger.sqlite", "content", _ledger_content),
        ]
    if RERANKED in files:
        parts += [
            _Part(RERANKED, "scores, ranks and tag", _lines_of(RERANKED)),
            _Part(RERANKED, "a permutation of the first stage", _permutation(RERANKED)),
            _Part("run.trec", "the fused order", _fused, outside=True),
        ]
    parts += [
        _Part("config.yaml", "fingerprint", _config, outside=True),
        _Part("dataset", "documents and queries", _dataset, outside=True),
        _Part("dataset", "qrels", _qrels, outside=True),
    ]
    if "run" in content["config"]["first_stage"]:
        parts.append(_Part("first_stage.run", "sha256", _given_run, outside=True))
    if "candidates" in content["data"] or "merged" in content:
        parts.append(_Part("dataset", "texts of the candidates", _candidates, outside=True))
    if "metrics.json" in files:
        parts.append(_Part("metrics.json", "measures", _metrics, outside=True))
        parts += [_Part("metrics.json", "efficiency", _efficiency)] if "run.trec" in files else []
    models = manifest.models(content)
    for number, model in enumerate(models):
        name = "model" if len(models) == 1 else f"model of stage {number + 1}"
        if "files" in model:
            parts.append(_Part(name, "sha256 of its files", _model_files(number), outside=True))
        if "answers" in model:
            parts.append(_Part(name, "recorded answers", _answers(number), outside=True))
    return parts


# The folder by itself


def _file_hash(name: str) -> Callable[[_Run], Iterator[str]]:
    def differences(run: _Run) -> Iterator[str]:
        path = run.path / name
        if not path.is_file():
            yield "the file is missing"
        else:
            yield from _unequal("", run.manifest["files"][name], file_digest(path, remember=False))

    return differences


def _fingerprint(run: _Run) -> Iterator[str]:
    found = manifest.fingerprint(run.manifest["experiment"])
    yield from _unequal("fingerprint", run.manifest["fingerprint"], found)


def _lines_of(name: str) -> Callable[[_Run], Iterator[str]]:
    def differences(run: _Run) -> Iterator[str]:
        path = run.path / name
        runfile.read(path)  # refuses what is no run file at all
        before: tuple[str, int, float] = ("", 0, math.inf)
        for number, line in lines(path):
            columns = line.split()
            if len(columns) != len(runfile.COLUMNS) or not columns[3].isdecimal():
                yield str(fault(path, number, "is not as r2llm writes it"))
                continue
            query, _, _, rank, score, tag = columns
            last_query, last_rank, last_score = before if before[0] == query else (query, 0, math.inf)
            before = (query, int(rank), array("f", [float(score)])[0])
            if tag != run.manifest["name"]:
                yield str(fault(path, number, f"the tag is {tag}, not {run.manifest['name']}"))
            if before[1] != last_rank + 1:
                yield str(fault(path, number, f"rank {rank} follows rank {last_rank} of query {last_query}"))
            if before[2] >= last_score:
                yield str(fault(path, number, f"the score {score} of query {query} is not below the one before it"))

    return differences


def _depth(run: _Run) -> Iterator[str]:
    depth = run.stage_identity["depth"]
    for query, docs in run.first_stage.items():
        if len(docs) > depth:
            yield f"query {query} has {len(docs)} documents, and the depth is {depth}"


def _permutation(name: str) -> Callable[[_Run], Iterator[str]]:
    def differences(run: _Run) -> Iterator[str]:
        ranking = run.ranking if name == "run.trec" else run.rankings["reranked"]
        if list(ranking) != list(run.first_stage):
            yield f"queries {', '.join(_some(set(ranking) ^ set(run.first_stage)) or ['in another order'])}"
        for query in run.first_stage.keys() & ranking.keys():
            ranked, found = ranking[query], run.first_stage[query]
            if lost := set(found) - set(ranked):
                yield f"query {query}: {', '.join(_some(lost))} lost"
            if invented := set(ranked) - set(found):
                yield f"query {query}: {', '.join(_some(invented))} was no candidate"

    return differences


def _sums(run: _Run) -> Iterator[str]:
    spent = costs.read(run.path / "costs.jsonl")
    if [cost.query_id for cost in spent] != list(run.ranking):
        yield "its queries are not those of run.trec, in that order"
    for cost in spent:
        if cost.asks != cost.calls + cost.cached:
            yield f"query {cost.query_id}: {cost.asks} asks, {cost.calls} calls and {cost.cached} cached"
    count = len(manifest.stages(run.manifest["experiment"]))
    for cost, stages in zip(spent, costs.read_stages(run.path / "costs.jsonl"), strict=True):
        if len(stages) != (count if count > 1 else 0):
            yield f"query {cost.query_id}: {len(stages)} stages, and the run has {count}"
        elif stages and not _equal_costs(cost, total(stages)):
            yield f"query {cost.query_id}: its stages add up to something else"
    unparsed = sum(cost.unparsed for cost in spent)
    yield from _unequal("unparsed answers", run.manifest["unparsed"], unparsed)
    yield from _unequal("unparsed by kind of ask", sum(run.manifest["unparsed_by_kind"].values()), unparsed)
    # An execution that was cut off may have asked more than the run needed, or it is not known what it asked.
    executed = [execution["calls"] for execution in run.manifest["executions"]]
    calls = sum(cost.calls for cost in spent)
    if None not in executed and (calls > sum(executed) or (len(executed) == 1 and calls < sum(executed))):
        yield from _unequal("calls", sum(executed), calls)


def _equal_costs(cost: Cost, added: Cost) -> bool:
    """Whether two costs are the same, but for the last bits of seconds."""
    return dataclasses.replace(cost, seconds=None) == dataclasses.replace(added, seconds=None) and (
        cost.seconds is None if added.seconds is None else math.isclose(cost.seconds or 0.0, added.seconds)
    )


def _ledger_integrity(run: _Run) -> Iterator[str]:
    with closing(Ledger(run.path / "ledger.sqlite", read_only=True)) as ledger:
        yield from ledger.faults()


def _ledger_content(run: _Run) -> Iterator[str]:
    recorded = run.manifest["ledger"]
    with closing(Ledger(run.path / "ledger.sqlite", read_only=True)) as ledger:
        yield from _unequal("answers", recorded["answers"], len(ledger))
        yield from _unequal("content hash", recorded["content"], ledger.digest())


# The world around it


def _config(run: _Run) -> Iterator[str]:
    """What the config says that can be told without the dataset and the model."""
    config, stage, experiment = run.loaded.config, run.stage_identity, run.manifest["experiment"]
    yield from _unequal("name", run.manifest["name"], config.name)
    yield from _unequal("depth", stage["depth"], config.first_stage.depth)
    yield from _unequal("order", stage["order"], config.first_stage.order)
    if config.first_stage.bm25:
        yield from _unequal("k1", stage["source"].get("k1"), config.first_stage.bm25.k1)
        yield from _unequal("b", stage["source"].get("b"), config.first_stage.bm25.b)
    if run.reranked:
        yield from _unequal("seed", experiment["seed"], config.seed)
        recorded, given = manifest.stages(experiment), run.loaded.stages
        yield from _unequal("stages", len(recorded), len(given))
        for number, (stage, found, ranker) in enumerate(zip(recorded, given, run.loaded.rankers, strict=False), 1):
            which = f"stage {number}, " if len(recorded) > 1 else ""
            yield from _unequal(f"{which}depth", stage.get("depth"), found.depth)
            for key, value in ranker.identity.items():
                yield from _unequal(f"{which}ranker {key}", stage["ranker"].get(key), value)
        fuse, fused = config.fuse, experiment.get("fuse", {})
        yield from _unequal("fuse.method", fused.get("method"), fuse.method if fuse else None)
        for key, value in (fuse.parameters if fuse else {}).items():
            yield from _unequal(f"fuse.{key}", fused.get(key), value)


def _dataset(run: _Run) -> Iterator[str]:
    recorded = run.stage_identity
    yield from _unequal("dataset", recorded["dataset"], without_qrels(run.dataset.identity()))
    chosen = chosen_queries(run.dataset.queries(), run.loaded.config.queries)
    yield from _unequal("queries", recorded["queries"], contents.queries(chosen))


def _qrels(run: _Run) -> Iterator[str]:
    yield from _unequal("", run.manifest["data"]["qrels"], contents.qrels(run.dataset.qrels()))


def _given_run(run: _Run) -> Iterator[str]:
    given = run.loaded.config.first_stage.run
    if given is None or not Path(given).is_file():
        raise InputError(f"no file {given}")
    yield from _unequal("", run.stage_identity["source"]["run"], file_digest(Path(given), remember=False))


def _fused(run: _Run) -> Iterator[str]:
    """Whether the order of `run.trec` is what the reranked one and the other run come to."""
    fuse = run.loaded.config.fuse
    if fuse is None:
        yield "the config fuses nothing"
        return
    recorded = run.manifest["experiment"]["fuse"]["with"]
    if fuse.other == FIRST_STAGE:
        yield from _unequal("with", recorded, fuse.other)
        other = run.scored("first_stage.trec")
    else:
        other = fusion.read(fuse, Listener())
        yield from _unequal("with", recorded, {"run": file_digest(Path(fuse.other), remember=False)})
    for query, docs in fusion.Partner(fuse, other).joined(run.scored(RERANKED)).items():
        if run.ranking.get(query) != docs:
            yield f"query {query} is in another order"


def _candidates(run: _Run) -> Iterator[str]:
    """The texts as they were presented, out of the dataset's documents."""
    if "ir_datasets" in run.stage_identity["dataset"]:
        raise InputError("the documents are ir_datasets', which might have to download them")
    docs = run.dataset.docs()
    if missing := docs.missing(doc for found in run.first_stage.values() for doc in found):
        yield f"documents {', '.join(_some(set(missing)))} are not in the dataset"
        return
    config, queries = run.loaded.config, run.dataset.queries()
    if strangers := run.first_stage.keys() - queries.keys():
        yield f"queries {', '.join(_some(strangers))} are not in the dataset"
        return
    for what, recorded, found in _recorded_candidates(run):
        stage = FirstStage(
            dataset=run.dataset,
            queries=queries,
            run={query: [(doc, 0.0) for doc in run.first_stage[query]] for query in found},
            docs=docs,
            identity={},
            order=config.first_stage.order,
            seed=config.shuffle_seed,
        )
        digest = contents.CandidatesDigest()
        for _ in digest.passing(stage):
            pass
        yield from _unequal(what, recorded, digest.hexdigest())


def _recorded_candidates(run: _Run) -> Iterator[tuple[str, str, list[str]]]:
    """The hashes of candidates that were recorded, and the queries of each: all, or those of the shards it is of."""
    if "merged" not in run.manifest:
        yield "", run.manifest["data"]["candidates"], list(run.first_stage)
        return
    for found in run.manifest["merged"]["shards"]:
        shard = Shard(found["number"], found["of"])
        own = [query for query in shard.part(run.queries) if query in run.first_stage]
        if own:
            yield f"shard {shard}", found["candidates"], own


def _metrics(run: _Run) -> Iterator[str]:
    qrels = run.dataset.qrels()
    if qrels is None or contents.qrels(qrels) != run.manifest["data"]["qrels"]:
        raise InputError("the dataset's qrels are not those of the run")
    config = run.loaded.config
    queries = list(run.queries)
    names = evaluate.with_judged(config.evaluate.measures)
    rankings = run.rankings
    try:
        recorded = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
        means = {order: recorded[order] if order else recorded for order in rankings}
        written = {order: _flat(found["all"], found["per_query"]) for order, found in means.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"cannot be read: {reason(error)}"
        return
    for order, ranking in rankings.items():
        found = evaluate.measure(names, qrels, ranking, queries)
        yield from _moved(f"{order.replace('_', ' ')}, " if order else "", written[order], found)


def _efficiency(run: _Run) -> Iterator[str]:
    """Whether RPP and QPP follow from the measures and the operations that are written."""
    try:
        spent = costs.read(run.path / "costs.jsonl")
    except InputError as error:
        raise _UnreadableError("costs.jsonl", str(error)) from error
    try:
        written = json.loads((run.path / "metrics.json").read_text(encoding="utf-8"))
        before, after = _ratios(written.get("efficiency")), _ratios(efficiency(spent, written["per_query"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"cannot be read: {reason(error)}"
        return
    for what in sorted(before.keys() | after.keys()):
        if not math.isclose(before.get(what, 0.0), after.get(what, 0.0), rel_tol=NEGLIGIBLE):
            yield f"{what}: {before.get(what)} is written, {after.get(what)} follows from costs and measures"


def _ratios(found: Mapping[str, Any] | None) -> dict[str, float]:
    """Each figure by its name; none where there is no efficiency."""
    if found is None:
        return {}
    rpp = {f"rpp {name}, {how}": ratio for name, ratios in found["rpp"].items() for how, ratio in ratios.items()}
    return {"qpp": found["qpp"], **rpp}


def _moved(stage: str, recorded: Mapping[str, float], measured: Metrics) -> Iterator[str]:
    found = _flat(measured.mean, measured.per_query)
    for what in recorded.keys() | found.keys():
        before, after = recorded.get(what), found.get(what)
        if before is None or after is None or not math.isclose(before, after, abs_tol=NEGLIGIBLE):
            yield f"{stage}{what}: {before} is written, {after} follows from the run"


def _flat(all: Mapping[str, float], per_query: Mapping[str, Mapping[str, float]]) -> dict[str, float]:  # noqa: A002 - the file's key
    """Each mean and each query's value, by what it is of."""
    means = {f"mean {name}": float(value) for name, value in all.items()}
    return means | {f"{name} of {q}": float(value) for q, row in per_query.items() for name, value in row.items()}


def _model_files(stage: int) -> Callable[[_Run], Iterator[str]]:
    def differences(run: _Run) -> Iterator[str]:
        model = manifest.models(run.manifest)[stage]
        name = _model_section(run, stage).get("name", "")
        for file, recorded in model["files"].items():
            path = Path(name) / file if model["revision"] is None else _in_hub_cache(name, model["revision"], file)
            if path is None or not path.parent.is_dir():
                raise InputError(f"{name} is not on this machine")
            if not path.is_file():
                yield f"{file} is missing"
            else:
                yield from _unequal(file, recorded, file_digest(path, remember=False))

    return differences


def _model_section(run: _Run, stage: int) -> Mapping[str, Any]:
    """What the config says of the model of a stage."""
    stages = run.loaded.stages
    return (stages[stage].model if stage < len(stages) else None) or {}


def _in_hub_cache(name: str, commit: str, file: str) -> Path | None:
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, file, revision=commit)
    return Path(found) if isinstance(found, str) else None


def _answers(stage: int) -> Callable[[_Run], Iterator[str]]:
    def differences(run: _Run) -> Iterator[str]:
        path = Path(_model_section(run, stage).get("answers", ""))
        if not path.is_file():
            raise InputError(f"no file {path}")
        content = manifest.models(run.manifest)[stage].get("content")
        if content is None:
            identity = manifest.stages(run.manifest["experiment"])[stage]["model"]
            yield from _unequal("sha256", identity["answers"], file_digest(path))
        else:
            with closing(Ledger(path, read_only=True)) as ledger:
                yield from _unequal("content hash", content, ledger.digest())

    return differences


def _no_index() -> Docs:
    raise InputError("the documents' text is in a Lucene index, which verify does not open")


def _unequal(what: str, recorded: object, found: object) -> Iterator[str]:
    if recorded != found:
        yield f"{what + ': ' if what else ''}{recorded} is recorded, {found} was found"


def _some(names: set[str]) -> list[str]:
    return sorted(names)[:SHOWN]
