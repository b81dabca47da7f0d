"""What reranking did to a query: its measures before and after, and where its judged documents went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ...rerankers.errors import InputError
from ...rerankers.types import Query
from ..configs import load as configs
from ..first_stage.retrieve import open_dataset
from . import read as record
from . import runfile

TOP = 10
"""How much of an order a verdict is about."""

Fate = Literal["gained", "lost", "kept"]

FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True, slots=True)
class Judged:
    """A judged document among the first of an order: where it stood before and after, None where nowhere."""

    doc: str
    grade: int
    before: int | None
    after: int | None

    @property
    def fate(self) -> Fate:
        """Whether the first documents won it, lost it, or had it before and after."""
        was, is_ = (rank is not None and rank <= TOP for rank in (self.before, self.after))
        return "kept" if was and is_ else "gained" if is_ else "lost"


@dataclass(frozen=True)
class Verdict:
    """What reranking did to a query."""

    query: Query
    measures: Mapping[str, tuple[float, float]]
    """Each before and after; empty where the query is not judged, or the run not finished."""
    judged: Sequence[Judged]
    """The judged documents among the first before or after: gained, lost, kept, the better grades first."""
    missed: int
    """How many relevant documents are no candidates."""

    @property
    def by_relevance(self) -> dict[str, list[Judged]]:
        """The judged documents, relevant ones (of a grade above 0) and others apart; nothing where there are none."""
        parts: dict[str, list[Judged]] = {}
        for one in self.judged:
            parts.setdefault("relevant" if one.grade > 0 else "not relevant", []).append(one)
        return parts


def verdict(
    query: Query, before: Sequence[str], after: Sequence[str], grades: Mapping[str, int], run_dir: Path
) -> Verdict:
    """Return the verdict on a query whose order was `before`, and is `after`; measures are the run's own."""
    ranks, now = ({doc: rank for rank, doc in enumerate(order, 1)} for order in (before, after))
    first = dict.fromkeys([*after[:TOP], *before[:TOP]])
    judged = [Judged(doc, grades[doc], ranks.get(doc), now.get(doc)) for doc in first if doc in grades]
    return Verdict(
        query=query,
        measures=_measures(run_dir).get(query.id, {}),
        judged=sorted(judged, key=lambda one: (FATES.index(one.fate), -one.grade)),
        missed=sum(grade > 0 and doc not in ranks for doc, grade in grades.items()),
    )


def worst(run_dir: Path, count: int) -> list[Verdict]:
    """Return the verdicts on the queries whose first measure lost most, the greatest loss first.

    Raises `InputError` where the run has no measures before and after, or its dataset is not there.
    """
    measured = _measures(run_dir)
    if not measured:
        raise InputError(f"{run_dir}: holds no measures before and after reranking, so no query is worse than another")
    losses = {query: after - before for query, values in measured.items() for before, after in [_first(values)]}
    loaded = configs.load(str((run_dir / "config.yaml").resolve()))
    dataset = open_dataset(loaded)
    queries, qrels = dataset.queries(), dataset.qrels() or {}
    before, after = (runfile.read(run_dir / name)[0] for name in ("first_stage.trec", "run.trec"))
    verdicts = []
    for query in sorted(losses, key=lambda query: losses[query])[:count]:
        orders = [[doc for doc, _ in run.get(query, ())] for run in (before, after)]
        asked = queries.get(query, Query(query, ""))
        verdicts.append(verdict(asked, orders[0], orders[1], qrels.get(query, {}), run_dir))
    return verdicts


def _measures(run_dir: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """The measures of each query before and after."""
    with record.shown(run_dir):
        found = record.metrics(run_dir / record.METRICS)
        before = found.get("first_stage", {}).get("per_query", {})
        return {
            query: {name: (float(before[query][name]), float(value)) for name, value in values.items()}
            for query, values in found.get("per_query", {}).items()
            if values and query in before
        }


def _first(values: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    return next(iter(values.values()))
