"""Evaluating a run that is already there: any TREC file, a run's folder, or the run of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rerankers.errors import InputError, R2llmError
from . import datasets, evaluate, experiment
from .configs import load as configs
from .configs.load import Loaded
from .datasets import Dataset
from .evaluate import Metrics
from .first_stage import retrieve
from .io.progress import Listener
from .run import manifest, runfile
from .run.manifest import Manifest

RANKINGS = ("run.trec", "first_stage.trec")
"""The last ranking of a run is the first of these that it has."""


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
    """Measure a TREC run, or that of a run's folder; without one, the run whose fingerprint is the config's.

    The average is over the queries with judgements; a config and `--queries` narrow them down. A run's folder has
    judgements of its own. Raises `InputError` for a malformed run and where judgements are missing.
    """
    if run and not run.exists():
        raise InputError(f"no file or folder {run}")
    folder = run if run and run.is_dir() else None
    given = sum(choice is not None for choice in (source.config, source.dataset, source.qrels))
    if given > 1 or not (given or folder):
        raise InputError("evaluate needs judgements: give one of --dataset, --qrels and --config, or a run's folder")
    if source.settings and not source.config:
        raise InputError("--set changes a config: give --config too")
    if folder:
        run = _ranking(folder)
    config = source.config or (str((folder / "config.yaml").resolve()) if folder and not given else None)
    loaded = configs.load_noting(config, source.settings, source.queries, listener) if config else None
    if run is None:
        if loaded is None:
            raise InputError("evaluate needs a run: a TREC file, a run's folder, or --config alone for the config's")
        run = _run_of(loaded, source.output)
        listener.note(f"evaluating {run}")
    qrels, queries, dataset = _judgements(source, loaded, folder, listener)
    ranking, warnings = runfile.read(run)
    for warning in warnings:
        listener.note(warning)
    if not set(ranking) & set(queries):
        raise InputError(
            f"{run}: none of its {len(ranking)} queries has judgements; the first is {next(iter(ranking))}"
        )
    names = evaluate.with_judged(list(measures) or (loaded.config.evaluate.measures if loaded else ("nDCG@10",)))
    if dataset is not None:
        rule = loaded.config.first_stage.exclude_same_id if loaded else "auto"
        ranking = retrieve.without_own_documents(ranking, dataset, rule, listener)
    documents = {query: [doc for doc, _ in found] for query, found in ranking.items()}
    metrics = evaluate.measure(names, qrels, documents, queries)
    for note in evaluate.notes(names, qrels, documents, queries):
        listener.note(note)
    return metrics


def _judgements(
    source: Source, loaded: Loaded | None, folder: Path | None, listener: Listener
) -> tuple[evaluate.Qrels, list[str], Dataset | None]:
    """Return the judgements, the queries to average over, and the dataset, where they are one's."""
    if source.qrels is not None:
        if not source.qrels.is_file():
            raise InputError(f"--qrels: no file {source.qrels}")
        qrels = datasets.read_qrels(source.qrels)
        return qrels, list(qrels)[: source.queries], None
    if loaded is not None:
        dataset = retrieve.dataset_with_index(loaded, listener)
        chosen = retrieve.chosen_queries(dataset.queries(), loaded.config.queries)
        run = _manifest(folder) if folder else None
        queries = list(run.shard.part(chosen) if run and run.shard else chosen)
    else:
        dataset = datasets.load(source.dataset or "", base=Path.cwd())
        queries = list(dataset.queries())[: source.queries]
    for note in dataset.notes(queries):
        listener.note(note)
    found = dataset.qrels()
    if not found:
        raise InputError(f"dataset {dataset.name} has no relevance judgements")
    return found, queries, dataset


def _run_of(loaded: Loaded, output: Path | None) -> Path:
    """Return the run file in `output`, or below `runs/`, whose fingerprint is the config's."""
    try:
        wanted = experiment.fingerprint(loaded)
    except R2llmError as error:
        what = "so it is not known which run is the config's; `r2llm evaluate RUN_DIR` measures one without its model"
        raise InputError(f"{error}; {what}") from error
    finished = {}
    for folder in [output] if output else sorted(Path("runs").glob("*")):
        run = _manifest(folder)
        if run and run.is_finished:
            finished[folder] = run
    fitting = [folder for folder, run in finished.items() if run.fingerprint == wanted]
    if fitting:
        return _ranking(fitting[0])
    name = loaded.config.name
    others = [str(folder) for folder, run in finished.items() if output or run.name == name]
    raise InputError(
        f"no finished run of {name} with the config's fingerprint {wanted[:8]} in {output or Path.cwd() / 'runs'}; "
        f"r2llm rerank makes one (there {'are' if others else 'is'} of that name: {', '.join(others) or 'none'})"
    )


def _ranking(folder: Path) -> Path:
    """Return the last ranking of a finished run. Raises `InputError` where the folder holds none."""
    run = _manifest(folder)
    if not run or not run.is_finished:
        raise InputError(f"{folder}: holds no finished run; r2llm rerank makes one")
    return next((path for name in RANKINGS if (path := folder / name).is_file()), folder / RANKINGS[0])


def _manifest(folder: Path) -> Manifest | None:
    """Return a folder's manifest, or None where there is none that can be read."""
    try:
        return manifest.read(folder / manifest.NAME)
    except InputError:
        return None
