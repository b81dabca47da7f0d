"""An experiment from config to metrics: the only file that knows every room."""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from zlib import crc32

from ..rerankers.accounting import Tally, total
from ..rerankers.backends.base import Backend, Setting, closed_after
from ..rerankers.backends.replay import Recorded
from ..rerankers.cascade import Cascade, Ranked, first
from ..rerankers.errors import InputError, StoppedError
from ..rerankers.hashing import file_digest
from ..rerankers.ledger import Ledger
from ..rerankers.models import KeptModels
from ..rerankers.shared_ledger import SharedLedger
from ..rerankers.types import Answer, Ask, Cost
from .configs.load import SHIPPED, Config, DatasetMark, Expected, Loaded, paths
from .configs.yaml_files import value_at
from .datasets import Dataset
from .first_stage.retrieve import FirstStage, chosen_queries, retrieve
from .io.progress import Advance, Listener, Noting
from .run import contents, costs, energy, environment, fusion, ir_metadata, manifest, runfile
from .run import measures as evaluation
from .run import plan as planning
from .run.folder import LEDGER, WRITTEN, RunFolder, check_is_free
from .run.fusion import RERANKED
from .run.manifest import Execution, LedgerContent, Manifest, last_change, now, seconds
from .run.measures import Metrics
from .run.plan import Plan
from .run.read import METRICS, Run, RunMeasures, read
from .run.shards import Shard

RANKS_NOTHING = ("dataset", "evaluate", "expected", "max_unparsed")
"""The keys of a config that cannot change a ranking, but what is said of it."""


def rerank(
    loaded: Loaded,
    output: Path | None,
    listener: Listener,
    shard: Shard | None = None,
    *,
    again: bool = False,
) -> Run:
    """Retrieve, rerank and evaluate; resume where an earlier run of the same experiment was cut off.

    Its folder is `output`, or NAME-FINGERPRINT in `runs/`. A finished run is only shown, unless something of it is
    missing, other measures are wanted or `again` says so: then it is ranked out of its ledger. A shard is a part of the
    queries, in a folder of its own in the run's. Raises `InputError` before anything is written if the input is wrong,
    `BackendError` if the model fails, and `StoppedError` on Ctrl-C; what was answered until then is in the ledger.
    """
    listener = Noting(listener, loaded.notes)
    plan = prepare(loaded, listener, shard)
    path = output or Path("runs", plan.folder)
    if shard:
        check_is_free(path)
        path /= shard.folder
    return perform(plan, path, listener, again=again)


def perform(plan: Plan, path: Path, listener: Noting, *, again: bool = False) -> Run:
    """Rank and evaluate what was prepared, in this folder; the listener has the notes until then. See `rerank`."""
    shard = plan.first_stage.shard
    with _stopping(path, shard), RunFolder(path, plan.fingerprint) as folder:
        finished = _finished(folder)
        executed = again or finished is None or _wants_ranking(finished, folder, plan)
        if finished is None or executed:
            about = (rank if plan.first_stage.run else _rank_nothing)(plan, folder, listener, finished)
            about.notes = [manifest.without_folders(note) for note in listener.notes]
            record(plan, folder, about)
        else:
            plan.close()
            if not finished.shared_ledger and (folder / LEDGER).is_file():
                ledger = Ledger(folder / LEDGER, read_only=True)
                with closing(ledger), _sharing(plan, "throughput", ledger, listener):
                    pass  # its answers are given, and none is needed
    expected = {} if shard else comparable(plan.loaded, listener)
    return replace(read(path), expected=expected, executed=executed)


def retrieve_only(loaded: Loaded, output: Path | None, listener: Listener) -> Run:
    """Do the first stage alone, write it as `first_stage.trec`, and evaluate it if there are judgements."""
    listener = Noting(listener, loaded.notes)
    started = now()
    plan = _plan(loaded, listener)
    path = output or Path("runs") / f"{loaded.config.name}-first-stage-{plan.fingerprint[:8]}"
    with RunFolder(path, plan.fingerprint) as folder:
        about = _begun(plan, folder, started=started)
        about.notes = [manifest.without_folders(note) for note in listener.notes]
        runfile.write_scored(folder / "first_stage.trec", plan.first_stage.run, loaded.config.name)
        record(plan, folder, about)
    return read(path)


def fingerprint(loaded: Loaded) -> str:
    """Return the fingerprint of the config's run, for which the first stage is done and the models are described.

    Raises as `prepare` does.
    """
    ranks = loaded.config.ranker is not None or loaded.config.stages is not None
    plan = prepare(loaded, Listener()) if ranks else _plan(loaded, Listener())
    plan.close()
    return plan.fingerprint


# Prepare


def prepare(
    loaded: Loaded,
    listener: Listener,
    shard: Shard | None = None,
    *,
    weights: bool = True,
    kept: KeptModels | None = None,
) -> Plan:
    """Do the first stage and open the models, or take those that are `kept` open; the caller closes the others.

    Without `weights` the models only say what they are: their devices need not be here. Raises `InputError` for
    anything that cannot be ranked or measured, before anything is asked.
    """
    plan = _plan(loaded, listener, shard)
    partner = fusion.partner(loaded.config, plan.first_stage, listener)
    setting = Setting(seed=loaded.config.seed, grades=plan.first_stage.dataset.qrels(), weights=weights)
    stages = planning.stages(loaded, planning.open_models(loaded, setting, kept or KeptModels()))
    if shard and not all(stage.backend.remembers for stage in stages):
        raise InputError("--shard: recorded texts are used up one by one, by one run; rerank without --shard")
    return replace(plan, partner=partner, stages=stages, kept=kept or ())


def _plan(loaded: Loaded, listener: Listener, shard: Shard | None = None) -> Plan:
    """Do the first stage and measure it: what cannot be measured is refused before anything is asked."""
    plan = Plan(loaded, retrieve(loaded, listener, shard), None, [])
    if plan.before and plan.qrels:
        names, queries = list(plan.before.mean), plan.first_stage.own_queries
        for note in evaluation.notes(names, plan.qrels, plan.first_stage.run, queries):
            listener.note(note)
    return plan


def recorded(
    loaded: Loaded, dataset: Dataset, about: Manifest, hits: runfile.Run, models: Iterable[Backend], listener: Listener
) -> Plan:
    """Return the experiment in the config's words; what dataset and models say of themselves is as a manifest has it.

    `hits` are the run's first stage. A config of another experiment than the manifest's shows in the plan's content.
    """
    config, queries = loaded.config, chosen_queries(dataset.queries(), loaded.config.queries)
    identity = {**about.first_stage, "depth": config.first_stage.depth, "order": config.first_stage.order}
    if bm25 := config.first_stage.bm25:
        identity["source"] = {**about.first_stage["source"], "k1": bm25.k1, "b": bm25.b}
    settings = config.first_stage.order, config.shuffle_seed, about.shard
    run = {query: hits[query] for query in (*queries, *hits) if query in hits}
    first_stage = FirstStage(dataset, queries, run, dataset.docs(), identity, *settings)
    each = chain(models, repeat(Recorded({"backend": "none"})))  # also for stages that the run did not have
    stages = planning.stages(loaded, each) if about.stages else []
    return Plan(loaded, first_stage, fusion.partner(config, first_stage, listener), stages)


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
        command = "the same command again"
        if (path / "config.yaml").is_file():
            where = [str(path.parent), "--shard", str(shard)] if shard else [str(path)]
            command = shlex.join(["r2llm", "rerank", "--config", str(path / "config.yaml"), "--output", *where])
        raise StoppedError(f"stopped; {kept}; to go on, run {command}") from None


# A finished run


def _finished(folder: RunFolder) -> Manifest | None:
    """Return the manifest of a finished run in a folder, or None if there is none.

    Raises `InputError` if the manifest or any file is not what was sealed: nothing follows from a changed run.
    """
    if not folder.earlier or folder.earlier.status != "finished":
        return None
    remedy = f"r2llm verify {folder.path} says more; restore it from a backup, or remove the folder and run again"
    try:
        about = manifest.intact(folder / manifest.NAME)
    except InputError as error:
        raise InputError(f"{folder / manifest.NAME}: {error}; {remedy}") from error
    for name, digest in about.files.items():
        if not (folder / name).is_file():
            continue
        # SQLite may have laid out the ledger anew.
        path, is_ledger = folder / name, name == LEDGER
        if ledger_content(path) != about.ledger if is_ledger else file_digest(path, remember=False) != digest:
            raise InputError(f"{folder / name}: was changed since the run was finished; {remedy}")
    return about


def _wants_ranking(finished: Manifest, folder: RunFolder, plan: Plan) -> bool:
    """Return whether a finished run lacks a file, a latency, or what its config says of measures now."""
    lost = any(not (folder / name).is_file() for name in finished.files)
    untimed = plan.config.schedule == "latency" != finished.schedule
    then, now = finished.content["config"], manifest.description(plan.config, [])["config"]
    changed = any(then.get(key) != now.get(key) for key in (*RANKS_NOTHING, "name"))
    return lost or untimed or changed or finished.data["qrels"] != plan.data["qrels"]


# Rank


def rank(plan: Plan, folder: RunFolder, listener: Listener, finished: Manifest | None = None) -> Manifest:
    """Rank all queries and write what came of it; return the manifest, but for measures and hashes of files.

    `finished` is the manifest of the run whose `costs.jsonl` and ledger are in the folder, if it is finished.
    """
    # A latency that was measured is not given up for the throughput of asking nothing.
    schedule = "latency" if finished and finished.schedule == "latency" else plan.config.schedule
    earlier, last_answer = folder.earlier.executions if folder.earlier else [], last_change(folder / LEDGER)
    if finished and len(earlier) == 1 and earlier[0].seconds is None:  # an earlier version had it beside it
        earlier[0].seconds = finished.wall_seconds
    about, tally = _begun(plan, folder, finished, schedule=schedule, executions=earlier), Tally()
    with closing(Ledger(folder / LEDGER)) as ledger, _sharing(plan, schedule, ledger, listener) as shared:
        execution = Execution.begin(len(ledger), shared=shared is not None)
        about.executions = [*(each.closed(len(ledger), last_answer) for each in earlier), execution]
        about.started = about.executions[0].started
        folder.write_manifest(about)
        runfile.write_scored(folder / "first_stage.trec", plan.first_stage.run, plan.config.name)
        spent = _earlier_costs(folder, finished, ledger, schedule)
        pooled = schedule == "throughput"
        ledger.shared = shared if pooled else None
        cascade = Cascade(plan.stages, ledger, pooled, finished=spent.keys(), tally=tally)
        with closed_after(plan.backends):
            asks = _asks_of_first_query(plan)
            with energy.tracking() as joules:
                begun = time.perf_counter()
                ranked, candidates = _rank_queries(plan, cascade, spent, schedule, asks, listener)
                took = time.perf_counter() - begun
            execution.finish(tally.calls, took, joules)
            details = [
                manifest.portable({"backend": (section.model or {})["backend"], **stage.backend.details})
                for section, stage in zip(plan.loaded.stages, plan.stages, strict=True)
            ]
    _write_orders(plan, folder, ranked)
    about.wall_seconds = seconds(about.executions)
    if shared:
        about.shared_ledger = {"taken": shared.taken, "published": shared.published}
    about.unparsed, about.unparsed_by_kind = tally.unread.total(), tally.unread_by_kind
    about.answer_forms, about.unread = dict(sorted(tally.forms.items())), manifest.unread(tally)
    about.equal_scores = sum(len(set(one.ranking.scores or ())) == 1 < len(one.ranking.docs) for one in ranked.values())
    if manifest.is_cascade(plan.stages):
        about.models = details
    else:
        about.model = details[0]
    about.ledger, about.data = ledger_content(folder / LEDGER), about.data | {"candidates": candidates}
    return about


def _rank_nothing(plan: Plan, folder: RunFolder, _: Listener, finished: Manifest | None) -> Manifest:
    """Return the manifest of a shard whose queries have no candidates."""
    for backend in plan.backends:
        backend.close()
    execution = Execution.begin()
    execution.finish(0)
    return _begun(plan, folder, finished, executions=[execution], started=execution.started)


def _write_orders(plan: Plan, folder: RunFolder, ranked: Mapping[str, Ranked]) -> None:
    """Write the run files of what was ranked, and the costs of each query."""
    name, (rankings, unfused) = plan.config.name, plan.orders({query: one.ranking for query, one in ranked.items()})
    if unfused:
        runfile.write_scored(folder / RERANKED, unfused, name)
    runfile.write(folder / "run.trec", rankings, plan.first_stage.documents, name)
    methods = [stage.ranker.method.name for stage in plan.stages]
    folder.write_json_lines("costs.jsonl", (costs.row(one.costs, methods) for one in ranked.values()))


def _begun(plan: Plan, folder: RunFolder, finished: Manifest | None = None, **known: object) -> Manifest:
    """Write the manifest and the config of a run that begins: from now on whatever is in its folder is the run's.

    `known` are fields of the manifest. Of a run that was `finished` before, the environment of then is kept.
    """
    about = Manifest.model_validate(
        {
            "version": manifest.VERSION,
            "name": plan.config.name,
            "fingerprint": plan.fingerprint,
            "simulated": any(stage.backend.simulated for stage in plan.stages),
            **({"shard": plan.first_stage.shard} if plan.first_stage.shard else {}),
            "experiment": plan.content,
            "environment": finished.environment if finished else environment.environment(),
            **({"merged": finished.merged} if finished and finished.merged else {}),
            **manifest.description(plan.config, [prompt for stage in plan.stages for prompt in stage.ranker.prompts]),
            "data": plan.data,
            "queries": len(plan.first_stage.run),
            "status": "running",
            **known,
        }
    )
    folder.write_manifest(about)
    folder.write_yaml("config.yaml", resolved(plan.config, folder.path))
    return about


def _earlier_costs(
    folder: RunFolder, finished: Manifest | None, ledger: Ledger, schedule: str
) -> Mapping[str, Sequence[Cost]]:
    """Return the costs by stage of the queries that earlier executions finished on this schedule."""
    path = folder / "costs.jsonl"
    if finished and finished.schedule != schedule:
        return {}
    if finished and path.is_file():
        return costs.read(path)
    rows = enumerate(map(json.loads, ledger.finished().values()), 1)
    return costs.by_stage(folder / LEDGER, ((number, row) for number, row in rows if row["schedule"] == schedule))


@contextmanager
def _sharing(plan: Plan, schedule: str, ledger: Ledger, listener: Listener) -> Iterator[SharedLedger | None]:
    """Open the shared ledger that the config names, and publish what the run's own ledger has.

    None for a replay, which answers from its recording alone. Where latency is measured it is published at the end.
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


def _rank_queries(
    plan: Plan, cascade: Cascade, earlier: Mapping[str, Sequence[Cost]], schedule: str, asks: int, listener: Listener
) -> tuple[dict[str, Ranked], str]:
    """Return each query's ranking and costs, in the order of the first stage, and the hash of all candidates.

    Answers come out of the ledger if it has them, and the costs of each query that is done are kept there. The listener
    hears of all answers; their total is what the queries done took, and `asks` for each other query.
    """
    sha256, done, known = hashlib.sha256(), dict[str, Ranked](), 0
    methods = [stage.ranker.method.name for stage in plan.stages]
    advance: Advance | None = None
    with ExitStack() as stack:
        loads = any(options.asks_model and not options.remote for options in plan.loaded.models)
        stack.enter_context(listener.task("loading the model" if loads else "waiting for the first answer", None))

        def tell(answered: int) -> None:
            nonlocal advance
            left = len(plan.first_stage.run) - len(done)
            total = max(answered, known + asks * left)
            if advance is None:
                stack.close()
                advance = stack.enter_context(listener.task("reranking, asks", total))
            advance(answered, f"{len(done):,} of {len(plan.first_stage.run):,} queries", total)

        cascade.tally.listener = tell
        for ranked in cascade.rank(contents.hashed(plan.first_stage, sha256)):
            query = ranked.costs[0].query_id
            spent = costs.with_earlier(ranked.costs, earlier.get(query, ()))
            done[query] = replace(ranked, costs=spent)
            known += ranked.cost.asks
            if query not in earlier:
                cascade.ledger.finish(query, json.dumps({"schedule": schedule, **costs.row(spent, methods)}))
    return {query: done[query] for query in plan.first_stage.run}, sha256.hexdigest()


def _asks_of_first_query(plan: Plan) -> int:
    """Return the asks about the first query if each document had a relevance of its own."""
    candidates = next(iter(plan.first_stage))
    asks = 0
    for stage in plan.stages:
        steps = stage.ranker.steps(first(candidates, stage.depth))
        with suppress(StopIteration):
            posed = next(steps)
            while True:
                asks += sum(ask.kind != "derive" for ask in posed)
                posed = steps.send([_guess(ask) for ask in posed])
    return asks


def _guess(ask: Ask) -> Answer:
    scores = [float(crc32(doc.encode())) for doc in ask.docs]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    return Answer(choice=order[0] if order else 0, order=tuple(order), scores=tuple(scores))


# Evaluate and record


def record(plan: Plan, folder: RunFolder, about: Manifest) -> None:
    """Measure what a folder holds, and write what is written last: measures, annotation, the manifest with hashes."""
    path = folder / "costs.jsonl"
    spent = list(map(total, costs.read(path).values())) if path.is_file() else []
    if measures := evaluated(plan, folder.path, spent):
        folder.write_json(METRICS, measures.content)
    else:
        (folder / METRICS).unlink(missing_ok=True)
    about.status, about.finished = "finished", about.finished or now()
    if "unread" in about.model_fields_set:
        about.warnings = about.doubts(sum(cost.asks for cost in spent))
    if (folder / "first_stage.trec").is_file():  # else a shard without candidates
        folder.write_yaml("ir-metadata.yml", ir_metadata.annotation(about))
    kept = [name for name in WRITTEN if (folder / name).is_file()]
    about.files = {name: file_digest(folder / name, remember=False) for name in kept}
    folder.write_manifest(about)


def evaluated(plan: Plan, folder: Path, spent: Sequence[Cost]) -> RunMeasures | None:
    """Return the measures of the orders in a folder, or None without judgements or candidates."""
    if not plan.before or not plan.first_stage.run:
        return None
    if not plan.stages:
        return RunMeasures.model_validate(plan.before)
    after, reranked = (_measured_file(plan, folder / name) for name in ("run.trec", RERANKED))
    if after is None:
        return None
    orders = {"mean": after.mean, "per_query": after.per_query, "first_stage": plan.before, "reranked": reranked}
    return RunMeasures.model_validate({**orders, "efficiency": costs.efficiency(spent, after.per_query)})


def _measured_file(plan: Plan, path: Path) -> Metrics | None:
    """Return the measures of a run file, or None if there is none; only judged queries are in memory."""
    if not path.is_file():
        return None
    return plan.measured(runfile.documents(runfile.read(path, (plan.qrels or {}).keys(), intern=True)[0]))


def ledger_content(path: Path) -> LedgerContent:
    """Return a ledger's content hash and its number of answers. Raises `InputError` if it cannot be read."""
    with closing(Ledger(path, read_only=True)) as ledger:
        return LedgerContent(content=ledger.digest(), answers=len(ledger))


def comparable(loaded: Loaded, listener: Listener) -> Mapping[str, Expected]:
    """Return the published figures, or {} if --set or --queries changed the experiment."""
    if loaded.config.expected and loaded.changes_ranking:
        listener.note("expected figures are skipped: --set or --queries changed the experiment they belong to")
        return {}
    return loaded.config.expected


def resolved(config: Config, folder: Path, read_from: Path | None = None) -> dict[str, Any]:
    """Return the config with everything it extends, as plain YAML; its paths lead from the run's folder.

    A path that led nowhere from the folder it was `read_from`, such as a model's on another machine, still does.
    """
    content = config.model_dump(mode="json", exclude_none=True)
    for key, mark in paths(content).items():
        value = value_at(content, key)
        if read_from and isinstance(value, str) and value.startswith(os.pardir):
            value = os.path.normpath(read_from.resolve() / value)
        if isinstance(value, str) and Path(value).is_absolute():
            shipped = isinstance(mark, DatasetMark) and Path(value).parent == SHIPPED.resolve()
            value = Path(value).name if shipped else os.path.relpath(value, folder.resolve())
        value_at(content, key[:-1])[key[-1]] = value
    return content
