"""An experiment from config to metrics: the only file that knows every room."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..rerankers import catalog
from ..rerankers.backends import Backend, Setting
from ..rerankers.ledger import Ledger
from ..rerankers.scheduler import Scheduler
from ..rerankers.types import Cost
from . import contents, costs, environment, evaluate, ir_metadata, manifest, runfile
from .config import PATHS, Config, Expected, Loaded, prompt_keys
from .evaluate import Metrics
from .executions import Executions, last_change, now
from .progress import Listener
from .retrieve import FirstStage, retrieve
from .run_folder import RunFolder

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
    config, ranker = loaded.config, loaded.ranker
    first_stage = retrieve(loaded, listener)
    before = _measure(config, first_stage, first_stage.documents)
    backend = _open_backend(loaded, first_stage)
    content = manifest.experiment(first_stage, ranker, backend, config.seed)
    fingerprint = manifest.fingerprint(content)
    path = output or Path("runs") / f"{config.name}-{fingerprint[:8]}"
    with RunFolder(path, fingerprint) as folder:
        last_answer = last_change(folder / LEDGER)
        about = {"name": config.name, "fingerprint": fingerprint, "simulated": backend.simulated}
        about |= {"experiment": content, "environment": environment.environment()}
        about |= manifest.description(config, ranker.prompts)
        with closing(Ledger(folder / LEDGER)) as ledger:
            executions = Executions(folder.manifest().get("executions", []), len(ledger), last_answer)
            about |= {"started": executions.listed()[0]["started"], "finished": None}
            _write_manifest(folder, about | {"status": "running", "executions": executions.listed()})
            folder.write_yaml("config.yaml", _resolved(config, folder.path))
            runfile.write_scored(folder / "first_stage.trec", first_stage.run, config.name)
            begun = time.perf_counter()
            ranked = _rank(loaded, first_stage, backend, ledger, listener)
            wall_seconds = time.perf_counter() - begun
        rankings, spent = ranked.rankings, ranked.costs
        runfile.write(folder / "run.trec", rankings, first_stage.documents, config.name)
        folder.write_json_lines("costs.jsonl", [dataclasses.asdict(cost) for cost in spent])
        after = _measure(config, first_stage, rankings)
        written = [*RANKED_FILES, *_write_metrics(folder, after, before)]
        executions.finish(sum(cost.calls for cost in spent))
        about |= {"status": "finished", "finished": now(), "executions": executions.listed()}
        about |= {"wall_seconds": wall_seconds}
        about |= {"unparsed": sum(cost.unparsed for cost in spent), "unparsed_by_kind": ranked.unparsed}
        about |= {"answer_forms": ranked.forms}
        about |= {"model": manifest.portable({"backend": (config.model or {})["backend"], **ranked.model})}
        about |= {"data": _data(first_stage) | {"candidates": ranked.candidates}, "ledger": _ledger(folder / LEDGER)}
        _finish_manifest(folder, about, written)
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "run.trec",
        simulated=backend.simulated,
        schedule=config.schedule,
        queries=len(rankings),
        first_stage=before,
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
        written = [*RETRIEVED_FILES, *_write_metrics(folder, metrics, None)]
        _finish_manifest(folder, about | {"started": started, "finished": now(), "status": "finished"}, written)
    return Outcome(
        name=config.name,
        run_dir=folder.path,
        run_file=folder / "first_stage.trec",
        simulated=False,
        schedule=config.schedule,
        queries=len(first_stage.run),
        first_stage=None,
        metrics=metrics,
        costs={},
        wall_seconds=None,
        expected={},
    )


def _open_backend(loaded: Loaded, first_stage: FirstStage) -> Backend:
    options = loaded.backend_options
    setting = Setting(seed=loaded.config.seed, grades=first_stage.dataset.qrels())
    name = (loaded.config.model or {})["backend"]
    backend: Backend = catalog.backend(name).open(options, setting)
    return backend


@dataclass(frozen=True)
class _Ranked:
    """Each query's ranking and cost, in the order of the first stage, and what the manifest says of the way there."""

    rankings: dict[str, Sequence[str]]
    costs: list[Cost]
    unparsed: dict[str, int]
    forms: dict[str, int]
    candidates: str
    model: Mapping[str, object]


def _rank(loaded: Loaded, first_stage: FirstStage, backend: Backend, ledger: Ledger, listener: Listener) -> _Ranked:
    """Rank all queries; answers come out of the ledger where it has them."""
    candidates = contents.CandidatesDigest()
    scheduler = Scheduler(loaded.ranker, backend, ledger, pooled=loaded.config.schedule == "throughput")
    rankings: dict[str, Sequence[str]] = {}
    spent: dict[str, Cost] = {}
    with listener.task("reranking", len(first_stage.run)) as advance:
        scheduler.on_answers = lambda answered: advance(len(rankings), f"{answered:,} asks answered")
        for ranking, cost in scheduler.rank(candidates.passing(first_stage)):
            rankings[cost.query_id], spent[cost.query_id] = ranking.docs, cost
            advance(len(rankings))
    details = backend.details
    backend.close()
    return _Ranked(
        rankings={query: rankings[query] for query in first_stage.run},
        costs=[spent[query] for query in first_stage.run],
        unparsed=dict(sorted(scheduler.unparsed.items())),
        forms=dict(sorted(scheduler.forms.items())),
        candidates=candidates.hexdigest(),
        model=details,
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


def _write_metrics(folder: RunFolder, metrics: Metrics | None, first_stage: Metrics | None) -> list[str]:
    """Write the metrics where there are any; return the names of the files written."""
    if metrics is None:
        return []
    content: dict[str, Any] = {"all": metrics.mean, "per_query": metrics.per_query}
    if first_stage is not None:
        content["first_stage"] = {"all": first_stage.mean, "per_query": first_stage.per_query}
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
    for key in (*PATHS, *prompt_keys(content)):
        section = content
        for part in key[:-1]:
            section = section.get(part, {}) if isinstance(section, dict) else {}
        value = section.get(key[-1]) if isinstance(section, dict) else None
        if isinstance(value, str) and Path(value).is_absolute():
            section[key[-1]] = os.path.relpath(value, folder.resolve())
    return content
