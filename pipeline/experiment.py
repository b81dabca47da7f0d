"""An experiment from config to metrics: the only file that knows every room."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..rerankers import catalog
from ..rerankers.backends import Backend, ModelOptions, Setting, closed_after
from ..rerankers.backends.replay import LedgerReplay
from ..rerankers.cascade import Cascade, Ranked, Stage
from ..rerankers.errors import InputError
from ..rerankers.ledger import Ledger
from ..rerankers.ranker import Ranker
from ..rerankers.shared_ledger import SharedLedger
from ..rerankers.types import Query
from . import config as configs
from . import contents, evaluate, fusion, runfile
from .config import Config, Expected, Loaded, paths
from .datasets import Dataset, Docs
from .evaluate import Metrics, Qrels
from .fusion import RERANKED
from .progress import Listener
from .retrieve import FirstStage, chosen_queries, open_dataset, retrieve
from .runs import costs, environment, ir_metadata, manifest, merging
from .runs.efficiency import Efficiency, efficiency
from .runs.executions import Executions, last_change, now
from .runs.folder import RunFolder
from .runs.shards import Shard
from .yaml_files import value_at

LEDGER = "ledger.sqlite"

MANIFEST = "manifest.json"

RETRIEVED_FILES = ("config.yaml", "first_stage.trec")
"""What every run's folder holds, besides metrics and manifest."""

RANKED_FILES = (*RETRIEVED_FILES, "run.trec", "costs.jsonl", LEDGER)
"""What it holds where the candidates were reranked."""

ORDERS = ("first_stage.trec", RERANKED, "run.trec")
"""The orders on the way, as far as a run has them."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to."""

    name: str
    run_dir: Path
    run_file: Path
    simulated: bool
    schedule: str
    queries: int
    first_stage: Metrics | None
    reranked: Metrics | None
    """Of the order before it was fused with another run, where it was."""
    metrics: Metrics | None
    costs: costs.Summary
    wall_seconds: float | None
    """How long ranking took, all queries together."""
    expected: Mapping[str, Expected]
    """The published figures that this run can be held against."""

    shard: Shard | None = None
    """Which part of the experiment's queries it is about, where not about all."""
    efficiency: Efficiency | None = None
    """What it came to per PetaFLOP, where operations and measures are known."""


def rerank(loaded: Loaded, output: Path | None, listener: Listener, shard: Shard | None = None) -> Outcome:
    """Retrieve, rerank and evaluate; resume where an earlier run of the same experiment was cut off.

    A shard does so for its part of the queries, in a folder of its own in the run's. Raises `InputError` before
    anything is written where something given is wrong, and `BackendError` where the model fails; whatever was answered
    until then is in the run's ledger.
    """
    config, rankers = loaded.config, loaded.rankers
    first_stage = retrieve(loaded, listener, shard)
    before = _measure(config, first_stage, first_stage.documents)
    partner = fusion.partner(config, first_stage, listener)
    stages = _open_stages(loaded, rankers, first_stage)
    if shard and not all(stage.backend.remembers for stage in stages):
        raise InputError("--shard: recorded texts are used up one by one, by one run; rerank without --shard")
    content = manifest.experiment(first_stage, stages, partner, config.seed)
    simulated = any(stage.backend.simulated for stage in stages)
    fingerprint = manifest.fingerprint(content)
    path = output or Path("runs") / f"{config.name}-{fingerprint[:8]}"
    with RunFolder(path / shard.folder if shard else path, fingerprint) as folder:
        last_answer = last_change(folder / LEDGER)
        about = {"name": config.name, "fingerprint": fingerprint, "simulated": simulated}
        about |= {"shard": {"number": shard.number, "of": shard.of}} if shard else {}
        about |= {"experiment": content, "environment": environment.environment()}
        about |= manifest.description(config, [prompt for ranker in rankers for prompt in ranker.prompts])
        data = _data(first_stage.queries, first_stage.dataset.qrels())
        about |= {"data": data}
        if not first_stage.run:
            return _nothing_to_rank(config, folder, about, stages)
        with closing(Ledger(folder / LEDGER)) as ledger, _sharing(config, stages, ledger, listener) as shared:
            earlier = folder.manifest().get("executions", [])
            executions = Executions(earlier, len(ledger), last_answer, shared=shared is not None)
            about |= {"started": executions.listed()[0]["started"], "finished": None}
            _write_manifest(folder, about | {"status": "running", "executions": executions.listed()})
            folder.write_yaml("config.yaml", _resolved(config, folder.path))
            runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
            pooled = config.schedule == "throughput"
            begun = time.perf_counter()
            cascade = Cascade(stages, ledger, pooled=pooled, shared=shared if pooled else None)
            ranked = _rank(loaded, first_stage, cascade, listener)
            wall_seconds = time.perf_counter() - begun
        spent = [found.cost for found in ranked.queries.values()]
        rankings: Mapping[str, Sequence[str]] = {query: found.ranking.docs for query, found in ranked.queries.items()}
        reranked, written = None, list(RANKED_FILES)
        if partner is not None:
            reranked = _measure(config, first_stage, rankings)
            unfused = fusion.scored({query: found.ranking for query, found in ranked.queries.items()})
            runfile.write_scored(folder / RERANKED, unfused, config.name)
            rankings, written = partner.joined(unfused), [*written, RERANKED]
        runfile.write(folder / "run.trec", rankings, first_stage.documents, config.name)
        methods = [ranker.method.name for ranker in rankers]
        folder.write_json_lines("costs.jsonl", [costs.row(found.costs, methods) for found in ranked.queries.values()])
        after = _measure(config, first_stage, rankings)
        efficient = efficiency(spent, after.per_query if after else None)
        written += _write_metrics(folder, after, efficient, first_stage=before, reranked=reranked)
        executions.finish(sum(cost.calls for cost in spent))
        about |= {"status": "finished", "finished": now(), "executions": executions.listed()}
        about |= {"wall_seconds": wall_seconds}
        about |= {"shared_ledger": {"taken": shared.taken, "published": shared.published}} if shared else {}
        about |= {"unparsed": sum(cost.unparsed for cost in spent), "unparsed_by_kind": ranked.unparsed}
        about |= {"answer_forms": ranked.forms}
        about |= {"models": ranked.models} if manifest.is_cascade(stages) else {"model": ranked.models[0]}
        about |= {"data": data | {"candidates": ranked.candidates}, "ledger": _ledger(folder / LEDGER)}
        _finish_manifest(folder, about, written)
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "run.trec",
        simulated=simulated,
        schedule=config.schedule,
        queries=len(rankings),
        first_stage=before,
        reranked=reranked,
        metrics=after,
        costs=costs.summary(spent),
        wall_seconds=wall_seconds,
        expected={} if shard else _comparable(loaded, listener),
        shard=shard,
        efficiency=efficient,
    )


def _nothing_to_rank(config: Config, folder: RunFolder, about: dict[str, Any], stages: Sequence[Stage]) -> Outcome:
    """Finish a shard none of whose queries has candidates."""
    for backend in _backends(stages):
        backend.close()
    executions = Executions([], 0, None)
    executions.finish(0)
    folder.write_yaml("config.yaml", _resolved(config, folder.path))
    listed = executions.listed()
    about |= {"started": listed[0]["started"], "finished": now(), "status": "finished", "executions": listed}
    _write_manifest(folder, about | {"files": manifest.file_hashes(folder.path, ["config.yaml"])})
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "run.trec",
        simulated=bool(about["simulated"]),
        schedule=config.schedule,
        queries=0,
        first_stage=None,
        reranked=None,
        metrics=None,
        costs={},
        wall_seconds=None,
        expected={},
        shard=Shard(about["shard"]["number"], about["shard"]["of"]),
    )


def retrieve_only(loaded: Loaded, output: Path | None, listener: Listener) -> Outcome:
    """Do the first stage alone, write it as `first_stage.trec`, and evaluate it where there are judgements."""
    config = loaded.config
    started = now()
    first_stage = retrieve(loaded, listener)
    metrics = _measure(config, first_stage, first_stage.documents)
    fingerprint = manifest.fingerprint(first_stage.identity)
    path = output or Path("runs") / f"{config.name}-first-stage-{fingerprint[:8]}"
    with RunFolder(path, fingerprint) as folder:
        about = {"name": config.name, "fingerprint": fingerprint, "simulated": False}
        about |= {"experiment": first_stage.identity, "environment": environment.environment()}
        about |= manifest.description(config, []) | {"data": _data(first_stage.queries, first_stage.dataset.qrels())}
        folder.write_yaml("config.yaml", _resolved(config, folder.path))
        runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
        written = [*RETRIEVED_FILES, *_write_metrics(folder, metrics)]
        _finish_manifest(folder, about | {"started": started, "finished": now(), "status": "finished"}, written)
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "first_stage.trec",
        simulated=False,
        schedule=config.schedule,
        queries=len(first_stage.run),
        first_stage=None,
        reranked=None,
        metrics=metrics,
        costs={},
        wall_seconds=None,
        expected={},
    )


def merge(run_dirs: Sequence[Path], output: Path | None, listener: Listener, loaded: Loaded | None = None) -> Outcome:
    """Make of the shards in these folders the run that one execution would have left, in `output` or their folder.

    Nothing is ranked, so no model is needed; the dataset's queries and judgements are. `loaded` is the config that was
    sharded; the shards' own unless given. Raises `InputError` where they are not all there and whole.
    """
    parts = merging.gather(run_dirs, listener)
    one = merging.template(parts)
    if loaded:
        merging.check_config(parts, loaded)
    own = loaded or configs.load(str((one.path / "config.yaml").resolve()))
    config, dataset = own.config, _dataset_to_merge(own, given=loaded is not None)
    queries, qrels = chosen_queries(dataset.queries(), config.queries), dataset.qrels()
    if contents.queries(queries) != one.manifest["experiment"]["first_stage"]["queries"]:
        raise InputError(f"dataset {dataset.name}: its queries are not those of {one.path}; merge where they are")
    if not one.has_ranked:
        raise InputError("none of the queries has candidates; check that queries and first stage belong together")
    with RunFolder(output or merging.common_folder(parts), one.manifest["fingerprint"]) as folder:
        if folder.manifest() and "merged" not in folder.manifest():
            raise InputError(f"{folder.path}: holds a run that was not merged; merge into another folder with --output")
        # Without a manifest the folder holds no run: whoever looks at it meanwhile is told so.
        (folder / MANIFEST).unlink(missing_ok=True)
        names = [name for name in (*RANKED_FILES, RERANKED) if name in one.manifest["files"]]
        joined = merging.join_files(parts, names, folder.path, list(queries))
        if joined.differing:
            note = f"{joined.differing} answers differ between shards; those of the first query that asked were kept"
            listener.note(note)
        folder.write_yaml("config.yaml", _resolved(config, folder.path, None if loaded else one.path))
        before, reranked, after = (_measure_file(config, folder / name, qrels, queries) for name in ORDERS)
        spent = costs.read(folder / "costs.jsonl")
        efficient = efficiency(spent, after.per_query if after else None)
        names += _write_metrics(folder, after, efficient, first_stage=before, reranked=reranked)
        merging.check_unchanged(parts)
        about = merging.joined_manifest(parts, joined.differing) | {"status": "finished", "finished": now()}
        about |= {"data": _data(queries, qrels), "ledger": _ledger(folder / LEDGER)}
        _finish_manifest(folder, about, names)
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "run.trec",
        simulated=bool(about["simulated"]),
        schedule=config.schedule,
        queries=joined.queries,
        first_stage=before,
        reranked=reranked,
        metrics=after,
        costs=costs.summary(spent),
        wall_seconds=None,
        expected=_comparable(loaded, listener) if loaded else {},
        efficiency=efficient,
    )


def _dataset_to_merge(loaded: Loaded, *, given: bool) -> Dataset:
    try:
        return open_dataset(loaded, _no_documents)
    except InputError as error:
        raise error if given else InputError(f"{error}; where the shards were moved, give --config too") from error


def _no_documents() -> Docs:
    raise InputError("merging shards reads no documents")


def _measure_file(config: Config, path: Path, qrels: Qrels | None, queries: Iterable[str]) -> Metrics | None:
    """The measures of a run file, where there is one; no more of it is in memory than the queries with judgements."""
    if not qrels or not path.is_file():
        return None
    run, _ = runfile.read(path, qrels.keys())
    rankings = {query: [doc for doc, _ in found] for query, found in run.items()}
    return evaluate.measure(evaluate.with_judged(config.evaluate.measures), qrels, rankings, queries)


def _open_stages(loaded: Loaded, rankers: Sequence[Ranker], first_stage: FirstStage) -> list[Stage]:
    """The stages, their models opened; one that several of them name is opened once."""
    setting = Setting(seed=loaded.config.seed, grades=first_stage.dataset.qrels())
    opened: list[tuple[tuple[str, ModelOptions], Backend]] = []
    stages = []
    for given, ranker, options in zip(loaded.stages, rankers, loaded.models, strict=True):
        named = ((given.model or {})["backend"], options)
        backend = next((each for name, each in opened if name == named), None)
        if backend is None:
            backend = cast("Backend", catalog.backend(named[0]).open(options, setting))
            opened.append((named, backend))
        stages.append(Stage(ranker, backend, given.depth))
    return stages


def _backends(stages: Iterable[Stage]) -> list[Backend]:
    """The stages' models, each once."""
    return list({id(stage.backend): stage.backend for stage in stages}.values())


@contextmanager
def _sharing(
    config: Config, stages: Sequence[Stage], ledger: Ledger, listener: Listener
) -> Iterator[SharedLedger | None]:
    """The shared ledger that the config names, which gets the answers that the run's own ledger has.

    A replay has none: it answers from its recording alone. Where latency is measured it comes by them at the end only.
    """
    if config.shared_ledger is None or any(isinstance(stage.backend, LedgerReplay) for stage in stages):
        yield None
        return
    with closing(SharedLedger(Path(config.shared_ledger), listener.note)) as shared:
        if config.schedule == "throughput":
            shared.offer(ledger)
        yield shared
        if config.schedule == "latency":
            shared.offer(ledger)


@dataclass(frozen=True)
class _Ranked:
    """Each query's ranking and costs, in the order of the first stage, and what the manifest says of the way there."""

    queries: dict[str, Ranked]
    unparsed: dict[str, int]
    forms: dict[str, int]
    candidates: str
    models: list[Mapping[str, object]]


def _rank(loaded: Loaded, first_stage: FirstStage, cascade: Cascade, listener: Listener) -> _Ranked:
    """Rank all queries; answers come out of the ledger where it has them."""
    candidates = contents.CandidatesDigest()
    found: dict[str, Ranked] = {}
    with closed_after(_backends(cascade.stages)):
        with listener.task("reranking, asks", None) as advance:
            queries, asks = len(first_stage.run), 0

            def tell(answered: int) -> None:
                """Expect of each query as many asks as those took that are done."""
                expected = max(answered, round(asks / len(found) * queries)) if found else None
                advance(answered, f"{len(found):,} of {queries:,} queries", expected)

            advance(0, "no answer yet: the model may be loading")
            cascade.on_answers = tell
            for ranked in cascade.rank(candidates.passing(first_stage)):
                found[ranked.cost.query_id] = ranked
                asks += ranked.cost.asks
        models = [
            manifest.portable({"backend": (given.model or {})["backend"], **stage.backend.details})
            for given, stage in zip(loaded.stages, cascade.stages, strict=True)
        ]
    return _Ranked(
        queries={query: found[query] for query in first_stage.run},
        unparsed=dict(sorted(cascade.unparsed.items())),
        forms=dict(sorted(cascade.forms.items())),
        candidates=candidates.hexdigest(),
        models=models,
    )


def _data(queries: Mapping[str, Query], qrels: Qrels | None) -> dict[str, object]:
    """The hashes of queries and judgements."""
    return {"queries": contents.queries(queries), "qrels": contents.qrels(qrels)}


def _ledger(path: Path) -> dict[str, object]:
    """The ledger's content hash, which does not depend on how SQLite lays it out, and how many answers it holds."""
    with closing(Ledger(path, read_only=True)) as ledger:
        return {"content": ledger.digest(), "answers": len(ledger)}


def _write_manifest(folder: RunFolder, about: Mapping[str, Any]) -> None:
    folder.write_json(MANIFEST, manifest.sealed(about))


def _finish_manifest(folder: RunFolder, about: Mapping[str, Any], written: Sequence[str]) -> None:
    """Write what is written last: the ir_metadata file, and the manifest with the hash of every file."""
    folder.write_yaml("ir-metadata.yml", ir_metadata.annotation(about))
    hashes = manifest.file_hashes(folder.path, [*written, "ir-metadata.yml"])
    _write_manifest(folder, {**about, "files": hashes})


def _measure(config: Config, first_stage: FirstStage, rankings: Mapping[str, Sequence[str]]) -> Metrics | None:
    qrels = first_stage.dataset.qrels()
    queries = first_stage.own_queries
    if not qrels:
        return None
    if first_stage.shard and not any(map(qrels.get, queries)) and any(map(qrels.get, first_stage.queries)):
        return None  # the judged queries are in other shards
    return evaluate.measure(evaluate.with_judged(config.evaluate.measures), qrels, rankings, queries)


def _write_metrics(
    folder: RunFolder, metrics: Metrics | None, efficient: Efficiency | None = None, **before: Metrics | None
) -> list[str]:
    """Write the metrics where there are any, those of orders before it too; return the names of the files written."""
    if metrics is None:
        return []
    content: dict[str, Any] = {"all": metrics.mean, "per_query": metrics.per_query}
    for name, found in before.items():
        if found is not None:
            content[name] = {"all": found.mean, "per_query": found.per_query}
    if efficient is not None:
        content["efficiency"] = efficient
    folder.write_json("metrics.json", content)
    return ["metrics.json"]


def _comparable(loaded: Loaded, listener: Listener) -> Mapping[str, Expected]:
    """The published figures, unless this run is of other queries or settings than theirs."""
    if loaded.config.expected and loaded.changes_ranking:
        listener.note("expected figures are skipped: --set or --queries changed the experiment they belong to")
        return {}
    return loaded.config.expected


def _resolved(config: Config, folder: Path, read_from: Path | None = None) -> dict[str, Any]:
    """The config with everything it extends, as plain YAML; its paths lead from the run's folder.

    Those that led nowhere from the folder it was `read_from`, such as a model's on another machine, still do.
    """
    content = config.model_dump(mode="json", exclude_none=True)
    for key in paths(content):
        value = value_at(content, key)
        if read_from and isinstance(value, str) and value.startswith(os.pardir):
            value = os.path.normpath(read_from.resolve() / value)
        if isinstance(value, str) and Path(value).is_absolute():
            value_at(content, key[:-1])[key[-1]] = os.path.relpath(value, folder.resolve())
    return content
