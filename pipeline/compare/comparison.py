"""A comparison of runs, paired by query: means with intervals, differences with tests, similarity, reproduction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...rerankers.errors import InputError
from ..io.progress import Listener
from ..io.tables import alike, some
from . import similarity, statistics
from .changes import differences
from .runs import Run, flat
from .statistics import TIE, Correction, Interval, Test, Values

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05

JUDGED_DROP = 0.02
"""Difference of Judged@k between two runs from which the comparison is doubtful."""

COSTS = ("asks", "calls", "rounds", "prompt_tokens", "completion_tokens", "flops", "usd", "seconds")
"""Costs that are compared, where every query of all runs has them."""


@dataclass(frozen=True)
class Options:
    """Settings of a comparison."""

    test: Test = "t"
    correction: Correction = "holm"
    baseline: str | None = None
    """The run that all others are compared with; all pairs unless given."""
    margin: float | None = None
    """Difference within which equivalence is tested."""
    common: bool = False
    """True: runs of different queries are compared on those they share."""


@dataclass(frozen=True)
class Pair:
    """Two runs in one measure or cost; differences are b - a."""

    a: str
    b: str
    diff: float
    ci: Interval
    p: float
    p_adjusted: float
    effect: float | None
    """d_z: the mean difference over the standard deviation of differences."""
    by_query: Mapping[str, float]
    """Differences of the queries that are no ties, the largest first."""
    ties: int
    detectable: float | None
    """Smallest mean difference that these queries show with power .8."""
    equivalent_p: float | None
    """TOST's p-value, where a margin is given."""
    equivalent_within: float
    """Smallest margin within which the runs are shown to be equivalent."""

    @property
    def significant(self) -> bool:
        """Return True if the adjusted p-value is below .05."""
        return self.p_adjusted < ALPHA

    @property
    def wins(self) -> tuple[str, ...]:
        """Queries in which b is above a."""
        return tuple(query for query, by in self.by_query.items() if by > 0)

    @property
    def losses(self) -> tuple[str, ...]:
        """Queries in which b is below a."""
        return tuple(query for query, by in self.by_query.items() if by < 0)


@dataclass(frozen=True)
class Likeness:
    """Similarity of the rankings of two runs, as means over queries."""

    tau: float | None
    rbo: float
    overlap: float


@dataclass(frozen=True)
class Column:
    """One measure or cost of all runs."""

    name: str
    means: Mapping[str, float]
    intervals: Mapping[str, Interval]
    pairs: tuple[Pair, ...]
    tested: bool
    """False for Judged@k, which is shown without tests."""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side."""

    runs: tuple[Run, ...]
    queries: tuple[str, ...]
    measures: tuple[Column, ...]
    costs: tuple[Column, ...]
    likeness: Mapping[tuple[str, str], Likeness]
    options: Options
    notes: tuple[str, ...]

    @property
    def simulated(self) -> tuple[str, ...]:
        """The runs whose answers were simulated."""
        return tuple(run.name for run in self.runs if run.simulated)

    @property
    def means(self) -> pd.DataFrame:
        """The mean of each measure and cost, a row a run."""
        import pandas as pd

        return pd.DataFrame({table.name: dict(table.means) for table in (*self.measures, *self.costs)})

    @property
    def pairs(self) -> pd.DataFrame:
        """The differences of two runs, a row a pair and a measure or cost."""
        import pandas as pd

        rows = [(table.name, pair) for table in (*self.measures, *self.costs) for pair in table.pairs]
        return pd.DataFrame([{"measure": name, **vars(pair)} for name, pair in rows])


def compare(runs: Sequence[Run], options: Options, listener: Listener) -> Comparison:
    """Compare two or more runs.

    Queries are paired by id; one that a run lacks counts 0 there and is named. Raises `InputError` for fewer than two
    runs, an unknown baseline, and runs of different queries unless `options.common`.
    """
    names = [run.name for run in runs]
    if len(runs) < 2:
        raise InputError("compare needs two runs or more")
    baseline = _baseline(runs, options.baseline)
    if baseline:
        runs = [baseline, *(run for run in runs if run is not baseline)]
        names = [run.name for run in runs]
    queries, notes = _queries(runs, options.common)
    pairs = [(names[0], name) for name in names[1:]] if baseline else list(combinations(names, 2))
    spent = [{name: run.costs[name] for name in COSTS if name in run.costs} for run in runs]
    measures = [_table(name, runs, queries, pairs, options, cost=False) for name in _shared([r.measures for r in runs])]
    costs = [_table(name, runs, queries, pairs, options, cost=True) for name in _shared(spent)]
    notes += [note for table in measures if not table.tested for note in _judged_notes(table)]
    for kind, of in (("measures", [run.measures for run in runs]), ("costs", spent)):
        if partly := [name for name in dict.fromkeys(n for table in of for n in table) if name not in _shared(of)]:
            notes.append(f"{kind} left out, since not all runs have them: {', '.join(partly)}")
    notes += _energy_notes(runs)
    simulated = [run.name for run in runs if run.simulated]
    if simulated:
        notes.append(f"simulated answers, no model's result: {some(simulated)}")
    for note in notes:
        listener.note(note)
    like = likeness(runs, pairs, queries)
    return Comparison(tuple(runs), tuple(queries), tuple(measures), tuple(costs), like, options, tuple(notes))


def _energy_notes(runs: Sequence[Run]) -> list[str]:
    """Return a note with each run's energy by device, if it was tracked of any."""
    words = [
        f"{run} {', '.join(f'{name[:3].upper()} {total:,.0f}' for name, total in joules.items() if total) or 'unknown'}"
        for run, joules in ((run.name, run.joules) for run in runs)
    ]
    return [f"energy of ranking in joules: {'; '.join(words)}"] if any(run.joules for run in runs) else []


def _baseline(runs: Sequence[Run], name: str | None) -> Run | None:
    if name is None:
        return None
    by_path = [run for run in runs if run.path.resolve() == Path(name).resolve()]
    fitting = by_path or [run for run in runs if name in (run.name, run.path.name)]
    if len(fitting) != 1:
        names = some([run.name for run in fitting or runs])
        raise InputError(f"--baseline {name}: {'several' if fitting else 'none'} of the runs; they are {names}")
    return fitting[0]


def _queries(runs: Sequence[Run], common: bool) -> tuple[list[str], list[str]]:
    """Return the judged queries to pair by, and notes about those that a run lacks."""
    judged = [set(next(iter(run.measures.values()), {})) for run in runs]
    everywhere, anywhere = set.intersection(*judged), set.union(*judged)
    if not (everywhere if common else all(judged[0] & has for has in judged)):
        raise InputError("the runs share no judged query: are they of one dataset?")
    order = [query for run in runs for query in next(iter(run.measures.values()))]
    if common:
        left_out = len(anywhere) - len(everywhere)
        notes = [f"{left_out} queries that not all runs have are left out"] if left_out else []
        return [query for query in dict.fromkeys(order) if query in everywhere], notes
    notes = []
    for run, has in zip(runs, judged, strict=True):
        missing = sorted(anywhere - has)
        if len(has) < len(anywhere) and run.config:
            raise InputError(
                f"{run.path}: is of {len(has)} judged queries, and another run of {len(anywhere)}; "
                f"--common compares the {len(everywhere)} that all runs share"
            )
        if missing:
            notes.append(f"{run.name}: {len(missing)} queries missing, counted as 0: {some(missing)}")
    return list(dict.fromkeys(order)), alike(notes)


def _shared(tables: Sequence[Mapping[str, object]]) -> list[str]:
    return [name for name in tables[0] if all(name in table for table in tables)]


def _table(
    name: str,
    runs: Sequence[Run],
    queries: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    options: Options,
    *,
    cost: bool,
) -> Column:
    tables = {run.name: (run.costs if cost else run.measures)[name] for run in runs}
    values = {
        run: np.array([table.get(query, 0.0) for query in queries], dtype=np.float64) for run, table in tables.items()
    }
    tested = not name.startswith("Judged")
    return Column(
        name=name,
        means={run: float(array.mean()) for run, array in values.items()},
        intervals=dict(zip(values, statistics.bootstrap_intervals(np.stack(list(values.values()))), strict=True)),
        pairs=tuple(_pairs(values, queries, pairs, options)) if tested else (),
        tested=tested,
    )


def _pairs(
    values: Mapping[str, Values], queries: Sequence[str], pairs: Sequence[tuple[str, str]], options: Options
) -> list[Pair]:
    """Return the tested pairs of one measure, which are one family for the correction."""
    if options.test == "tukey":
        simultaneous = statistics.tukey(values)
        p_values = [simultaneous.get((a, b), simultaneous.get((b, a), math.nan)) for a, b in pairs]
        adjusted = p_values  # Tukey's test is of all pairs at once
    else:
        p_values = [statistics.p_value(values[a], values[b], options.test) for a, b in pairs]
        adjusted = statistics.corrected(p_values, options.correction)
    changed = {(a, b): differences(queries, values[b] - values[a], TIE) for a, b in pairs}
    return [
        Pair(
            a=a,
            b=b,
            diff=float((other - one).mean()),
            ci=statistics.interval(one, other),
            p=p,
            p_adjusted=p_adjusted,
            effect=statistics.effect_size(one, other),
            by_query=changed[a, b],
            ties=len(queries) - len(changed[a, b]),
            detectable=statistics.detectable_difference(one, other),
            equivalent_p=None if options.margin is None else statistics.equivalence(one, other, options.margin),
            equivalent_within=statistics.smallest_margin(one, other),
        )
        for (a, b), p, p_adjusted in zip(pairs, p_values, adjusted, strict=True)
        for one, other in [(values[a], values[b])]
    ]


def _judged_notes(table: Column) -> list[str]:
    low, high = min(table.means, key=table.means.__getitem__), max(table.means, key=table.means.__getitem__)
    drop = table.means[high] - table.means[low]
    if drop <= JUDGED_DROP:
        return []
    return [
        f"{table.name} is {table.means[low]:.4f} for {low} and {table.means[high]:.4f} for {high}: unjudged documents "
        "count as not relevant, which is to the disadvantage of the former"
    ]


def likeness(
    runs: Sequence[Run], pairs: Sequence[tuple[str, str]], queries: Sequence[str]
) -> dict[tuple[str, str], Likeness]:
    """Return how alike the rankings of each pair are, τ over the queries for which it is defined."""
    place = {run.name: number for number, run in enumerate(runs)}
    at = np.array([(place[a], place[b]) for a, b in pairs])
    taus, rbos, overlaps = np.zeros((3, len(queries), len(pairs)))
    for row, query in enumerate(queries):
        rankings = [run.rankings.get(query, ()) for run in runs]
        taus[row], rbos[row], overlaps[row] = similarity.of_pairs(rankings, at)
    return {
        pair: Likeness(
            tau=float(np.nanmean(taus[:, n])) if not np.isnan(taus[:, n]).all() else None,
            rbo=float(rbos[:, n].mean()),
            overlap=float(overlaps[:, n].mean()),
        )
        for n, pair in enumerate(pairs)
    }


@dataclass(frozen=True)
class Reproduction:
    """Reproduction, by one run and in one measure, of the effect of an original run over its baseline."""

    run: str
    measure: str
    queries: int
    rmse: float
    effect_ratio: float | None
    """1: reproduced; 0: no effect; below 0: reversed. None where the original effect is 0."""
    relative_improvement_change: float | None
    p: float
    """Of the paired t-test of both advanced runs."""
    equivalent_within: float


def reproductions(comparison: Comparison, base: Run, advanced: Run) -> list[Reproduction]:
    """Return how far each run reproduces the effect of `advanced` over `base`.

    A run's own baseline is the first stage that it reranked, or the original's baseline where it has none.
    """
    reproduced = []
    for run in comparison.runs:
        for table in comparison.measures:
            name = table.name
            sources: list[Mapping[str, Mapping[str, float]]] = [base.measures, advanced.measures, run.measures]
            if not table.tested or not all(name in source for source in sources):
                continue
            sources.insert(2, run.first_stage if name in run.first_stage else base.measures)
            queries = [q for q in comparison.queries if q in base.measures[name] and q in advanced.measures[name]]
            if not queries:
                raise InputError(f"--original: shares no judged query with {run.name}")
            b, a, b_again, a_again = (np.array([each[name].get(q, 0.0) for q in queries]) for each in sources)
            reproduced.append(
                Reproduction(
                    run=run.name,
                    measure=name,
                    queries=len(queries),
                    rmse=similarity.root_mean_square_error(a, a_again),
                    effect_ratio=similarity.effect_ratio(b, a, b_again, a_again),
                    relative_improvement_change=similarity.relative_improvement_change(b, a, b_again, a_again),
                    p=statistics.p_value(a, a_again, "t"),
                    equivalent_within=statistics.smallest_margin(a, a_again),
                )
            )
    return reproduced


def config_differences(a: Run, b: Run) -> list[tuple[str, Any, Any]]:
    """Return the dotted keys in which two configs differ, with both values; None where one has no such key."""
    one, other = flat(a.config), flat(b.config)
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
