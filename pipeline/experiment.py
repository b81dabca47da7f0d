"""An experiment from config to metrics: the only file that knows every room."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..rerankers import catalog
from ..rerankers.backends import Backend, ModelOptions, Setting
from ..rerankers.cascade import Cascade, Ranked, Stage
from ..rerankers.ledger import Ledger
from ..rerankers.ranker import Ranker
from . import contents, evaluate, fusion, runfile
from .config import Config, Expected, Loaded, paths
from .evaluate import Metrics
from .fusion import RERANKED
from .progress import Listener
from .retrieve import FirstStage, retrieve
from .runs import costs, environment, ir_metadata, manifest
from .runs.executions import Executions, last_change, now
from .runs.folder import RunFolder
from .yaml_files import value_at

LEDGER = "ledger.sqlite"

RETRIEVED_FILES = ("config.yaml", "first_stage.trec")
"""What every run's folder holds, besides metrics and manifest."""

RANKED_FILES = (*RETRIEVED_FILES, "run.trec", "costs.jsonl", LEDGER)
"""What it holds where the candidates were reranked."""


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


def rerank(loaded: Loaded, output: Path | None, listener: Listener) -> Outcome:
    """Retrieve, rerank and evaluate; resume where an earlier run of the same experiment was cut off.

    Raises `InputError` before anything is written where something given is wrong, and `BackendError` where the
    model fails; whatever was answered until then is in the run's ledger.
    """
    config, rankers = loaded.config, loaded.rankers
    first_stage = retrieve(loaded, listener)
    before = _measure(config, first_stage, first_stage.documents)
    partner = fusion.partner(config, first_stage, listener)
    stages = _open_stages(loaded, rankers, first_stage)
    content = manifest.experiment(first_stage, stages, partner, config.seed)
    simulated = any(stage.backend.simulated for stage in stages)
    fingerprint = manifest.fingerprint(content)
    path = output or Path("runs") / f"{config.name}-{fingerprint[:8]}"
    with RunFolder(path, fingerprint) as folder:
        last_answer = last_change(folder / LEDGER)
        about = {"name": config.name, "fingerprint": fingerprint, "simulated": simulated}
        about |= {"experiment": content, "environment": environment.environment()}
        about |= manifest.description(config, [prompt for ranker in rankers for prompt in ranker.prompts])
        with closing(Ledger(folder / LEDGER)) as ledger:
            executions = Executions(folder.manifest().get("executions", []), len(ledger), last_answer)
            about |= {"started": executions.listed()[0]["started"], "finished": None}
            _write_manifest(folder, about | {"status": "running", "executions": executions.listed()})
            folder.write_yaml("config.yaml", _resolved(config, folder.path))
            runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
            pooled = config.schedule == "throughput"
            begun = time.perf_counter()
            ranked = _rank(loaded, first_stage, Cascade(stages, ledger, pooled=pooled), listener)
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
        written += _write_metrics(folder, after, first_stage=before, reranked=reranked)
        executions.finish(sum(cost.calls for cost in spent))
        about |= {"status": "finished", "finished": now(), "executions": executions.listed()}
        about |= {"wall_seconds": wall_seconds}
        about |= {"unparsed": sum(cost.unparsed for cost in spent), "unparsed_by_kind": ranked.unparsed}
        about |= {"answer_forms": ranked.forms}
        about |= {"models": ranked.models} if manifest.is_cascade(stages) else {"model": ranked.models[0]}
        about |= {"data": _data(first_stage) | {"candidates": ranked.candidates}, "ledger": _ledger(folder / LEDGER)}
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
        expected=_comparable(loaded, listener),
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
        about |= manifest.description(config, []) | {"data": _data(first_stage)}
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
    with listener.task("reranking", len(first_stage.run)) as advance:
        cascade.on_answers = lambda answered: advance(len(found), f"{answered:,} asks answered")
        for ranked in cascade.rank(candidates.passing(first_stage)):
            found[ranked.cost.query_id] = ranked
            advance(len(found))
    models = [
        manifest.portable({"backend": (given.model or {})["backend"], **stage.backend.details})
        for given, stage in zip(loaded.stages, cascade.stages, strict=True)
    ]
    for backend in {id(stage.backend): stage.backend for stage in cascade.stages}.values():
        backend.close()
    return _Ranked(
        queries={query: found[query] for query in first_stage.run},
        unparsed=dict(sorted(cascade.unparsed.items())),
        forms=dict(sorted(cascade.forms.items())),
        candidates=candidates.hexdigest(),
        models=models,
    )


def _data(first_stage: FirstStage) -> dict[str, object]:
    """The hashes of queries and judgements."""
    return {
        "queries": contents.queries(first_stage.queries),
        "qrels": contents.qrels(first_stage.dataset.qrels()),
    }


def _ledger(path: Path) -> dict[str, object]:
    """The ledger's content hash, which does not depend on how SQLite lays it out, and how many answers it holds."""
    with closing(Ledger(path, read_only=True)) as ledger:
        return {"content": ledger.digest(), "answers": len(ledger)}


def _write_manifest(folder: RunFolder, about: Mapping[str, Any]) -> None:
    folder.write_json("manifest.json", manifest.sealed(about))


def _finish_manifest(folder: RunFolder, about: Mapping[str, Any], written: Sequence[str]) -> None:
    """Write what is written last: the ir_metadata file, and the manifest with the hash of every file."""
    folder.write_yaml("ir-metadata.yml", ir_metadata.annotation(about))
    hashes = manifest.file_hashes(folder.path, [*written, "ir-metadata.yml"])
    _write_manifest(folder, {**about, "files": hashes})


def _measure(config: Config, first_stage: FirstStage, rankings: Mapping[str, Sequence[str]]) -> Metrics | None:
    qrels = first_stage.dataset.qrels()
    if not qrels:
        return None
    return evaluate.measure(evaluate.with_judged(config.evaluate.measures), qrels, rankings, first_stage.queries)


def _write_metrics(folder: RunFolder, metrics: Metrics | None, **before: Metrics | None) -> list[str]:
    """Write the metrics where there are any, those of orders before it too; return the names of the files written."""
    if metrics is None:
        return []
    content: dict[str, Any] = {"all": metrics.mean, "per_query": metrics.per_query}
    for name, found in before.items():
        if found is not None:
            content[name] = {"all": found.mean, "per_query": found.per_query}
    folder.write_json("metrics.json", content)
    return ["metrics.json"]


def _comparable(loaded: Loaded, listener: Listener) -> Mapping[str, Expected]:
    """The published figures, unless this run is of other queries or settings than theirs."""
    if loaded.config.expected and loaded.changes_ranking:
        listener.note("expected figures are skipped: --set or --queries changed the experiment they belong to")
        return {}
    return loaded.config.expected


def _resolved(config: Config, folder: Path) -> dict[str, Any]:
    """The config with everything it extends, as plain YAML; its paths lead from the run's folder."""
    content = config.model_dump(mode="json", exclude_none=True)
    for key in paths(content):
        value = value_at(content, key)
        if isinstance(value, str) and Path(value).is_absolute():
            value_at(content, key[:-1])[key[-1]] = os.path.relpath(value, folder.resolve())
    return content
