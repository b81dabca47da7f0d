"""Runs to compare: run folders, folders of these, and TREC files, each with its per-query measures and costs."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from .. import datasets
from ..io.progress import Listener, Noting
from ..io.tables import ENERGY, alike, some
from ..run import costs, manifest, read, runfile, sweeps
from ..run import measures as measuring

LONGEST = 60  # characters of a name that is made of settings

Rankings = Mapping[str, Sequence[str]]
PerQuery = Mapping[str, Mapping[str, float]]
"""Measure or cost → query → value."""


@dataclass(frozen=True)
class Run:
    """A run under the name that tables show."""

    name: str
    path: Path
    rankings: Rankings
    measures: PerQuery
    costs: PerQuery = field(default_factory=dict)
    simulated: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    first_stage: PerQuery = field(default_factory=dict)
    """Measures of the first stage that it reranked, where it is known."""

    @property
    def reranked(self) -> bool:
        """Return whether it is a run folder in which candidates were reranked."""
        return (self.path / "run.trec").is_file()

    joules: Mapping[str, float | None] = field(default_factory=dict)
    """Energy by device, None where it was tracked and is unknown."""


@dataclass(frozen=True)
class Judgements:
    """Relevance judgements for TREC files, and for run folders in place of their own."""

    qrels: Path | None = None
    dataset: str | None = None

    def read(self) -> measuring.Qrels | None:
        """Return the judgements, or None where neither is given. Raises `InputError` for missing ones."""
        if self.qrels and self.dataset:
            raise InputError("give one of --qrels and --dataset")
        if self.qrels:
            if not self.qrels.is_file():
                raise InputError(f"--qrels: no file {self.qrels}")
            return datasets.read_qrels(self.qrels)
        if self.dataset:
            qrels = datasets.load(self.dataset).qrels()
            if not qrels:
                raise InputError(f"dataset {self.dataset} has no relevance judgements")
            return qrels
        return None


def load(
    paths: Sequence[Path],
    judgements: Judgements,
    measures: Sequence[str],
    listener: Listener,
    originals: Sequence[Path] = (),
) -> list[Run]:
    """Return the runs in these folders and files, each once and under a name of its own, and `originals` at the end.

    Measures are those named, or else those that all run folders have; a TREC file is measured by nDCG@10. Raises
    `InputError` for what is no finished run, and for run folders with different judgements.
    """
    qrels = judgements.read()
    given = [place for path in paths for place in expanded(path, listener)]
    chosen = {place.resolve(): place for place in given}
    if len(chosen) < len(given):
        listener.note(f"{len(given) - len(chosen)} of {len(given)} runs are given again: each is compared once")
    places = chosen | {place.resolve(): place for place in originals}
    folders = [place for place in places.values() if place.is_dir()]
    if qrels is None:
        if len(folders) < len(places):
            file = next(place for place in places.values() if place.is_file())
            raise InputError(f"{file}: a TREC file has no judgements; give --qrels FILE or --dataset NAME")
        _refuse_other_judgements(folders)
    measures = measures or _common_measures(folders)
    told = Noting(Listener())
    runs = [
        _of_folder(place, qrels, measures, told) if place.is_dir() else _of_file(place, qrels or {}, measures, told)
        for place in places.values()
    ]
    for note in alike(told.notes):
        listener.note(note)
    named = dict(zip(places, _named_apart(runs), strict=True))
    return [named[place] for place in [*chosen, *map(Path.resolve, originals)]]


def unmeasured(paths: Sequence[Path], listener: Listener) -> list[Run]:
    """Return the runs in these folders and files, each name once, with their rankings alone."""
    runs = []
    for place in [place for path in paths for place in expanded(path, listener)]:
        if place.is_dir():
            run = read.read(place)
            config = run.manifest.config.model_dump(mode="json", exclude_none=True)
            rankings = _rankings(run.run_file, listener)
            runs.append(Run(run.manifest.name, place, rankings, {}, simulated=run.manifest.simulated, config=config))
        else:
            runs.append(Run(place.stem, place, _rankings(place, listener), {}))
    return _named_apart(runs)


def expanded(path: Path, listener: Listener) -> list[Path]:
    """Return the run folders in a folder or of a sweep, or the path itself where it is a run."""
    if path.is_file() or (path / manifest.NAME).is_file():
        return [path]
    if not path.exists():
        raise InputError(f"no file or folder {path}")
    inner = sorted(child.parent for child in path.glob(f"*/{manifest.NAME}"))
    if (path / sweeps.FILE).is_file():
        inner = sweeps.run_dirs(path, listener)
        if not inner:
            raise InputError(f"{path}: no cell of this sweep is done; run its r2llm sweep command again")
    if not inner:
        problem = f"holds no run: there is no {manifest.NAME} in it or in a folder below it"
        raise InputError(f"{path}: {problem}; TREC files are named one by one")
    return inner


def _refuse_other_judgements(folders: Iterable[Path]) -> None:
    hashes = {folder: manifest.read(folder / manifest.NAME).data.get("qrels") for folder in folders}
    one, *others = hashes
    for other in others:
        if hashes[other] != hashes[one]:
            raise InputError(f"{other}: was measured with other judgements than {one}; give --qrels FILE for all runs")


def _common_measures(folders: Sequence[Path]) -> list[str]:
    """Return the measures that all measured run folders have, or nDCG@10 where none was measured."""
    measured = [metrics.mean for folder in folders if (metrics := read.measures(folder / read.METRICS))]
    common = [name for name in measured[0] if all(name in names for names in measured)] if measured else ["nDCG@10"]
    if not common:
        every = some(list(dict.fromkeys(name for names in measured for name in names)))
        raise InputError(f"no measure is common to all runs: they have {every}; name one with --measure")
    return common


def _of_folder(folder: Path, qrels: measuring.Qrels | None, measures: Sequence[str], listener: Listener) -> Run:
    """Return the finished run in a folder by these measures, by other judgements than its own if given.

    Raises `InputError` for one that is not finished.
    """
    run = read.read(folder)
    if run.manifest.status != "finished":
        raise InputError(f"{folder}: is not finished; run its r2llm rerank command again, or leave it out")
    if taken := run.manifest.shared_ledger.get("taken"):
        listener.note(f"{folder}: {taken:,} answers were taken from other runs: they are not in `calls`")
    rankings, metrics, names = _rankings(run.run_file, listener), run.metrics, measuring.with_judged(measures)
    rows, before = (metrics.per_query, metrics.first_stage) if metrics else ({}, None)
    start = before.per_query if before else {}
    if qrels is None and not (metrics and metrics.mean.keys() >= set(names)):
        qrels = _own_judgements(folder, listener)
    if qrels is not None:
        queries, first = [query for query in qrels if query in (rows or rankings)], folder / "first_stage.trec"
        rows, start = measuring.measure(names, qrels, rankings, queries).per_query, {}
        if first != run.run_file:
            start = measuring.measure(names, qrels, _rankings(first, listener), queries).per_query
    spent = {name: {cost.query_id: getattr(cost, name) for cost in run.totals} for name in costs.FIELDS}
    return Run(
        name=run.manifest.name,
        path=folder,
        rankings=rankings,
        measures=_transposed(rows, names),
        costs={name: values for name, values in spent.items() if values and None not in values.values()},
        simulated=run.manifest.simulated,
        config=run.manifest.config.model_dump(mode="json", exclude_none=True),
        first_stage=_transposed(start, names),
        joules={name: figures["total"] for name, figures in run.costs.items() if name in ENERGY},
    )


def _own_judgements(folder: Path, listener: Listener) -> measuring.Qrels:
    from ..configs import load as configs
    from ..first_stage.retrieve import dataset_with_index

    loaded = configs.load_noting(str((folder / "config.yaml").resolve()), (), None, listener)
    qrels = dataset_with_index(loaded, listener).qrels()
    if not qrels:
        raise InputError(f"{folder}: its dataset has no relevance judgements; give --qrels FILE")
    return qrels


def _of_file(path: Path, qrels: measuring.Qrels, measures: Sequence[str], listener: Listener) -> Run:
    rankings = _rankings(path, listener)
    queries = [query for query in qrels if query in rankings]
    if not queries:
        raise InputError(f"{path}: none of its {len(rankings)} queries has judgements; are these its qrels?")
    if unjudged := len(rankings) - len(queries):
        listener.note(f"{path}: {unjudged} of {len(rankings)} queries have no judgements and are left out")
    names = measuring.with_judged(measures)
    return Run(
        path.stem, path, rankings, _transposed(measuring.measure(names, qrels, rankings, queries).per_query, names)
    )


def _rankings(path: Path, listener: Listener) -> dict[str, list[str]]:
    scored, warnings = runfile.read(path)
    for warning in warnings:
        listener.note(warning)
    return runfile.documents(scored)


def _transposed(table: Mapping[str, Mapping[str, float | None]], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return column → row → value of row → column → value, for these columns, without unknown values."""
    return {n: {key: value for key, row in table.items() if (value := row.get(n)) is not None} for n in names}


def _named_apart(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, those of one name by what their configs differ in, else by folder, else numbered."""
    names = [run.name for run in runs]
    namesakes = {name: [flat(run.config) for run in runs if run.config and run.name == name] for name in names}
    for label in (lambda run: _settings(run, namesakes[run.name]), lambda run: run.path.name):
        names = [label(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]
    numbered = [f"{n} {names[: i + 1].count(n)}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    return [dataclasses.replace(run, name=name) for run, name in zip(runs, numbered, strict=True)]


def _settings(run: Run, configs: Sequence[Mapping[str, Any]]) -> str:
    """Return the values of a run's config that other configs do not have, such as `setwise.heapsort depth=10`."""
    words = [
        value if isinstance(value, str) else f"{key.rpartition('.')[2]}={value}"
        for key, value in flat(run.config).items()
        if any(config.get(key) != value for config in configs)
    ]
    short = " ".join(words)
    return short if 0 < len(short) <= LONGEST else run.name


def flat(value: Any, before: str = "") -> dict[str, Any]:
    """Return a config's values by dotted key."""
    if not isinstance(value, Mapping):
        return {before[:-1]: value}
    return {key: inner for name, each in value.items() for key, inner in flat(each, f"{before}{name}.").items()}


def grouped(runs: Sequence[Run], key: str) -> list[Run]:
    """Return one run for each group of runs that differ in `key` of their configs alone, each query averaged first.

    `key` is dotted, such as `first_stage.seed`. Rankings are those of the first run of a group. Raises `InputError` for
    a TREC file, which has no config, and for a key that no config has.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if not run.config:
            raise InputError(f"--group {key}: {run.path} is a TREC file, which has no config")
        groups.setdefault(json.dumps(without(run.config, ["name", key]), sort_keys=True), []).append(run)
    if all(without(run.config, [key]) == flat(run.config) for run in runs):
        raise InputError(f"--group {key}: no run's config has this key; r2llm list keys has all")
    return [_averaged(group) for group in groups.values()]


def without(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a config's values by dotted key, but for these keys and what is below them."""
    return {
        key: value for key, value in flat(config).items() if not any(f"{key}.".startswith(f"{one}.") for one in keys)
    }


def _averaged(group: Sequence[Run]) -> Run:
    if len(group) == 1:
        return group[0]
    first, words = group[0], [re.split("(?<=[-+ ])", run.name) for run in group]
    shared = "".join(word for word in words[0] if all(word in others for others in words)).rstrip("-+ ")

    def mean(tables: Sequence[PerQuery]) -> dict[str, dict[str, float]]:
        shared = [name for name in tables[0] if all(name in table for table in tables)]
        return {
            name: {
                query: sum(table[name].get(query, 0.0) for table in tables) / len(tables) for query in tables[0][name]
            }
            for name in shared
        }

    return dataclasses.replace(
        first,
        name=f"{shared or first.name} (mean of {len(group)})",
        measures=mean([run.measures for run in group]),
        costs=mean([run.costs for run in group]),
        first_stage=mean([run.first_stage for run in group]),
        simulated=any(run.simulated for run in group),
    )
