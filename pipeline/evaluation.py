"""Evaluating a run that is already there: any TREC file, or the last run of a config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rerankers.errors import InputError
from . import config as configs
from . import datasets, evaluate, runfile
from .config import Loaded
from .evaluate import Metrics
from .progress import Listener
from .retrieve import chosen_queries, open_dataset


@dataclass(frozen=True)
class Source:
    """Where the judgements come from: one of a config, a dataset, and a qrels file."""

    config: str | None = None
    settings: tuple[str, ...] = ()
    queries: int | None = None
    dataset: str | None = None
    qrels: Path | None = None
    output: Path | None = None
    """The run's folder, where the config's run is not where `runs/` would have it."""


def metrics_of(source: Source, run: Path | None, measures: Sequence[str], listener: Listener) -> Metrics:
    """Measure a TREC run, or the config's last run where none is given.

    The mean is over the queries with judgements; a config and `--queries` narrow them down. Raises `InputError` for
    a malformed run and where judgements are missing.
    """
    if sum(choice is not None for choice in (source.config, source.dataset, source.qrels)) != 1:
        raise InputError("evaluate needs judgements: give one of --dataset, --qrels and --config")
    if source.settings and not source.config:
        raise InputError("--set changes a config: give --config too")
    loaded = None
    if source.config:
        loaded = configs.load_noting(source.config, source.settings, source.queries, listener)
    if run is None:
        if loaded is None:
            raise InputError("evaluate needs a run: give a TREC file, or --config alone for that config's last run")
        run = _last_run(loaded, source.output)
        listener.note(f"evaluating {run}")
    qrels, queries = _judgements(source, loaded, listener)
    ranking, warnings = runfile.read(run)
    for warning in warnings:
        listener.note(warning)
    if not set(ranking) & set(queries):
        raise InputError(
            f"{run}: none of its {len(ranking)} queries has judgements; the first is {next(iter(ranking))}"
        )
    names = list(measures) or list(loaded.config.evaluate.measures if loaded else ("nDCG@10",))
    documents = {query: [doc for doc, _ in found] for query, found in ranking.items()}
    return evaluate.measure(evaluate.with_judged(names), qrels, documents, queries)


def _judgements(source: Source, loaded: Loaded | None, listener: Listener) -> tuple[evaluate.Qrels, list[str]]:
    """The judgements, and the queries to average over."""
    if source.qrels is not None:
        if not source.qrels.is_file():
            raise InputError(f"--qrels: no file {source.qrels}")
        qrels = datasets.read_qrels(source.qrels)
        return qrels, list(qrels)[: source.queries]
    if loaded is not None:
        dataset = open_dataset(loaded)
        queries = list(chosen_queries(dataset.queries(), loaded.config.queries))
    else:
        dataset = datasets.load(source.dataset or "", base=Path.cwd())
        queries = list(dataset.queries())[: source.queries]
    for note in dataset.notes(queries):
        listener.note(note)
    found = dataset.qrels()
    if not found:
        raise InputError(f"dataset {dataset.name} has no relevance judgements")
    return found, queries


def _last_run(loaded: Loaded, output: Path | None) -> Path:
    """The run file that this config wrote last, in `output` or among the folders of its name."""
    name = loaded.config.name
    folders = [output] if output else Path("runs").glob(f"{name}-????????")
    runs = [path for folder in folders if (path := folder / "run.trec").is_file() and _finished(folder)]
    if not runs:
        raise InputError(f"no finished run of {name} in {output or Path.cwd() / 'runs'}; r2llm rerank makes one")
    return max(runs, key=lambda path: path.stat().st_mtime_ns)


def _finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError):
        return False
