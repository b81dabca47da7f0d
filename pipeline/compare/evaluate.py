"""Evaluating a run that is already there: any TREC file, a run's folder, or the run of a config."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...rerankers.errors import InputError, R2llmError
from .. import datasets, experiment
from ..configs import load as configs
from ..configs.load import Loaded
from ..datasets import Dataset
from ..first_stage import retrieve
from ..first_stage.retrieve import without_own_documents
from ..io.progress import Listener
from ..run import manifest, runfile
from ..run.manifest import Manifest
from ..run.measures import Metrics, Qrels, marked, measured


@dataclass(frozen=True)
class Source:
    """The source of judgements: one of a config, a dataset, and a qrels file."""

    config: str | None = None
    settings: tuple[str, ...] = ()
    queries: int | None = None
    dataset: str | None = None
    qrels: Path | None = None
    output: Path | None = None
    """The run's folder, where the config's run is not below `runs/`."""


def metrics_of(source: Source, run: Path | None, measures: Sequence[str], listener: Listener) -> Metrics:
    """Measure a TREC run, or that of a run's folder; without one, the run whose fingerprint is the config's.

    The average is over the queries with judgements; a config and `--queries` narrow them down. A run's folder has
    judgements of its own. Raise InputError for a malformed run and where judgements are missing.
    """
    if run and not run.exists():
        raise InputError(f"no file or folder {run}")
    folder = run if run and run.is_dir() else None
    sources = sum(choice is not None for choice in (source.config, source.dataset, source.qrels))
    if sources > 1 or not (sources or folder):
        raise InputError("evaluate needs judgements: give one of --dataset, --qrels and --config, or a run's folder")
    if source.settings and not source.config:
        raise InputError("--set changes a config: give --config too")
    if folder:
        if not (about := _finished(folder)):
            raise InputError(f"{folder}: holds no finished run; r2llm rerank makes one")
        run = folder / about.run_file
    config = source.config or (str((folder / "config.yaml").resolve()) if folder and not sources else None)
    loaded = configs.load_noting(config, source.settings, source.queries, listener) if config else None
    if run is None:
        if loaded is None:
            raise InputError("evaluate needs a run: a TREC file, a run's folder, or --config alone for the config's")
        run = _run_of(loaded, source.output)
        listener.note(f"evaluating {run}")
    models: dict[tuple[str, str], str] = {}
    qrels, queries, dataset = _judgements(source, loaded, folder, models, listener)
    ranking, warnings = runfile.read(run)
    for warning in warnings:
        listener.note(warning)
    if not ranking.keys() & {*queries}:
        problem = f"none of its {len(ranking)} queries has judgements; the first is {next(iter(ranking))}"
        raise InputError(f"{run}: {problem}")
    if dataset is not None:
        rule = loaded.config.first_stage.exclude_same_id if loaded else "auto"
        ranking = without_own_documents(ranking, dataset, rule, listener)
    names = list(measures) or (loaded.config.evaluate.measures if loaded else ("nDCG@10",))
    documents = runfile.documents(ranking)
    metrics = measured(names, qrels, documents, queries, listener)
    return marked(metrics, documents, models) if models else metrics


def _judgements(
    source: Source, loaded: Loaded | None, folder: Path | None, models: dict[tuple[str, str], str], listener: Listener
) -> tuple[Qrels, list[str], Dataset | None]:
    """Return the judgements, the queries to average over, and the dataset, if they are one's.

    `models` takes the model of each judgement that one made.
    """
    if source.qrels is not None:
        if not source.qrels.is_file():
            raise InputError(f"--qrels: no file {source.qrels}")
        qrels: Qrels | None = datasets.read_qrels(source.qrels, models)
        return qrels or {}, list(qrels or ())[: source.queries], None
    if loaded is not None:
        dataset = retrieve.dataset_with_index(loaded, listener)
        chosen = retrieve.chosen_queries(dataset.queries(), loaded.config.queries)
        run = _finished(folder) if folder else None
        queries = list(run.shard.part(chosen) if run and run.shard else chosen)
    else:
        dataset = datasets.load(source.dataset or "")
        queries = list(dataset.queries())[: source.queries]
    for note in dataset.notes(queries):
        listener.note(note)
    qrels = dataset.qrels()
    if not qrels:
        raise InputError(f"dataset {dataset.name} has no relevance judgements")
    return qrels, queries, dataset


def _run_of(loaded: Loaded, output: Path | None) -> Path:
    try:
        wanted = experiment.fingerprint(loaded)
    except R2llmError as error:
        problem = "so it is not known which run is the config's"
        raise InputError(f"{error}; {problem}; `r2llm evaluate RUN_DIR` measures one without its model") from error
    folders = [output] if output else sorted(Path("runs").glob("*"))
    finished = {folder: run for folder in folders if (run := _finished(folder))}
    for folder, run in finished.items():
        if run.fingerprint == wanted:
            return folder / run.run_file
    name = loaded.config.name
    others = [str(folder) for folder, run in finished.items() if output or run.name == name]
    raise InputError(
        f"no finished run of {name} with the config's fingerprint {wanted[:8]} in {output or Path.cwd() / 'runs'}; "
        f"r2llm rerank makes one (there {'are' if others else 'is'} of that name: {', '.join(others) or 'none'})"
    )


def _finished(folder: Path) -> Manifest | None:
    try:
        run = manifest.read(folder / manifest.NAME)
    except InputError:
        return None
    return run if run.status == "finished" else None
