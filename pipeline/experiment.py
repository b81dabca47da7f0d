"""An experiment from config to metrics: the only file that knows every room."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from ..rerankers import catalog
from ..rerankers.backends.base import Backend, ModelOptions, Setting, closed_after
from ..rerankers.cascade import Cascade, Ranked, Stage
from ..rerankers.errors import InputError, StoppedError
from ..rerankers.hashing import file_digest
from ..rerankers.ledger import Ledger
from ..rerankers.ranker import Ranker
from ..rerankers.scheduler import Source
from ..rerankers.shared_ledger import SharedLedger
from ..rerankers.types import Cost, Query
from . import evaluate
from . import shards as merging
from .configs import load as configs
from .configs.load import DATASETS, SHIPPED, Config, Expected, Loaded, paths
from .configs.yaml_files import value_at
from .evaluate import Metrics, Qrels
from .first_stage.retrieve import FirstStage, retrieve
from .io.files import json_lines
from .io.progress import Listener, Noting
from .run import contents, costs, environment, fusion, ir_metadata, manifest, runfile, unread
from .run import read as record
from .run.efficiency import Efficiency, efficiency
from .run.executions import Executions, last_change, now
from .run.folder import RunFolder, check_is_free
from .run.fusion import RERANKED
from .run.shards import Shard

LEDGER = "ledger.sqlite"

RETRIEVED_FILES = ("config.yaml", "first_stage.trec")
"""What every run's folder holds, besides metrics and manifest."""

RANKED_FILES = (*RETRIEVED_FILES, "run.trec", "costs.jsonl", LEDGER)
"""What it holds where the candidates were reranked."""

ORDERS = ("first_stage.trec", RERANKED, "run.trec")
"""The orders on the way, as far as a run has them."""

MEASURED = ("metrics.json", "ir-metadata.yml")
"""What is made without ranking."""

RANKS_NOTHING = ("dataset", "evaluate", "expected", "max_unparsed")
"""The keys of a config that are taken anew where a finished run is only measured again."""


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
    """How long ranking took, all queries together, in all executions; None where that of one is not known."""
    expected: Mapping[str, Expected]
    """The published figures that this run can be held against."""

    shard: Shard | None
    """Which part of the experiment's queries it is about, where not about all."""
    efficiency: Efficiency | None
    """What it came to per PetaFLOP, where operations and measures are known."""
    warnings: Sequence[str]
    """Why the result is doubtful."""
    refusal: str | None
    """Why more answers are unread than the config allows, where they are."""
    executed: bool
    """Whether anything was ranked; a finished run is only shown."""


@dataclass(frozen=True)
class Plan:
    """An experiment with its first stage done and its models opened: everything that decides the ranking."""

    loaded: Loaded
    first_stage: FirstStage
    partner: fusion.Partner | None
    stages: Sequence[Stage]

    @property
    def config(self) -> Config:
        """The experiment's config."""
        return self.loaded.config

    @cached_property
    def content(self) -> dict[str, object]:
        """Return everything that can change the ranking, as the manifest records it."""
        fused = self.partner.identity if self.partner else None
        return manifest.experiment(self.first_stage.identity, self.stages, fused, self.config.seed)

    @cached_property
    def fingerprint(self) -> str:
        """Return the hash of the content."""
        return manifest.fingerprint(self.content)

    @cached_property
    def data(self) -> dict[str, str | None]:
        """Return the hashes of queries and judgements."""
        return _data(self.first_stage.queries, self.first_stage.dataset.qrels())

    def close(self) -> None:
        """Close models that were asked nothing; recorded texts would complain that none was used."""
        for backend in _backends(self.stages):
            if backend.remembers:
                backend.close()


def rerank(
    loaded: Loaded,
    output: Path | None,
    listener: Listener,
    shard: Shard | None = None,
    *,
    again: bool = False,
    sources: Sequence[Source] = (),
    refusal: Callable[[str], str] | None = None,
) -> Outcome:
    """Retrieve, rerank and evaluate; resume where an earlier run of the same experiment was cut off.

    A finished run is not executed, unless something of it is missing or `again` says so: then it is ranked out of its
    ledger. A shard does so for its part of the queries, in a folder of its own in the run's. Answers of other runs are
    copied from `sources`; with a `refusal` no model is asked, and a missing answer is an `InputError` with what it
    returns for the query. Raises `InputError` before anything is written if the input is wrong, `BackendError` if the
    model fails, and `StoppedError` on Ctrl-C; whatever was answered until then is in the run's ledger.
    """
    listener = Noting(listener, loaded.notes)
    plan = prepare(loaded, listener, shard)
    path = output or Path("runs") / f"{loaded.config.name}-{plan.fingerprint[:8]}"
    if shard:
        check_is_free(path)
        path /= shard.folder
    with _stopping(path, shard), RunFolder(path, plan.fingerprint) as folder:
        finished = _finished(folder)
        executed = again or not finished or _is_incomplete(finished, folder, loaded.config)
        if executed:
            about = _rank(plan, folder, finished, listener, sources, refusal)
            _record(plan, folder, about | {"notes": [manifest.without_folders(note) for note in listener.notes]})
        else:
            plan.close()
            if not _is_measured(finished, folder, plan):
                config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
                now_given = _resolved(loaded.config, folder.path)
                config |= {key: now_given[key] for key in RANKS_NOTHING if key in now_given}
                folder.write_yaml("config.yaml", config)
                described = manifest.description(loaded.config, [])["config"]
                config = finished["config"] | {key: described[key] for key in RANKS_NOTHING if key in described}
                _record(plan, folder, finished | {"config": config, "data": finished["data"] | plan.data})
    return _outcome(path, loaded.config, {} if shard else _comparable(loaded, listener), executed=executed)


def prepare(loaded: Loaded, listener: Listener, shard: Shard | None = None, *, weights: bool = True) -> Plan:
    """Do the first stage and open the models; the caller closes them.

    Without `weights` the models only say what they are: their devices need not be here. Raises `InputError` for
    anything that cannot be ranked or measured, before anything is asked.
    """
    rankers = loaded.rankers
    first_stage = retrieve(loaded, listener, shard)
    # Before anything is asked: can it be measured at all?
    _measure(loaded.config, first_stage, first_stage.documents, listener)
    partner = fusion.partner(loaded.config, first_stage, listener)
    stages = _open_stages(loaded, rankers, first_stage, weights=weights)
    if shard and not all(stage.backend.remembers for stage in stages):
        raise InputError("--shard: recorded texts are used up one by one, by one run; rerank without --shard")
    return Plan(loaded, first_stage, partner, stages)


@contextmanager
def _stopping(path: Path, shard: Shard | None) -> Iterator[None]:
    """On Ctrl-C, say what a run's folder keeps, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "nothing was answered yet"
        if (path / LEDGER).is_file():
            with closing(Ledger(path / LEDGER, read_only=True)) as ledger:
                kept = f"{len(ledger):,} answers are kept in {path}; queries finished: {len(ledger.finished()):,}"
        words = ["r2llm", "rerank", "--config", str(path / "config.yaml"), "--output", str(path)]
        if shard:
            words = [*words[:-1], str(path.parent), "--shard", str(shard)]
        if not (path / "config.yaml").is_file():
            raise StoppedError(f"stopped; {kept}; to go on, run the same command again") from None
        raise StoppedError(f"stopped; {kept}; to go on, run {shlex.join(words)}") from None


def _finished(folder: RunFolder) -> dict[str, Any]:
    """The manifest of a finished run in a folder; empty where there is none.

    Raises `InputError` where the manifest or any file is not what was sealed: nothing follows from a changed run.
    """
    if folder.manifest().get("status") != "finished":
        return {}
    remedy = f"r2llm verify {folder.path} says more; restore it from a backup, or remove the folder and run again"
    try:
        content = manifest.intact(folder / manifest.NAME)
    except InputError as error:
        raise InputError(f"{folder / manifest.NAME}: {error}; {remedy}") from error
    for name, recorded in content["files"].items():
        if not (folder / name).is_file():
            continue
        if name != LEDGER:
            same = file_digest(folder / name, remember=False) == recorded
        else:  # SQLite may have laid it out anew
            same = _ledger(folder / name) == content["ledger"]
        if not same:
            raise InputError(f"{folder / name}: was changed since the run was finished; {remedy}")
    return content


def _is_incomplete(finished: Mapping[str, Any], folder: RunFolder, config: Config) -> bool:
    """Whether something is wanted of a finished run that only ranking gives."""
    lost = [name for name in finished["files"] if name not in MEASURED and not (folder / name).is_file()]
    untimed = config.schedule == "latency" != finished["schedule"]
    unshared = config.shared_ledger is not None and "shared_ledger" not in finished and LEDGER in finished["files"]
    return bool(lost) or untimed or unshared or finished["name"] != config.name


def _is_measured(finished: Mapping[str, Any], folder: RunFolder, plan: Plan) -> bool:
    """Whether a finished run has the measures that the config names, over the judgements that there are."""
    same = finished["config"]["evaluate"]["measures"] == list(plan.config.evaluate.measures)
    there = all((folder / name).is_file() for name in finished["files"])
    return same and there and finished["data"]["qrels"] == plan.data["qrels"]


def _rank(
    plan: Plan,
    folder: RunFolder,
    finished: Mapping[str, Any],
    listener: Listener,
    sources: Sequence[Source] = (),
    refusal: Callable[[str], str] | None = None,
) -> dict[str, Any]:
    """Rank all queries and write what came of it; return the manifest, but for measures and hashes of files."""
    config, first_stage, stages, partner = plan.config, plan.first_stage, plan.stages, plan.partner
    rankers = [stage.ranker for stage in stages]
    # A latency that was measured is not given up for the throughput of asking nothing.
    schedule = "latency" if finished.get("schedule") == "latency" else config.schedule
    earlier, last_answer = folder.manifest().get("executions", []), last_change(folder / LEDGER)
    if len(earlier) == 1:  # an earlier version told the time of ranking beside it
        earlier = [{"seconds": finished.get("wall_seconds"), **earlier[0]}]
    about: dict[str, Any] = {"name": config.name, "fingerprint": plan.fingerprint}
    about |= {"simulated": any(stage.backend.simulated for stage in stages)}
    if shard := first_stage.shard:
        about |= {"shard": {"number": shard.number, "of": shard.of}}
    about |= {"experiment": plan.content, "environment": environment.environment()}
    about |= manifest.description(config, [prompt for ranker in rankers for prompt in ranker.prompts])
    about |= {"schedule": schedule, "data": plan.data, "queries": len(first_stage.run), "status": "running"}
    # First of all: from now on whatever is in the folder is the run's.
    _write_manifest(folder, about | {"executions": earlier})
    folder.write_yaml("config.yaml", _resolved(config, folder.path))
    if not first_stage.run:
        for backend in _backends(stages):
            backend.close()
        executions = Executions([], 0, None)
        executions.finish(0)
        return about | {"started": executions.listed()[0]["started"], "executions": executions.listed()}
    with closing(Ledger(folder / LEDGER)) as ledger, _sharing(plan, schedule, ledger, listener) as shared:
        executions = Executions(earlier, len(ledger), last_answer, shared=shared is not None)
        about |= {"started": executions.listed()[0]["started"], "finished": None}
        _write_manifest(folder, about | {"executions": executions.listed()})
        runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
        pooled = schedule == "throughput"
        spent = _earlier_costs(folder, finished, ledger, schedule)
        publishing = shared if pooled else None
        cascade = Cascade(
            stages,
            ledger,
            pooled=pooled,
            shared=publishing,
            sources=(*sources, *([publishing] if publishing else [])),
            refusal=refusal,
            finished=spent.keys(),
        )
        begun = time.perf_counter()
        ranked = _rank_queries(plan, cascade, spent, schedule, listener)
        executions.finish(cascade.tally.calls, time.perf_counter() - begun)
    rankings: Mapping[str, Sequence[str]] = {query: each.ranking.docs for query, each in ranked.queries.items()}
    if partner is not None:
        unfused = fusion.scored({query: each.ranking for query, each in ranked.queries.items()})
        runfile.write_scored(folder / RERANKED, unfused, config.name)
        rankings = partner.joined(unfused)
    runfile.write(folder / "run.trec", rankings, first_stage.documents, config.name)
    folder.write_json_lines(
        "costs.jsonl", [costs.row(each.costs, _methods(stages)) for each in ranked.queries.values()]
    )
    about |= {"executions": executions.listed(), "wall_seconds": executions.seconds}
    about |= {"shared_ledger": {"taken": shared.taken, "published": shared.published}} if shared else {}
    tally = cascade.tally
    about |= {"unparsed": tally.unread.total(), "unparsed_by_kind": tally.unread_by_kind}
    about |= {"answer_forms": dict(sorted(tally.forms.items())), "unread": unread.unread(tally)}
    about |= {"equal_scores": sum(_are_equal(each.ranking.scores) for each in ranked.queries.values())}
    about |= {"models": ranked.models} if manifest.is_cascade(stages) else {"model": ranked.models[0]}
    return about | {"data": plan.data | {"candidates": ranked.candidates}, "ledger": _ledger(folder / LEDGER)}


def _methods(stages: Sequence[Stage]) -> list[str]:
    return [stage.ranker.method.name for stage in stages]


def _are_equal(scores: Sequence[float] | None) -> bool:
    """Whether scores of several documents are all one."""
    return scores is not None and len(scores) > 1 and len(set(scores)) == 1


def _earlier_costs(
    folder: RunFolder, finished: Mapping[str, Any], ledger: Ledger, schedule: str
) -> Mapping[str, Sequence[Cost]]:
    """What the queries cost that earlier executions finished, stage by stage, where they ran on this schedule."""
    path = folder / "costs.jsonl"
    if finished.get("schedule", schedule) != schedule:
        return {}
    if finished and path.is_file():
        return costs.by_stage(path, json_lines(path))
    rows = enumerate(map(json.loads, ledger.finished().values()), 1)
    return costs.by_stage(folder / LEDGER, ((number, row) for number, row in rows if row["schedule"] == schedule))


def _record(plan: Plan, folder: RunFolder, about: dict[str, Any]) -> None:
    """Measure what a folder holds, and finish its manifest."""
    first_stage = plan.first_stage
    qrels = None if _is_judged_elsewhere(first_stage) else first_stage.dataset.qrels()
    written = [name for name in (*RANKED_FILES, RERANKED) if (folder / name).is_file()]
    written += _evaluate(plan.config, folder, qrels, first_stage.own_queries)
    _finish_manifest(folder, about, written)


def fingerprint(loaded: Loaded) -> str:
    """Return the fingerprint that a run of the config has: its first stage is done, and its models are opened.

    Raises `InputError` and `BackendError` as `rerank` does before anything is ranked.
    """
    if loaded.config.ranker is None and loaded.config.stages is None:
        return manifest.fingerprint(retrieve(loaded, Listener()).identity)
    plan = prepare(loaded, Listener())
    plan.close()
    return plan.fingerprint


def retrieve_only(loaded: Loaded, output: Path | None, listener: Listener) -> Outcome:
    """Do the first stage alone, write it as `first_stage.trec`, and evaluate it where there are judgements."""
    config = loaded.config
    listener = Noting(listener, loaded.notes)
    started = now()
    first_stage = retrieve(loaded, listener)
    metrics = _measure(config, first_stage, first_stage.documents, listener)
    fingerprint = manifest.fingerprint(first_stage.identity)
    path = output or Path("runs") / f"{config.name}-first-stage-{fingerprint[:8]}"
    with RunFolder(path, fingerprint) as folder:
        about = {"name": config.name, "fingerprint": fingerprint, "simulated": False}
        about |= {"experiment": first_stage.identity, "environment": environment.environment()}
        about |= manifest.description(config, []) | {"data": _data(first_stage.queries, first_stage.dataset.qrels())}
        about |= {"queries": len(first_stage.run), "started": started, "status": "running"}
        about |= {"notes": [manifest.without_folders(note) for note in listener.notes]}
        _write_manifest(folder, about)
        folder.write_yaml("config.yaml", _resolved(config, folder.path))
        runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
        _finish_manifest(folder, about, [*RETRIEVED_FILES, *_write_metrics(folder, metrics)])
    return _outcome(path, config, {})


def _outcome(path: Path, config: Config, expected: Mapping[str, Expected], *, executed: bool = True) -> Outcome:
    """What a finished run's folder says that it came to."""
    run = record.read(path)
    about, spent = run.manifest, run.costs
    orders = {name: run.metrics.get(name) for name in ("first_stage", "reranked")} | {"": run.metrics}
    metrics = {name: Metrics(each["all"], each["per_query"]) if each else None for name, each in orders.items()}
    asks = int(spent["asks"]["total"] or 0) if spent else 0
    return Outcome(
        name=about["name"],
        run_dir=path,
        run_file=path / ("run.trec" if manifest.stages(about["experiment"]) else "first_stage.trec"),
        simulated=about["simulated"],
        schedule=about["schedule"],
        queries=about.get("queries", spent["asks"]["queries"] if spent else 0),
        first_stage=metrics["first_stage"],
        reranked=metrics["reranked"],
        metrics=metrics[""],
        costs=spent,
        wall_seconds=about.get("wall_seconds"),
        expected=expected,
        shard=Shard(**about["shard"]) if "shard" in about else None,
        efficiency=run.metrics.get("efficiency"),
        warnings=about.get("warnings", ()),
        refusal=unread.refusal(about, asks, config.max_unparsed),
        executed=executed,
    )


def merge(run_dirs: Sequence[Path], output: Path | None, listener: Listener, loaded: Loaded | None = None) -> Outcome:
    """Rank once more from the ledgers of the shards in these folders, into `output` or the folder they are in.

    No model is asked or needed; the dataset is. `loaded` is the config that was sharded, by default the shards' own.
    Raises `InputError` if they are not all there and whole, or do not have every answer.
    """
    shards = merging.Shards(run_dirs, listener, loaded)
    about, source = shards.first.manifest, shards.first.path
    own = loaded or configs.load(str((source / "config.yaml").resolve()))
    try:
        first_stage = shards.first_stage(own, listener)
        partner = fusion.partner(own.config, first_stage, listener)
    except InputError as error:
        raise error if loaded else InputError(f"{error}; if the shards were moved, give --config too") from error
    depths = [stage.depth for stage in own.stages]
    plan = Plan(own, first_stage, partner, list(map(Stage, own.rankers, shards.models(), depths)))
    if plan.fingerprint != about["fingerprint"]:
        raise InputError(f"{source}: its config is another experiment here than it was there; merge with that r2llm")
    path = output or shards.folder
    with RunFolder(path, plan.fingerprint) as folder:
        if folder.manifest() and "merged" not in folder.manifest():
            raise InputError(f"{path}: holds a run that was not merged; merge into another folder with --output")
        # Until it is whole, whoever looks at it is told that it is not finished.
        _write_manifest(folder, {**about, "status": "running", "merged": {}})
        rows = (row for part in shards.ranked for _, row in json_lines(part.path / "costs.jsonl"))
        folder.write_json_lines("costs.jsonl", rows)
        differing = shards.join_ledgers(folder / LEDGER, first_stage.queries)
        if differing:
            note = f"{differing} answers differ between shards; those of the first query that asked were kept"
            listener.note(note)
        about = _rank(plan, folder, {"schedule": about["schedule"]}, listener)
        folder.write_yaml("config.yaml", _resolved(own.config, folder.path, None if loaded else source))
        shards.check_unchanged()
        _record(plan, folder, about | shards.content(differing))
    return _outcome(path, own.config, _comparable(loaded, listener) if loaded else {})


def _measure_file(config: Config, path: Path, qrels: Qrels | None, queries: Iterable[str]) -> Metrics | None:
    """The measures of a run file, where there is one; no more of it is in memory than the queries with judgements."""
    if not qrels or not path.is_file():
        return None
    run, _ = runfile.read(path, qrels.keys())
    rankings = {query: [doc for doc, _ in found] for query, found in run.items()}
    return evaluate.measure(evaluate.with_judged(config.evaluate.measures), qrels, rankings, queries)


def _open_stages(loaded: Loaded, rankers: Sequence[Ranker], first_stage: FirstStage, *, weights: bool) -> list[Stage]:
    """The stages, their models opened; one that several of them name is opened once."""
    setting = Setting(seed=loaded.config.seed, grades=first_stage.dataset.qrels(), weights=weights)
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
def _sharing(plan: Plan, schedule: str, ledger: Ledger, listener: Listener) -> Iterator[SharedLedger | None]:
    """The shared ledger that the config names, which gets the answers that the run's own ledger has.

    A replay has none: it answers from its recording alone. Where latency is measured it comes by them at the end only.
    """
    folder = plan.config.shared_ledger
    if folder is None or any(stage.backend.recorded for stage in plan.stages):
        yield None
        return
    with closing(SharedLedger(Path(folder), listener.note)) as shared:
        if schedule == "throughput":
            shared.offer(ledger)
        yield shared
        if schedule == "latency":
            shared.offer(ledger)


@dataclass(frozen=True)
class _Ranked:
    """Each query's ranking and costs, in the order of the first stage, and what the manifest says of the way there."""

    queries: dict[str, Ranked]
    candidates: str
    models: list[Mapping[str, object]]


def _rank_queries(
    plan: Plan, cascade: Cascade, earlier: Mapping[str, Sequence[Cost]], schedule: str, listener: Listener
) -> _Ranked:
    """Rank all queries; answers come out of the ledger where it has them, and costs are kept there."""
    candidates = contents.CandidatesDigest()
    done: dict[str, Ranked] = {}
    methods = _methods(plan.stages)
    with closed_after(_backends(cascade.stages)):
        with listener.task("reranking, asks", None) as advance:
            queries, asks = len(plan.first_stage.run), 0

            def tell(answered: int) -> None:
                """Expect of each query as many asks as those took that are done."""
                expected = max(answered, round(asks / len(done) * queries)) if done else None
                advance(answered, f"{len(done):,} of {queries:,} queries", expected)

            advance(0, "no answer yet: the model may be loading")
            cascade.on_answers = tell
            for ranked in cascade.rank(candidates.passing(plan.first_stage)):
                query = ranked.cost.query_id
                spent = costs.with_earlier(ranked.costs, earlier.get(query, ()))
                done[query] = replace(ranked, costs=spent)
                if query not in earlier:
                    cascade.ledger.finish(query, json.dumps({"schedule": schedule, **costs.row(spent, methods)}))
                asks += ranked.cost.asks
        models = [
            manifest.portable({"backend": (given.model or {})["backend"], **stage.backend.details})
            for given, stage in zip(plan.loaded.stages, cascade.stages, strict=True)
        ]
    return _Ranked({query: done[query] for query in plan.first_stage.run}, candidates.hexdigest(), models)


def _data(queries: Mapping[str, Query], qrels: Qrels | None) -> dict[str, str | None]:
    """The hashes of queries and judgements."""
    return {"queries": contents.queries(queries), "qrels": contents.qrels(qrels)}


def _ledger(path: Path) -> dict[str, object]:
    """The ledger's content hash, which does not depend on how SQLite lays it out, and how many answers it holds."""
    with closing(Ledger(path, read_only=True)) as ledger:
        return {"content": ledger.digest(), "answers": len(ledger)}


def _write_manifest(folder: RunFolder, about: Mapping[str, Any]) -> None:
    folder.write_json(manifest.NAME, manifest.sealed(about))


def _finish_manifest(folder: RunFolder, about: dict[str, Any], written: Sequence[str]) -> None:
    """Write what is written last: the ir_metadata file, and the manifest with the hash of every file."""
    about |= {"status": "finished", "finished": about.get("finished") or now()}
    if "unread" in about:
        about |= {"warnings": unread.warnings(about, sum(cost.asks for cost in costs.read(folder / "costs.jsonl")))}
    if "first_stage.trec" in written:  # else a shard without candidates
        folder.write_yaml("ir-metadata.yml", ir_metadata.annotation(about))
        written = [*written, "ir-metadata.yml"]
    _write_manifest(folder, about | {"files": manifest.file_hashes(folder.path, written)})


def _measure(
    config: Config, first_stage: FirstStage, rankings: Mapping[str, Sequence[str]], listener: Listener
) -> Metrics | None:
    """Return the measures, or None where there are no judgements; the listener hears what they leave out."""
    qrels = first_stage.dataset.qrels()
    if not qrels or _is_judged_elsewhere(first_stage):
        return None
    names = evaluate.with_judged(config.evaluate.measures)
    metrics = evaluate.measure(names, qrels, rankings, first_stage.own_queries)
    for note in evaluate.notes(names, qrels, rankings, first_stage.own_queries):
        listener.note(note)
    return metrics


def _is_judged_elsewhere(first_stage: FirstStage) -> bool:
    """Whether all judged queries are in other shards than this one."""
    qrels = first_stage.dataset.qrels() or {}
    judged = (any(map(qrels.get, queries)) for queries in (first_stage.own_queries, first_stage.queries))
    return first_stage.shard is not None and tuple(judged) == (False, True)


def _evaluate(config: Config, folder: RunFolder, qrels: Qrels | None, queries: Iterable[str]) -> list[str]:
    """Measure the orders in a folder, as far as it has them; return the names of the files written."""
    if not (folder / "costs.jsonl").is_file():  # a shard without candidates
        return []
    queries = list(queries)
    before, reranked, after = (_measure_file(config, folder / name, qrels, queries) for name in ORDERS)
    efficient = efficiency(costs.read(folder / "costs.jsonl"), after.per_query if after else None)
    return _write_metrics(folder, after, efficient, first_stage=before, reranked=reranked)


def _write_metrics(
    folder: RunFolder, metrics: Metrics | None, efficient: Efficiency | None = None, **before: Metrics | None
) -> list[str]:
    """Write the metrics where there are any, those of orders before it too; return the names of the files written."""
    if metrics is None:
        (folder / "metrics.json").unlink(missing_ok=True)
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
            shipped = key in DATASETS and Path(value).parent == SHIPPED.resolve()
            value_at(content, key[:-1])[key[-1]] = (
                Path(value).name if shipped else os.path.relpath(value, folder.resolve())
            )
    return content
