"""Check experiments: run them again and compare the results with a baseline, or with published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...rerankers.errors import BackendError, InputError, R2llmError
from .. import experiment
from ..configs import grid
from ..configs import load as configs
from ..configs.load import Expected, Loaded
from ..first_stage.retrieve import chosen_queries, open_dataset
from ..io.progress import Listener
from ..run import baseline as baselines
from ..run import index, runfile
from ..run import measures as evaluation
from ..run.baseline import TOP, Baseline
from ..run.measures import EXACT
from ..run.read import Run, read

SIMULATED = "simulated answers cannot reproduce a published figure; name a real model in its `model` section"

Figure = float | None
"""A measure or a count, or None if unknown."""


@dataclass(frozen=True)
class Plan:
    """Configs to check, each with its baseline, or without any to check published figures; then a grid is its cells.

    `output` is the run's folder; with several configs, the folder that holds one for each, by its name.
    """

    configs: tuple[str, ...]
    baselines: tuple[Path, ...] = ()
    update: bool = False
    settings: tuple[str, ...] = ()
    queries: int | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.baselines and len(self.baselines) != len(self.configs):
            counts = f"--baseline is given {len(self.baselines)} times and --config {len(self.configs)} times"
            raise InputError(f"{counts}: give each --config its --baseline")
        if self.update and not self.baselines:
            raise InputError("--update writes a baseline: name it with --baseline")


@dataclass(frozen=True)
class Change:
    """A mean or a total before and after, and by how much each query changed, the largest change first.

    `amount` is the absolute change of a mean, and of a count the sum over the queries, where changes cannot cancel out.
    The tolerance of a count is a share of its total.
    """

    name: str
    before: Figure
    after: Figure
    amount: Figure
    tolerance: float
    moved: bool
    beyond: bool
    by_query: Mapping[str, float]

    @property
    def signed(self) -> Figure:
        """Return the increase, or None if one side is unknown."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class DocMove:
    """A document's ranks, from 1: before, or None if it was not among the first `TOP`; after, or None if it is gone."""

    doc: str
    before: int | None
    after: int | None

    @property
    def ranks(self) -> int:
        """Return the least number of ranks that it moved; more than any other if it is gone."""
        return 2 * TOP if self.after is None else abs((self.before or TOP + 1) - self.after)


@dataclass(frozen=True)
class QueryMove:
    """A query whose ranking (`reranked`) or measures (before, after) changed; `docs` moved among the first `TOP`."""

    query: str
    measures: Mapping[str, tuple[Figure, Figure]]
    reranked: bool
    docs: tuple[DocMove, ...]

    @property
    def size(self) -> tuple[float, int]:
        """Return the sort key of moves: the largest change of a measure, then the ranks that documents moved."""
        changes = [_distance(*pair) for pair in self.measures.values()]
        return max(changes, default=0.0), sum(move.ranks for move in self.docs)


@dataclass(frozen=True)
class Comparison:
    """Results beside earlier ones of the same queries, of which `may_move` may move; the largest move is the first.

    `differing_parts` names the parts of the experiment that are not the same; `unmeasured` are measures that only the
    later results have.
    """

    measures: tuple[Change, ...]
    costs: tuple[Change, ...]
    queries: int
    moved: tuple[QueryMove, ...]
    may_move: int
    differing_parts: tuple[str, ...]
    unmeasured: tuple[str, ...]

    @property
    def regression(self) -> bool:
        """Return whether anything moved by more than its tolerance, be it for the better."""
        return len(self.moved) > self.may_move or any(change.beyond for change in (*self.measures, *self.costs))

    @property
    def improvement(self) -> bool:
        """Return whether all that is beyond its tolerance is better: measures higher, costs lower.

        If more queries moved than may, a measure must confirm that it was for the better.
        """
        gains = [change.signed for change in self.measures if change.beyond]
        if len(self.moved) > self.may_move and not gains:
            return False
        gains += [change.signed and -change.signed for change in self.costs if change.beyond]
        return bool(gains) and all(gain is not None and gain > 0 for gain in gains)


@dataclass(frozen=True)
class Judgement:
    """A measure beside its published figure, and the distance between them."""

    measure: str
    value: float
    expected: Expected
    out_by: float
    within_tolerance: bool


@dataclass(frozen=True)
class Result:
    """The check of one config: its run beside a baseline or published figures, or the error that prevented it.

    There is no comparison if the baseline is new, or was of other queries or measures.
    """

    name: str
    run: Run | None = None
    baseline: Path | None = None
    comparison: Comparison | None = None
    updated: bool = False
    judgements: Sequence[Judgement] = ()
    error: R2llmError | None = None

    @property
    def exit_code(self) -> int:
        """Return 1 if anything is beyond its tolerance, unless the baseline was updated, and an error's own code."""
        if self.error:
            return self.error.exit_code
        regression = self.comparison is not None and self.comparison.regression and not self.updated
        return int(regression or not all(judgement.within_tolerance for judgement in self.judgements))


def check_each(plan: Plan, listener: Listener) -> Iterator[Result]:
    """Check one config after the other. An error is the result of its config, and the others are checked too.

    Of a grid each cell that has published figures is checked, a finished run in `runs` without running it again.
    """
    for number, name in enumerate(plan.configs):
        try:
            cells = [cell.name for cell in grid.read(name).cells] if not plan.baselines and grid.is_grid(name) else []
        except R2llmError as error:
            yield Result(name, error=error)
            continue
        unpublished = 0
        for one in cells or [name]:
            try:
                loaded, output = configs.load_noting(one, plan.settings, plan.queries, listener), plan.output
                if cells and not loaded.config.expected:
                    unpublished += 1
                    continue
                if output is not None and len(plan.configs) + len(cells) > 1:
                    output /= loaded.config.name
                if plan.baselines:
                    yield _against_baseline(loaded, plan.baselines[number], plan.update, output, listener)
                else:
                    yield _against_published(loaded, output, listener, swept=bool(cells))
            except R2llmError as error:
                yield Result(one, error=error)
        if unpublished:
            listener.note(f"{name}: {unpublished} of {len(cells)} cells have no published figure and are not judged")
        if unpublished and unpublished == len(cells):
            yield Result(name, error=InputError(f"config {name}: none of its {len(cells)} cells has `expected`"))


def _against_baseline(loaded: Loaded, path: Path, update: bool, output: Path | None, listener: Listener) -> Result:
    """Run an experiment and compare it with its baseline, or write that anew with the same tolerances."""
    if not path.exists() and not update:
        raise InputError(f"{path}: there is no such baseline; --update writes it")
    if path.is_dir():
        if update:
            raise InputError(f"{path}: is a run's folder; --update writes a JSON file: name one with --baseline")
        output = output or path.with_name(f"{path.name}-check")  # the baseline's own folder stays as it is
        if output.resolve() == path.resolve():
            raise InputError(f"--output {output}: is the baseline's folder; name another one")
    before = baselines.read(path) if path.exists() else None
    queries = list(chosen_queries(open_dataset(loaded).queries(), loaded.config.queries))  # also without candidates
    obstacle = _obstacle(before, queries, _measures(loaded)) if before else ""
    if obstacle and not update:  # before anything is spent on the run
        raise InputError(f"{path}: {obstacle}, or write it anew with --update")
    run = _rank_again(loaded, output, listener)
    rankings = runfile.documents(runfile.read(run.run_file)[0])
    after = baselines.of_run(run, rankings, queries)
    comparison = compare(before, after, rankings) if before and not obstacle else None
    if update:
        baselines.write(path, after.keeping(before.tolerances) if before else after)
    return Result(loaded.config.name, run, path, comparison, update)


def _obstacle(before: Baseline, queries: Sequence[str], measures: set[str]) -> str:
    """Return why an experiment of these queries and measures cannot be compared with a baseline, with a remedy."""
    here = set(queries)
    gone, new = [q for q in before.queries if q not in here], [q for q in queries if q not in before.queries]
    if gone or new:
        difference = " and ".join([f"without {some(gone)}"] * bool(gone) + [f"with {some(new)}"] * bool(new))
        counts = f"has {len(before.queries)} queries, and this experiment has {len(queries)}"
        return f"{counts}, {difference}; run the baseline's queries"
    lost = [name for name in before.measures if name not in measures]
    return f"holds {some(lost)}, which this experiment does not measure; add it to evaluate.measures" if lost else ""


def _rank_again(loaded: Loaded, output: Path | None, listener: Listener) -> Run:
    """Rank, also if the run is finished, and note that answers of its ledger would hide a change of the model."""
    run = experiment.rerank(loaded, output, listener, again=True)
    if run.refusal:
        raise BackendError(run.refusal)
    last = run.manifest.executions[-1]
    if last.answers_before and (last.calls or 0) < (run.costs["calls"]["total"] or 0):
        listener.note(
            f"answers are taken from the {last.answers_before:,} that earlier executions left in {run.run_dir}: the "
            "ranking is checked, the model is not; remove that folder or give another --output to have it answer again"
        )
    return run


def compare(before: Baseline, after: Baseline, rankings: Mapping[str, Sequence[str]]) -> Comparison:
    """Compare results with earlier ones of the same queries; `rankings` are the later ones, in full."""
    moves = [_move(query, before, after, rankings.get(query, ())) for query in after.queries]
    parts = {**before.parts, **after.parts} if before.fingerprint != after.fingerprint else {}
    return Comparison(
        measures=tuple(_changes("measures", before, after)),
        costs=tuple(_changes("costs", before, after)),
        queries=len(after.queries),
        moved=tuple(sorted((move for move in moves if move), key=lambda move: move.size, reverse=True)),
        may_move=before.tolerances.queries,
        differing_parts=tuple(name for name in parts if before.parts.get(name) != after.parts.get(name)),
        unmeasured=tuple(name for name in after.measures if name not in before.measures),
    )


def _changes(kind: Literal["measures", "costs"], before: Baseline, after: Baseline) -> Iterator[Change]:
    for name, then in getattr(before, kind).items():
        now, tolerance = getattr(after, kind).get(name), before.tolerances.of(kind, name)
        by_query = {}
        for query, earlier in before.queries.items():
            change = (getattr(after.queries[query], kind).get(name) or 0) - (getattr(earlier, kind).get(name) or 0)
            if abs(change) > EXACT:
                by_query[query] = change
        if then is None or now is None:
            amount, allowed = None, 0.0
        elif kind == "measures":
            amount, allowed = abs(now - then), max(tolerance, EXACT)
        else:
            amount, allowed = sum(map(abs, by_query.values())), tolerance * (then or 1)
        distance = _distance(then, now) if amount is None else amount
        by_query = dict(sorted(by_query.items(), key=lambda item: -abs(item[1])))
        yield Change(name, then, now, amount, tolerance, distance > EXACT, distance > allowed, by_query)


def _move(query: str, before: Baseline, after: Baseline, ranking: Sequence[str]) -> QueryMove | None:
    then, now = before.queries[query], after.queries[query]
    pairs = {name: (then.measures.get(name), now.measures.get(name)) for name in before.measures}
    measures = {name: pair for name, pair in pairs.items() if _distance(*pair) > EXACT}
    reranked = then.ranking != now.ranking
    return QueryMove(query, measures, reranked, _doc_moves(then.top, ranking)) if measures or reranked else None


def _doc_moves(before: Sequence[str], ranking: Sequence[str]) -> tuple[DocMove, ...]:
    """Return the documents that moved into, out of or within the first `TOP`, the longest way first."""
    then, now = ({doc: rank for rank, doc in enumerate(docs, 1)} for docs in (before, ranking))
    docs = dict.fromkeys((*before, *ranking[:TOP]))
    moves = [DocMove(doc, then.get(doc), now.get(doc)) for doc in docs if then.get(doc) != now.get(doc)]
    return tuple(sorted(moves, key=lambda move: move.ranks, reverse=True))


def _distance(before: Figure, after: Figure) -> float:
    """Return how far apart two figures are: infinitely if only one of them is known."""
    if before is None or after is None:
        return 0.0 if before is after else math.inf
    return abs(after - before)


def _against_published(loaded: Loaded, output: Path | None, listener: Listener, *, swept: bool) -> Result:
    """Compare an experiment's full run with its published figures; a finished one of a sweep is not run again."""
    figures = _published(loaded)
    run = (_finished(loaded, figures.keys(), output) if swept else None) or _rank_again(loaded, output, listener)
    if run.manifest.simulated:
        raise InputError(f"config {loaded.config.name}: {SIMULATED}")
    judgements, means = [], run.metrics.mean if run.metrics else {}
    for name, expected in figures.items():
        out_by = abs(means[name] - expected.value)
        judgements.append(Judgement(name, means[name], expected, out_by, expected.allows(means[name])))
    return Result(loaded.config.name, run, judgements=judgements)


def _finished(loaded: Loaded, measures: Iterable[str], output: Path | None) -> Run | None:
    """Return a finished run of the experiment that has these measures, or None."""
    place = output.parent if output else Path("runs")
    finished = (read(folder) for folder, _ in index.of_fingerprint(place, experiment.fingerprint(loaded)))
    measured = (run for run in finished if run.metrics and run.metrics.mean.keys() >= set(measures))
    return next((run for run in measured if not run.refusal), None)


def _published(loaded: Loaded) -> dict[str, Expected]:
    """Return each measure's published figure. Raises `InputError` if the config is another experiment than theirs."""
    config, fault = loaded.config, ""
    figures = {str(evaluation.parse([name])[0]): expected for name, expected in config.expected.items()}
    if not figures:
        fault = "it has no `expected`: there is no published figure to compare with"
    elif loaded.changes_ranking:
        fault = (
            "--set or --queries changes the experiment that the published figures belong to; leave them out (for a "
            "local copy of data or model, write a config that extends this one)"
        )
    elif config.queries != configs.Queries():
        fault = "`queries` selects some of the queries, and the published figures are of all; leave that section out"
    elif any(options.simulated for options in loaded.models):
        fault = SIMULATED
    elif missing := sorted(figures.keys() - _measures(loaded)):
        remedy = "it takes evaluate.measures that name it, and a dataset with judgements"
        fault = f"expects {some(missing)}, which the experiment does not measure; {remedy}"
    if fault:
        raise InputError(f"config {config.name}: {fault}")
    return figures


def _measures(loaded: Loaded) -> set[str]:
    """Return what the experiment will measure: nothing without judgements."""
    if not open_dataset(loaded).qrels():
        return set()
    return {str(measure) for measure in evaluation.parse(evaluation.with_judged(loaded.config.evaluate.measures))}


def some(names: Sequence[str]) -> str:
    """Return the first six of some names, and how many more there are."""
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
