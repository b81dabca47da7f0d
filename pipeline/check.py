"""Regression checks: an experiment is run again and held against a baseline, or against published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rerankers.errors import BackendError, InputError, R2llmError
from . import baseline as baselines
from . import evaluate, experiment
from .baseline import EXACT, TOP, Baseline, QueryResult
from .configs import load as configs
from .configs.load import Expected, Loaded
from .first_stage.retrieve import chosen_queries, open_dataset
from .io.progress import Listener
from .run.read import Run

Figure = float | None
"""A measure or a count; null where it was not taken, as tokens without a tokenizer."""


@dataclass(frozen=True)
class Plan:
    """What is to be checked, and how."""

    configs: tuple[str, ...]
    baselines: tuple[Path, ...] = ()
    """One a config, in the same order; none where the configs are held against their published figures."""
    update: bool = False
    settings: tuple[str, ...] = ()
    queries: int | None = None
    output: Path | None = None
    """The run's folder; with several configs, the folder that holds one for each, by its name."""

    def __post_init__(self) -> None:
        if self.baselines and len(self.baselines) != len(self.configs):
            raise InputError(
                f"--baseline is given {len(self.baselines)} times and --config {len(self.configs)} times: "
                "give each --config its --baseline"
            )
        if self.update and not self.baselines:
            raise InputError("--update writes a baseline: name it with --baseline")


@dataclass(frozen=True)
class Change:
    """A mean or a total, then and now."""

    name: str
    before: Figure
    after: Figure
    amount: Figure
    """By how much it moved: a mean absolutely, a count by the sum of its changes over the queries, up and down, so
    that they cannot make up for each other. None where it was taken only then or only now."""
    tolerance: float
    """The amount that is allowed; for a count as a share of what it was, or of 1 where that was nothing."""
    moved: bool
    """Whether it is not what it was."""
    beyond: bool
    """Whether it moved by more than the tolerance."""
    by_query: Mapping[str, float]
    """By how much it changed in each query where it did, the largest change first."""

    @property
    def signed(self) -> Figure:
        """What it is now above what it was."""
        return None if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True)
class DocMove:
    """A document's rank then and now, from 1."""

    doc: str
    before: int | None
    """None where it was not among the first `TOP`."""
    after: int | None
    """None where it is no candidate any more."""


@dataclass(frozen=True)
class QueryMove:
    """A query whose ranking or measures are not what they were."""

    query: str
    measures: Mapping[str, tuple[Figure, Figure]]
    """Those that changed: then and now."""
    reranked: bool
    """Whether its ranking changed, above or below rank `TOP`."""
    docs: tuple[DocMove, ...]
    """What happened among the first `TOP`, the longest way first."""

    @property
    def size(self) -> tuple[float, int]:
        """What the moves are sorted by: the largest change of a measure, then the ranks that documents moved."""
        changes = [_distance(before, after) for before, after in self.measures.values()]
        return max(changes, default=0.0), sum(_ranks(move) for move in self.docs)


@dataclass(frozen=True)
class Comparison:
    """What a run came to beside its baseline."""

    name: str
    baseline: Path
    run_dir: Path
    measures: tuple[Change, ...]
    costs: tuple[Change, ...]
    queries: int
    """How many there are."""
    moved: tuple[QueryMove, ...]
    """Those that moved, the largest move first."""
    may_move: int
    differing_parts: tuple[str, ...]
    """Which parts of the experiment are not those of the baseline; none where the fingerprint is the same."""
    unmeasured: tuple[str, ...]
    """Measures that the baseline lacks: nothing to compare them with."""
    warnings: Sequence[str]
    """Why the run is doubtful."""

    @property
    def regression(self) -> bool:
        """Whether anything moved by more than its tolerance."""
        return len(self.moved) > self.may_move or any(change.beyond for change in (*self.measures, *self.costs))

    @property
    def improvement(self) -> bool:
        """Whether all that moved by more than its tolerance is better: measures are higher, costs are lower.

        Where more queries moved than may, a measure must say that it was for the better.
        """
        gains = [change.signed for change in self.measures if change.beyond]
        if len(self.moved) > self.may_move and not gains:
            return False
        gains += [change.signed and -change.signed for change in self.costs if change.beyond]
        return bool(gains) and all(gain is not None and gain > 0 for gain in gains)

    @property
    def exit_code(self) -> int:
        """0 where nothing moved beyond its tolerance, else 1, be it for the better: the baseline is not right."""
        return int(self.regression)


@dataclass(frozen=True)
class Updated:
    """A baseline that was written."""

    name: str
    baseline: Path
    run_dir: Path
    comparison: Comparison | None
    """With what was there before, if that was of the same queries and measures."""
    warnings: Sequence[str]
    exit_code = 0


@dataclass(frozen=True)
class Judgement:
    """A measure beside its published figure."""

    measure: str
    value: float
    expected: Expected

    @property
    def out_by(self) -> float:
        """How far it is from the published figure."""
        return abs(self.value - self.expected.value)

    @property
    def reproduced(self) -> bool:
        """Whether it is as near as the config asks."""
        return self.out_by <= self.expected.tolerance + EXACT


@dataclass(frozen=True)
class Reproduction:
    """What a full run came to beside the published figures."""

    name: str
    run_dir: Path
    judgements: tuple[Judgement, ...]
    warnings: Sequence[str]

    @property
    def exit_code(self) -> int:
        """0 where every figure was reproduced, else 1."""
        return int(not all(judgement.reproduced for judgement in self.judgements))


@dataclass(frozen=True)
class Failure:
    """A config that could not be checked."""

    name: str
    error: R2llmError

    @property
    def exit_code(self) -> int:
        """That of the error."""
        return self.error.exit_code


Result = Comparison | Updated | Reproduction | Failure


def check_each(plan: Plan, listener: Listener) -> Iterator[Result]:
    """Check one config after the other. What is wrong with one is its result, and the others are checked too."""
    for number, name in enumerate(plan.configs):
        try:
            loaded = configs.load_noting(name, plan.settings, plan.queries, listener)
            output = plan.output
            if output is not None and len(plan.configs) > 1:
                output /= loaded.config.name
            if plan.baselines:
                against = _update if plan.update else _against_baseline
                yield against(loaded, plan.baselines[number], output, listener)
            else:
                yield _against_published(loaded, output, listener)
        except R2llmError as error:
            yield Failure(name, error)


def _against_baseline(loaded: Loaded, path: Path, output: Path | None, listener: Listener) -> Comparison:
    """Run an experiment and compare it with its baseline."""
    if not path.exists():
        raise InputError(f"{path}: there is no such baseline; --update writes it")
    before = baselines.read(path)
    queries = _queries(loaded)
    # Before anything is spent on a run that cannot be compared.
    _refuse_other_queries(path, before, queries)
    _refuse_lost_measures(path, before, _measures(loaded))
    run = _run(loaded, queries, output, listener)
    return _Comparing(before, run).comparison(path)


def _update(loaded: Loaded, path: Path, output: Path | None, listener: Listener) -> Updated:
    """Run an experiment and write its baseline, with the tolerances of the one that was there."""
    before = baselines.read(path) if path.exists() else None
    run = _run(loaded, _queries(loaded), output, listener)
    comparison = None
    if before is not None and _comparable(before, run.after):
        comparison = _Comparing(before, run).comparison(path)
    baselines.write(path, run.after.keeping(before.tolerances) if before else run.after)
    return Updated(loaded.config.name, path, run.outcome.run_dir, comparison, run.outcome.manifest.warnings)


def _comparable(before: Baseline, after: Baseline) -> bool:
    return before.queries.keys() == after.queries.keys() and before.measures.keys() <= after.measures.keys()


@dataclass(frozen=True)
class _Run:
    """A finished run, its rankings, and what it comes to."""

    outcome: Run
    rankings: Mapping[str, Sequence[str]]
    after: Baseline


def _run(loaded: Loaded, queries: Sequence[str], output: Path | None, listener: Listener) -> _Run:
    outcome = _rank_again(loaded, output, listener)
    _note_what_the_ledger_hides(outcome, listener)
    rankings = baselines.rankings_of(outcome)
    return _Run(outcome, rankings, baselines.of_run(outcome, rankings, queries))


def _rank_again(loaded: Loaded, output: Path | None, listener: Listener) -> Run:
    """Rank, also where the run is finished: what is checked is that it still comes to the same."""
    outcome = experiment.rerank(loaded, output, listener, again=True)
    if outcome.refusal:
        raise BackendError(outcome.refusal)
    return outcome


def _queries(loaded: Loaded) -> list[str]:
    """The experiment's queries, those without candidates too."""
    return list(chosen_queries(open_dataset(loaded).queries(), loaded.config.queries))


def _refuse_other_queries(path: Path, before: Baseline, queries: Sequence[str]) -> None:
    here = set(queries)
    gone = [query for query in before.queries if query not in here]
    new = [query for query in queries if query not in before.queries]
    if gone or new:
        difference = [*([f"without {_some(gone)}"] if gone else []), *([f"with {_some(new)}"] if new else [])]
        raise InputError(
            f"{path}: is of {len(before.queries)} queries, and this experiment has {len(queries)}, "
            f"{' and '.join(difference)}; run the baseline's queries, or write it anew with --update"
        )


def _refuse_lost_measures(path: Path, before: Baseline, measures: set[str]) -> None:
    lost = [name for name in before.measures if name not in measures]
    if lost:
        raise InputError(
            f"{path}: holds {_some(lost)}, which this experiment does not measure; add it to evaluate.measures, "
            "or write the baseline anew with --update"
        )


def _note_what_the_ledger_hides(outcome: Run, listener: Listener) -> None:
    """Say that answers came out of the ledger of earlier executions: they would hide a change of the model."""
    last = outcome.manifest.executions[-1]
    earlier = last.answers_before
    if earlier and (last.calls or 0) < (outcome.costs["calls"]["total"] or 0):
        listener.note(
            f"answers are taken from the {earlier:,} that earlier executions left in {outcome.run_dir}: the ranking is "
            "checked, the model is not; remove that folder or give another --output to have it answer again"
        )


class _Comparing:
    """A baseline beside what a run came to."""

    def __init__(self, before: Baseline, run: _Run) -> None:
        self.before = before
        self.after = run.after
        self.run = run

    def comparison(self, path: Path) -> Comparison:
        """Everything that can be said about the two."""
        before, after = self.before, self.after
        moves = [move for query in after.queries if (move := self._move(query))]
        return Comparison(
            name=after.name,
            baseline=path,
            run_dir=self.run.outcome.run_dir,
            measures=tuple(self._measure(name) for name in before.measures),
            costs=tuple(self._cost(name) for name in before.costs),
            queries=len(after.queries),
            moved=tuple(sorted(moves, key=lambda move: move.size, reverse=True)),
            may_move=before.tolerances.queries,
            differing_parts=self._differing_parts(),
            unmeasured=tuple(name for name in after.measures if name not in before.measures),
            warnings=self.run.outcome.manifest.warnings,
        )

    def _measure(self, name: str) -> Change:
        before, after = self.before.measures[name], self.after.measures[name]
        tolerance = self.before.tolerances.of_measure(name)
        amount = abs(after - before)
        by_query = _changes(
            {q: (r.measures.get(name), self.after.queries[q].measures.get(name)) for q, r in self._then}
        )
        moved, beyond = amount > EXACT, amount > max(tolerance, EXACT)
        return Change(name, before, after, amount, tolerance, moved, beyond, by_query)

    def _cost(self, name: str) -> Change:
        before, after = self.before.costs[name], self.after.costs.get(name)
        tolerance = self.before.tolerances.of_cost(name)
        by_query = _changes({q: (r.costs.get(name), self.after.queries[q].costs.get(name)) for q, r in self._then})
        if before is None or after is None:
            moved = before is not after
            return Change(name, before, after, None, tolerance, moved, moved, by_query)
        amount = sum(map(abs, by_query.values()))
        return Change(name, before, after, amount, tolerance, amount > 0, amount > tolerance * (before or 1), by_query)

    @property
    def _then(self) -> Iterable[tuple[str, QueryResult]]:
        return self.before.queries.items()

    def _move(self, query: str) -> QueryMove | None:
        """How a query moved, or None where it did not."""
        before, after = self.before.queries[query], self.after.queries[query]
        pairs = {name: (before.measures.get(name), after.measures.get(name)) for name in self.before.measures}
        measures = {name: pair for name, pair in pairs.items() if _distance(*pair) > EXACT}
        reranked = before.ranking != after.ranking
        if not measures and not reranked:
            return None
        return QueryMove(query, measures, reranked, _doc_moves(before.top, self.run.rankings.get(query, ())))

    def _differing_parts(self) -> tuple[str, ...]:
        if self.before.fingerprint == self.after.fingerprint:
            return ()
        before, after = self.before.parts, self.after.parts
        return tuple(name for name in {**before, **after} if before.get(name) != after.get(name))


def _doc_moves(before: Sequence[str], ranking: Sequence[str]) -> tuple[DocMove, ...]:
    """The documents that moved into, out of or within the first `TOP`, the longest way first."""
    then = {doc: rank for rank, doc in enumerate(before, 1)}
    now = {doc: rank for rank, doc in enumerate(ranking, 1)}
    docs = dict.fromkeys((*before, *ranking[:TOP]))
    moves = [DocMove(doc, then.get(doc), now.get(doc)) for doc in docs if then.get(doc) != now.get(doc)]
    return tuple(sorted(moves, key=_ranks, reverse=True))


def _ranks(move: DocMove) -> int:
    """How many ranks a document moved, at least; one that is lost, more than any other in sight."""
    if move.after is None:
        return 2 * TOP
    return abs((move.before or TOP + 1) - move.after)


def _changes(values: Mapping[str, tuple[Figure, Figure]]) -> dict[str, float]:
    """By how much a figure changed in each query where it did, the largest change first."""
    changes = {query: (after or 0) - (before or 0) for query, (before, after) in values.items()}
    moved = [query for query, change in changes.items() if abs(change) > EXACT]
    return {query: changes[query] for query in sorted(moved, key=lambda query: -abs(changes[query]))}


def _distance(before: Figure, after: Figure) -> float:
    """How far apart two figures are: without end where only one of them was taken."""
    if before is None or after is None:
        return 0.0 if before is after else math.inf
    return abs(after - before)


def _against_published(loaded: Loaded, output: Path | None, listener: Listener) -> Reproduction:
    """Run an experiment in full and hold it against the figures published for it."""
    figures = _published(loaded)
    outcome = _rank_again(loaded, output, listener)
    if outcome.manifest.simulated:
        raise InputError(_simulated(loaded))
    means = outcome.metrics.mean if outcome.metrics else {}
    judgements = [Judgement(name, means[name], expected) for name, expected in figures.items()]
    return Reproduction(loaded.config.name, outcome.run_dir, tuple(judgements), outcome.manifest.warnings)


def _published(loaded: Loaded) -> dict[str, Expected]:
    """Each measure's published figure. Raises `InputError` where the config is not what they were published of."""
    config = loaded.config
    if not config.expected:
        raise InputError(f"config {config.name} has no `expected`: there is no published figure to hold it against")
    if loaded.changes_ranking:
        raise InputError(
            f"config {config.name}: --set or --queries changes the experiment that the published figures belong to; "
            "leave them out (for a local copy of data or model, write a config that extends this one)"
        )
    if config.queries != configs.Queries():
        raise InputError(
            f"config {config.name}: `queries` selects some of the queries, and the published figures are of all; "
            "leave that section out"
        )
    if any(options.simulated for options in loaded.models):
        raise InputError(_simulated(loaded))
    figures = {str(evaluate.parse([name])[0]): expected for name, expected in config.expected.items()}
    missing = [name for name in figures if name not in _measures(loaded)]
    if missing:
        raise InputError(
            f"config {config.name}: expects {_some(missing)}, which the experiment does not measure; it takes "
            "evaluate.measures that name it, and a dataset with judgements"
        )
    return figures


def _simulated(loaded: Loaded) -> str:
    return (
        f"config {loaded.config.name}: simulated answers cannot reproduce a published figure; name a real model "
        "in its `model` section"
    )


def _measures(loaded: Loaded) -> set[str]:
    """What the experiment will measure: nothing where there are no judgements."""
    if not open_dataset(loaded).qrels():
        return set()
    return {str(measure) for measure in evaluate.parse(evaluate.with_judged(loaded.config.evaluate.measures))}


def _some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
