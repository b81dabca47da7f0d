"""Position bias, read from the ledgers of runs that are there: which slots of the prompt the model prefers.

Only runs whose candidates were shuffled count: elsewhere good documents stand in the same slots. A method still fills
slots in its own way (a heap's parent comes first, a window carries its best documents on), and a model that is
indifferent must choose something, so the shares are also given by where the best-judged document stood.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...rerankers.asks import KINDS
from ...rerankers.catalog import method
from ...rerankers.errors import InputError
from ...rerankers.types import AskKind
from ..io.tables import Table, marked, number
from .replays import replayed
from .runs import Run
from .sensitivity import by_method, order_of

EXPECTED = 5
"""Fewest expected choices of a slot with which chi-square is computed."""

_Shape = tuple[AskKind, int, int]
"""Kind of ask, documents shown, documents chosen."""

_Outcome = tuple[list[int], int]
"""For each slot 1 if its document was chosen, or its rank in an order; and the best-judged one's slot, or -1."""


@dataclass(frozen=True)
class Slot:
    """The share of asks in which a slot's document was chosen, or its mean rank in the orders that were answered.

    `best` is the same where the best-judged document stood here, `other` where it stood elsewhere; None if it did not.
    """

    value: float
    best: float | None
    other: float | None


@dataclass(frozen=True)
class Positions:
    """The slots of a method's asks of one kind, over its shuffled runs.

    `ranks` says whether slots have mean ranks instead of shares of choices; `uniform` is what they have if neither
    positions nor documents make a difference. `undecided` asks are in no stratum: not one document is judged best.
    `chi_square` is Pearson's of choices, Friedman's of orders, None if fewer than 5 choices a slot are expected; `p`
    holds for independent asks, which those of one query are not.
    """

    name: str
    kind: AskKind
    docs: int
    ranks: bool
    asks: int
    undecided: int
    uniform: float
    slots: tuple[Slot, ...]
    chi_square: float | None
    p: float | None
    simulated: bool


def positions(runs: Sequence[Run]) -> tuple[list[Positions], list[str]]:
    """Return the slots of each method's asks, and notes about what is left out.

    Of asks of one kind those are read that show the most frequent number of documents. Raises `InputError` if no
    shuffled run has asks that can be read.
    """
    notes, rows, unshuffled = list[str](), list[Positions](), 0
    for name, group in by_method(runs, notes).items():
        shuffled = [run for run in group if order_of(run) == "shuffle"]
        unshuffled += len(group) - len(shuffled)
        stage = (group[0].config.get("stages") or [group[0].config])[0]
        kinds = method(stage["ranker"]["method"]).params.asks
        if shuffled and not any(KINDS[kind].scores in ("choice", "order") for kind in kinds):
            asked = ", ".join(kinds)
            notes.append(
                f"{name}: {len(shuffled)} runs left out: its asks ({asked}) neither choose nor order documents"
            )
            continue
        simulated = any(run.simulated for run in shuffled)
        for shape, outcomes in _read(name, shuffled, notes):
            rows.append(_positions(name, shape, outcomes, simulated=simulated))
    if unshuffled:
        notes.append(f"{unshuffled} runs left out: their candidates were not shuffled (first_stage.order: shuffle)")
    if not rows:
        raise InputError(f"no run has choices by position to read: {'; '.join(notes)}")
    return rows, notes


def _read(name: str, runs: Sequence[Run], notes: list[str]) -> Iterator[tuple[_Shape, list[_Outcome]]]:
    """Yield the outcomes of each kind's asks of the most frequent shape."""
    tables, left_out = defaultdict[_Shape, list[_Outcome]](list), Counter[str]()
    for run in runs:
        try:
            queries = list(replayed(run))
        except InputError as error:
            notes.append(f"{run.name}: left out: {error}")
            continue
        seen = set[bytes]()
        for query in queries:
            for request, answer in query.asked:
                kind, docs = request.ask.kind, request.ask.docs
                if KINDS[kind].scores not in ("choice", "order") or len(docs) < 2:
                    continue
                if request.key in seen or not answer.parsed or answer.outside is not None:
                    left_out["that repeat one of their run" if request.key in seen else "whose answer is unread"] += 1
                    continue
                seen.add(request.key)
                chosen = (answer.choice,) if KINDS[kind].scores == "choice" else answer.order
                whole, grades = len(chosen) == len(docs), [query.grades.get(doc, 0) for doc in docs]
                row = [chosen.index(slot) + 1 if whole else int(slot in chosen) for slot in range(len(docs))]
                best = grades.index(max(grades)) if grades.count(max(grades)) == 1 else -1
                tables[kind, len(docs), len(chosen)].append((row, best))
    for kind in dict.fromkeys(shape[0] for shape in tables):
        shapes = sorted((s for s in tables if s[0] == kind), key=lambda s: len(tables[s]), reverse=True)
        left_out["that show another number of documents"] += sum(len(tables[shape]) for shape in shapes[1:])
        yield shapes[0], tables[shapes[0]]
    notes += [f"{name}: {count} asks left out {why}" for why, count in left_out.items() if count]


def _positions(name: str, shape: _Shape, rows: Sequence[_Outcome], *, simulated: bool) -> Positions:
    kind, docs, chosen = shape
    outcomes, best = (np.array(column) for column in zip(*rows, strict=True))

    def mean(slot: int, asks: Any) -> float | None:
        return float(outcomes[asks, slot].mean()) if asks.any() else None

    slots = range(docs)
    whole = chosen == docs
    uniform = (docs + 1) / 2 if whole else chosen / docs
    chi_square, p = uniformity(outcomes) if len(rows) * uniform >= EXPECTED else (None, None)
    return Positions(
        name=name,
        kind=kind,
        docs=docs,
        ranks=whole,
        asks=len(rows),
        undecided=int((best < 0).sum()),
        uniform=uniform,
        slots=tuple(
            Slot(float(outcomes[:, i].mean()), mean(i, best == i), mean(i, (best >= 0) & (best != i))) for i in slots
        ),
        chi_square=chi_square,
        p=p,
        simulated=simulated,
    )


def uniformity(outcomes: Any) -> tuple[float, float]:
    """Return chi-square and p of the slots (columns) of asks (rows) whose outcomes are permutations of each other.

    For one choice an ask that is Pearson's statistic against uniform, for whole orders Friedman's; for several choices
    Pearson's with the correction for drawing without replacement.
    """
    from scipy import stats

    asks, docs = outcomes.shape
    deviations = outcomes.sum(axis=0) - asks * outcomes[0].mean()
    chi_square = float((docs - 1) / docs * (deviations**2).sum() / (asks * outcomes[0].var()))
    return chi_square, float(stats.chi2.sf(chi_square, docs - 1))


def table(read: Sequence[Positions]) -> Table:
    """Return the table that people read: a row a slot."""
    header = ["method", "ask", "documents", "slot", "share or mean rank", "uniform", "best stood here"]
    header += ["best stood elsewhere", "asks", "undecided", "chi-square", "p"]
    rows = [
        [
            each.name + (" (simulated)" if each.simulated else ""),
            *map(str, (each.kind, each.docs, place)),
            *map(number, (slot.value, each.uniform, slot.best, slot.other)),
            *map(str, (each.asks, each.undecided)),
            number(each.chi_square),
            "-" if each.p is None else f"{each.p:.2g}" if each.p else "< 1e-300",
        ]
        for each in read
        for place, slot in enumerate(each.slots, 1)
    ]
    simulated = list(dict.fromkeys(each.name for each in read if each.simulated))
    return Table("positions", header, rows, marked("p holds for independent asks.", simulated))
