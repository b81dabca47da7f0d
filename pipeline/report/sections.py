"""A report's sections about runs: results, costs, differences, published figures, orders, positions, a story."""

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ...rerankers.asks import KINDS
from ...rerankers.errors import InputError
from .. import inspect
from ..compare import comparison as comparisons
from ..compare import positions, runs, sensitivity, tables
from ..compare.comparison import Comparison
from ..compare.runs import Judgements, Run
from ..configs.load import Expected
from ..io.progress import Listener, Noting
from ..io.tables import Table, label, marked
from ..run import manifest, runfile
from . import charts, studies
from .page import Group, Section

PAIRS = 15
"""Most pairs of runs whose tests the page lists: with more runs those with the reference alone."""

COSTS = ("asks", "prompt_tokens", "flops", "seconds")
"""Costs against which effectiveness is drawn."""

STORIES = 3
"""Runs whose story of one query is told."""

ASKS = 12
"""Asks of a story that are shown."""

PROMPT = 4_000
"""Characters of a prompt that are shown."""


@dataclass(frozen=True)
class Options:
    """The runs of a report, and the settings of their comparison."""

    judgements: Judgements
    measures: Sequence[str]
    comparison: comparisons.Options
    query: str | None
    """The query whose story is told; the one in which the runs differ most, unless given."""

    def command(self, places: Sequence[Path]) -> str:
        """Return the command that compares these runs so."""
        named = [("--qrels", self.judgements.qrels), ("--dataset", self.judgements.dataset)]
        named += [("--baseline", self.comparison.baseline), *(("--measure", measure) for measure in self.measures)]
        told = [str(word) for option, value in named if value is not None for word in (option, value)]
        common = ["--common"] if self.comparison.common else []
        return shlex.join(["r2llm", "compare", *map(str, places), *told, *common])


def groups(paths: Sequence[Path], options: Options, listener: Listener) -> list[Group]:
    """Return the sections about the runs in these folders and files, runs of other judgements apart.

    Runs of other queries too, unless those that all share are compared. A study is its JSON file. Raises `InputError`
    as comparing runs does.
    """
    of_studies = [path for path in paths if path.suffix == ".json"]
    paths = [path for path in paths if path not in of_studies]
    places = [place for path in paths for place in runs.expanded(path, listener)]
    other_judgements = options.judgements != Judgements()
    by_data: dict[str, list[Path]] = {}
    for place in places:
        data = {} if other_judgements or place.is_file() else manifest.read(place / manifest.NAME).data
        of_queries = None if options.comparison.common else data.get("queries")
        by_data.setdefault(f"{of_queries} {data.get('qrels')}", []).append(place)
    reported = [_group(folders if len(by_data) > 1 else paths, options, listener) for folders in by_data.values()]
    if options.query is not None and not any(section.stories for group in reported for section in group.sections):
        raise InputError(f"--query {options.query}: no reranked run has this query, its texts and its answers")
    reported = [
        dataclasses.replace(group, title=f"{group.title} ({number})" if len(reported) > 1 else group.title)
        for number, group in enumerate(reported, 1)
    ]
    return [*reported, *map(studies.group, of_studies)]


def _group(places: Sequence[Path], options: Options, listener: Listener) -> Group:
    heard = Noting(listener)
    loaded = runs.load(places, options.judgements, options.measures, heard)
    costs = dict.fromkeys(name for run in loaded for name in run.costs)
    loaded = [run if run.costs or not run.config or run.reranked else _without_cost(run, costs) for run in loaded]
    reference = _first_stage(loaded)
    if len(loaded) == 1 and not reference:
        raise InputError(f"{places[0]}: a report needs two runs, or one that reranked a measured first stage")
    if not any(run.measures for run in loaded):
        raise InputError(f"{places[0]}: its dataset has no relevance judgements: there is nothing to report")
    compared = comparisons.compare([*([reference] if reference else []), *loaded], options.comparison, listener)
    if reference:
        where = f"the command has it, without costs, once {reference.path} and --dataset or --qrels are added"
        compared = dataclasses.replace(
            compared, notes=(*compared.notes, f"the first stage is one of the runs: {where}")
        )
    reference = compared.runs[0]
    command = options.command(places)
    datasets = dict.fromkeys(_dataset(run.config["dataset"]) for run in loaded if run.config)
    group = Group(", ".join(datasets) or "TREC files", compared.simulated)
    group.sections.append(_runs(loaded, heard.notes))
    group.sections.append(_results(compared, command))
    if compared.costs:
        group.sections.append(_costs(compared, command))
    group.sections.append(_differences(compared, reference, command))
    group.sections.extend(filter(None, (_published(loaded), _prompts(compared, command), _properties(loaded))))
    if any(sensitivity.order_of(run) == "shuffle" for run in loaded):
        for section in (_orders, _positions):
            try:
                group.sections.append(section(loaded, command))
            except InputError as error:
                listener.note(str(error))
    group.sections.extend(_story(compared, loaded, options.query, listener))
    return group


def _dataset(named: str | Mapping[str, str]) -> str:
    """Return a dataset's identifier, or the name of its folder or its first file."""
    return named if isinstance(named, str) else Path(next(iter(named.values()))).name


def _first_stage(loaded: Sequence[Run]) -> Run | None:
    """Return the first stage that all runs reranked as a run without cost, or None if they have none in common."""
    one, *others = loaded
    if not any(one.first_stage.values()) or any(run.first_stage != one.first_stage for run in others):
        return None
    scored, _ = runfile.read(one.path / "first_stage.trec")
    name = "BM25" if one.config.get("first_stage", {}).get("bm25") else "given run"
    rankings = runfile.documents(scored)
    return _without_cost(
        Run(f"first stage ({name})", one.path / "first_stage.trec", rankings, one.first_stage), one.costs
    )


def _without_cost(run: Run, costs: Iterable[str]) -> Run:
    """Return a run with costs of 0 a query: it asked no model."""
    return dataclasses.replace(run, costs={name: dict.fromkeys(run.rankings, 0.0) for name in costs})


def _runs(loaded: Sequence[Run], notes: Sequence[str]) -> Section:
    """Return the table of runs, each with the command that makes it again."""
    rows = [
        [
            run.name,
            sensitivity.method_of(run) if run.reranked else "-",
            _model(run),
            str(len(run.rankings)),
            "simulated" if run.simulated else "",
            f"r2llm rerank --config {shlex.quote(str(run.path / 'config.yaml'))}" if run.config else str(run.path),
        ]
        for run in loaded
    ]
    header = ["run", "method", "model", "queries", "answers", "made by"]
    folders = sorted({str(run.path.parent) for run in loaded if run.config})
    command = "\n".join(f"r2llm runs {shlex.quote(folder)}" for folder in folders)
    return Section("Runs", command, notes, tables=[Table("runs", header, rows)])


def _model(run: Run) -> str:
    models = [run.config.get("model") or {}, *((stage.get("model") or {}) for stage in run.config.get("stages") or [])]
    return " > ".join(manifest.model_name(model) or str(model["backend"]) for model in models if model) or "-"


def _results(compared: Comparison, command: str) -> Section:
    summaries = [tables.means(compared)]
    reference = compared.runs[0].name
    for column in compared.measures:
        if column.pairs:
            table = tables.pairs(compared, column)
            if len(column.pairs) > PAIRS:
                rows = [row for row, pair in zip(table.rows, column.pairs, strict=True) if pair.a == reference]
                left_out = f"{len(rows)} of {len(column.pairs)} pairs, those with {reference}; the command has all."
                table = dataclasses.replace(table, rows=rows, caption=f"{left_out} {table.caption}")
            summaries.append(table)
    if len(compared.likeness) <= PAIRS:
        summaries.append(tables.likeness(compared))
    plots = [charts.means(compared, column) for column in compared.measures if column.tested]
    return Section("Results", command, compared.notes, plots, summaries)


def _costs(compared: Comparison, command: str) -> Section:
    costs = [table for table in compared.costs if table.name in COSTS and any(table.means.values())]
    measure = compared.measures[0]
    plots = [charts.tradeoff(compared, measure, cost) for cost in costs]
    plots += [charts.means(compared, cost, log=True) for cost in costs if cost.name in ("asks", "seconds")]
    missing = [label(name) for name in COSTS if name not in {cost.name for cost in costs}]
    notes = [f"not drawn, since not all runs have them: {', '.join(missing)}"] if missing else []
    return Section("Effectiveness against cost", command, notes, plots)


def _differences(compared: Comparison, reference: Run, command: str) -> Section:
    tested = [column for column in compared.measures if column.tested]
    plots = [charts.differences(compared, column, reference) for column in tested]
    summaries = [tables.queries(compared, column) for column in tested if len(compared.runs) == 2]
    return Section("Query by query", f"{command} --per-query", (), plots, summaries)


def _published(loaded: Sequence[Run]) -> Section | None:
    """Return published figures beside measured ones; those of simulated runs are listed and not judged."""
    rows, points = list[list[str]](), list[dict[str, Any]]()
    for run in loaded:
        if {"limit", "sample", "ids", "first"} & (run.config.get("queries") or {}).keys():
            continue
        for name, expected in (run.config.get("expected") or {}).items():
            if not run.measures.get(name):
                continue
            figure, measured = Expected.model_validate(expected), fmean(run.measures[name].values())
            verdict = "simulated: not judged" if run.simulated else figure.verdict(measured)
            span = f"{figure.value:g} ± {figure.tolerance:g}"
            difference = f"{measured - figure.value:+.4f}"
            rows.append([run.name, name, span, f"{measured:.4f}", difference, verdict, figure.source])
            if not run.simulated:
                ends = {"low": figure.value - figure.tolerance, "high": figure.value + figure.tolerance}
                points.append({"run": f"{run.name}, {name}", "series": "measured", "mean": measured, **ends})
    header = ["run", "measure", "published", "measured", "difference", "verdict", "source"]
    simulated = [run.name for run in loaded if run.simulated]
    table = Table("published", header, rows, marked("", simulated))
    caption = "Dots are measured; bars are the published figures with their tolerances."
    plot = charts.dots(charts.About("published", "Measured and published", caption, simulated=False), points, "measure")
    command = "r2llm check --expected --config CONFIG"
    return Section("Published beside measured", command, (), [plot] if points else [], [table]) if rows else None


def _prompts(compared: Comparison, command: str) -> Section | None:
    """Return the spread of each method over its prompts, where runs differ in these."""
    table = compared.measures[0]
    points, prompts = list[dict[str, Any]](), dict[str, set[str]]()
    for run in compared.runs:
        if run.reranked and (ranker := run.config.get("ranker")):
            method, prompt = str(ranker["method"]), str(ranker.get("prompt"))
            prompts.setdefault(method, set()).add(prompt)
            points.append({"run": method, "prompt": prompt, "mean": table.means[run.name]})
    points = [point for point in points if len(prompts[point["run"]]) > 2]
    if not points:
        return None
    caption = f"A tick is the {table.name} of one prompt; the dot is the mean over a method's prompts."
    about = charts.About("prompts", f"Prompt variations: {table.name}", caption, bool(compared.simulated))
    plot = charts.spread(about, points, table.name)
    rows = []
    for method in dict.fromkeys(point["run"] for point in points):
        ranked = sorted((p for p in points if p["run"] == method), key=lambda point: point["mean"], reverse=True)
        best, worst = ranked[0], ranked[-1]
        mean = fmean(point["mean"] for point in ranked)
        figures = (mean, worst["mean"], best["mean"], best["mean"] - worst["mean"])
        count = str(len(prompts[method]))
        rows.append([method, count, *(f"{value:.4f}" for value in figures), best["prompt"], worst["prompt"]])
    header = ["method", "prompts", "mean", "min", "max", "range", "best prompt", "worst prompt"]
    summary = Table("prompts", header, rows, marked(f"{table.name} over prompts.", compared.simulated))
    return Section("Prompt variations", command, charts=[plot], tables=[summary])


def _properties(loaded: Sequence[Run]) -> Section | None:
    """Return what each method takes: counts of its runs, and scorings of its parameters."""
    alike: dict[tuple[str, str, str], list[Run]] = {}
    for run in loaded:
        if run.reranked and run.config.get("ranker") and {"asks", "rounds"} <= run.costs.keys():
            [ranker] = inspect.config_of(run.path).rankers
            words = {"likelihood": "log-probabilities", "generation": "text"}
            fixed = [only for kind in ranker.params.asks if (only := KINDS[kind].scoring)]
            needs = " or ".join(words[each] for each in fixed or ranker.params.scorings)
            alike.setdefault((ranker.method.name, needs, ranker.scoring), []).append(run)
    rows = []
    for (method, needs, scoring), of in alike.items():
        asks, rounds = (fmean(value for run in of for value in run.costs[name].values()) for name in ("asks", "rounds"))
        at_once = asks / rounds if rounds else 0.0
        counts = [f"{count:,.1f}" for count in (asks, rounds, at_once)]
        rows.append([method, *counts, "yes" if at_once > 1 else "no", needs, scoring])
    header = ["method", "asks", "rounds", "asks a round", "batchable", "needs", "scoring here"]
    caption = "Means of a query. A round's asks do not depend on each other, so they can be one batch."
    simulated = [run.name for run in loaded if run.simulated]
    command = "r2llm show RUN; r2llm list methods METHOD"
    summary = Table("properties", header, rows, marked(caption, simulated))
    return Section("Properties of the methods", command, tables=[summary]) if rows else None


def _orders(loaded: Sequence[Run], command: str) -> Section:
    rows, notes = sensitivity.sensitivity(loaded)
    measures = dict.fromkeys(row.measure for row in rows)
    plots = [charts.orders([row for row in rows if row.measure == measure]) for measure in measures]
    table = sensitivity.table(rows)
    return Section("Sensitivity to the initial order", f"{command} --sensitivity", notes, plots, [table])


def _positions(loaded: Sequence[Run], command: str) -> Section:
    rows, notes = positions.positions(loaded)
    plots = [charts.slots(row, number) for number, row in enumerate(rows, 1)]
    return Section("Position bias", f"{command} --positions", notes, plots, [positions.table(rows)])


def _story(compared: Comparison, loaded: Sequence[Run], query: str | None, listener: Listener) -> Iterator[Section]:
    """Yield the story of one query in the best runs, by default of the one in which these differ most."""
    measure = compared.measures[0]
    best = sorted((run for run in loaded if run.reranked), key=lambda run: -measure.means[run.name])[:STORIES]
    if not best:
        return
    if query is None:
        columns = [run.measures[measure.name] for run in (compared.runs[0], *best)]

        def spread(query: str) -> float:
            values = [column.get(query, 0.0) for column in columns]
            return max(values) - min(values)

        query = max(compared.queries, key=spread)
    stories, plots = [], []
    for number, run in enumerate(best, 1):
        try:
            story = inspect.story(run.path, query, prompts=True)
        except InputError as error:
            listener.note(f"no story of {run.name}: {error}")
            continue
        plots.append(charts.moves(f"moves-{number}", run.name, story, simulated=run.simulated))
        cut = [ask | {"prompt": _cut(ask.get("prompt") or "")} for ask in story["asks"][:ASKS]]
        stories.append(story | {"name": run.name, "simulated": run.simulated, "shown": cut})
    commands = "\n".join(
        f"r2llm inspect {shlex.quote(str(run.path))} --query {shlex.quote(query)} --prompts" for run in best
    )
    if stories:
        yield Section(f"A query's story: {query}", commands, charts=plots, stories=stories)


def _cut(prompt: str) -> str:
    more = len(prompt) - PROMPT
    return prompt if more <= 0 else f"{prompt[:PROMPT]}\n[… {more:,} characters more]"
