"""Changes from a baseline to a run, query by query, and whether they are within its tolerances."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..run.measures import EXACT
from .baseline import COSTS, TOP, Results

Figure = float | None
"""A measure or a count, or None if unknown."""


@dataclass(frozen=True)
class Change:
    """A mean or a total before and after, and by how much each query changed, the largest change first.

    `amount` is the absolute change of a mean, and of a count the sum over the queries, where changes cannot cancel out.
    The tolerance of a count is a share of its total. `gain` is the increase of a mean, or the decrease of a total.
    """

    name: str
    before: Figure
    after: Figure
    amount: Figure
    gain: Figure
    tolerance: float
    moved: bool
    beyond: bool
    by_query: Mapping[str, float]


@dataclass(frozen=True)
class DocMove:
    """A document's ranks, from 1: before, or None if it was not among the first `TOP`; after, or None if it is gone."""

    doc: str
    before: int | None
    after: int | None


@dataclass(frozen=True)
class QueryMove:
    """A query whose ranking (`reranked`) or measures (before, after) changed; `docs` moved among the first `TOP`."""

    query: str
    measures: Mapping[str, tuple[Figure, Figure]]
    reranked: bool
    docs: tuple[DocMove, ...]


@dataclass(frozen=True)
class Changes:
    """Results beside a baseline's of the same queries, of which `may_move` may move; the largest move is the first.

    `differing_parts` names the parts of the experiment that are not the same; `unmeasured` are measures that only the
    later results have.
    """

    measures: tuple[Change, ...]
    costs: tuple[Change, ...] = ()
    queries: int = 0
    moved: tuple[QueryMove, ...] = ()
    may_move: int = 0
    differing_parts: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Return whether anything moved by more than its tolerance, be it for the better."""
        return len(self.moved) > self.may_move or any(change.beyond for change in (*self.measures, *self.costs))

    @property
    def improvement(self) -> bool:
        """Return whether all that is beyond its tolerance is better: measures higher, costs lower.

        If more queries moved than may, a measure must confirm that it was for the better.
        """
        beyond = [change for change in (*self.measures, *self.costs) if change.beyond]
        confirmed = len(self.moved) <= self.may_move or any(change.beyond for change in self.measures)
        return bool(beyond) and confirmed and all((change.gain or 0) > 0 for change in beyond)


def differences(queries: Sequence[str], increases: ArrayLike, least: float) -> dict[str, float]:
    """Return the increases of the queries that changed by more than `least`, the largest change first."""
    changed = np.asarray(increases, dtype=np.float64)
    order = np.argsort(-abs(changed), kind="stable")[: np.count_nonzero(abs(changed) > least)]
    return {queries[i]: float(changed[i]) for i in order}


def changes(before: Results, after: Results) -> Changes:
    """Return what changed from a baseline to results of the same queries."""
    measures = tuple(_change_of(name, before, after, "measures") for name in before.measures)
    size = {
        query: max(abs(change.by_query.get(query, 0.0)) for change in measures) for query in after.queries if measures
    }
    moves = [
        QueryMove(
            query,
            {c.name: (then.measures.get(c.name), now.measures.get(c.name)) for c in measures if query in c.by_query},
            then.ranking != now.ranking,
            doc_moves(then.top, now.top),
        )
        for query, now in after.queries.items()
        for then in [before.queries[query]]
    ]
    moves = [move for move in moves if move.reranked or move.measures]
    moves.sort(key=lambda move: (size.get(move.query, 0.0), len(move.docs)), reverse=True)
    parts = {**before.parts, **after.parts} if before.fingerprint != after.fingerprint else {}
    return Changes(
        measures=measures,
        costs=tuple(_change_of(name, before, after, "costs") for name in COSTS if name in before.costs),
        queries=len(after.queries),
        moved=tuple(moves),
        may_move=before.tolerances.queries,
        differing_parts=tuple(name for name in parts if before.parts.get(name) != after.parts.get(name)),
        unmeasured=tuple(name for name in after.measures if name not in before.measures),
    )


def _change_of(name: str, before: Results, after: Results, kind: Literal["measures", "costs"]) -> Change:
    old, new = ({query: getattr(one, kind) for query, one in run.queries.items()} for run in (before, after))
    increases = [(values.get(name) or 0.0) - (old[query].get(name) or 0.0) for query, values in new.items()]
    by_query = differences(list(new), increases, EXACT)
    then, now = (getattr(run, kind).get(name) for run in (before, after))
    return change(name, then, now, before.tolerances.of(name), by_query)


def change(name: str, then: Figure, now: Figure, tolerance: float, by_query: Mapping[str, float]) -> Change:
    """Return the change of a measure or a count from what it was to what it is."""
    cost = name in COSTS
    gain = None if then is None or now is None else (then - now) if cost else (now - then)
    amount = sum(map(abs, by_query.values())) if cost and gain is not None else gain and abs(gain)
    allowed = tolerance * (then or 1) if cost else tolerance
    # A figure that is known on one side alone has changed by any measure.
    moved, beyond = ((then is None) != (now is None) or (amount or 0) > max(least, EXACT) for least in (0, allowed))
    return Change(name, then, now, amount, gain, tolerance, moved, beyond, by_query)


def doc_moves(before: Sequence[str], after: Sequence[str]) -> tuple[DocMove, ...]:
    """Return the documents that moved into, out of or within the first `TOP`, the longest way first."""
    then, now = ({doc: rank for rank, doc in enumerate(docs, 1)} for docs in (before[:TOP], after))
    moves = [DocMove(doc, then.get(doc), now.get(doc)) for doc in dict.fromkeys((*then, *after[:TOP]))]

    def way(move: DocMove) -> int:
        return 2 * TOP if move.after is None else abs((move.before or TOP + 1) - move.after)

    return tuple(sorted((move for move in moves if move.before != move.after), key=way, reverse=True))
