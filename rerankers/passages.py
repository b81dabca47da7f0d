"""Long documents: they are split into passages, the passages are ranked, and a document scores what its passages do.

Dai and Callan, "Deeper Text Understanding for IR with Contextual Neural Language Modeling", SIGIR 2019,
arXiv:1905.09217, for MaxP, FirstP and SumP; their mean is AvgP. The split is PARADE's (Li et al., arXiv:2008.09093;
`generate_data.py` of canjiali/PARADE): windows of 150 words of which 50 are the next window's too, at most 16.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .types import Answer, Ask, Candidates, Doc, Query, Ranking, Steps, by_score

Aggregate = Literal["max", "first", "sum", "mean"]

AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "max": max,
    "first": lambda scores: scores[0],
    "sum": fsum,
    "mean": fmean,
}
"""MaxP, FirstP, SumP and AvgP: a document's score of its passages' scores, in the order of the text."""

TRIED = 100
"""How many rounds a method that is tried on two documents may take."""


class Passages(BaseModel):
    """Keys of a ranker's `passages`: how documents are split, and how their passages' scores become theirs."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    words: int = Field(150, ge=1, description="words of a passage")
    overlap: int = Field(50, ge=0, description="words that it shares with the next one")
    most: int = Field(16, ge=1, description="of more passages, the first, the last, and others drawn")
    aggregate: Aggregate = Field("max", description="MaxP, FirstP (only first passages are asked about), SumP, AvgP")
    seed: int = Field(0, description="what passages are drawn with, together with the document id; the config's `seed`")

    @model_validator(mode="after")
    def _goes_forward(self) -> Passages:
        if self.overlap >= self.words:
            raise ValueError("overlap must be smaller than words")
        return self


@dataclass(frozen=True, slots=True)
class PassageRanking(Ranking):
    """A ranking of documents by their passages, and the best passage's text of each, in the same order."""

    passages: tuple[str, ...] = ()


def pieces(text: str, options: Passages) -> list[str]:
    """All windows of a text, in its order; a final one no longer than the overlap says nothing new and is dropped.

    A text of one window is left as it is, white space included.
    """
    words = text.split()
    step = options.words - options.overlap
    starts = range(0, max(len(words) - options.overlap, 1), step)
    if len(starts) == 1:
        return [text]
    return [" ".join(words[start : start + options.words]) for start in starts]


def shown(doc: Doc, options: Passages) -> list[str]:
    """The passages of a document that are ranked: the same ones for every query."""
    found = pieces(doc.text, options)
    if options.aggregate == "first" or options.most == 1:
        return found[:1]
    if len(found) <= options.most:
        return found
    between = range(1, len(found) - 1)
    drawn = random.Random(f"{options.seed}|{doc.id}").sample(between, options.most - 2)  # noqa: S311
    return [found[i] for i in (0, *sorted(drawn), len(found) - 1)]


def split(candidates: Candidates, options: Passages) -> Candidates:
    """The passages of all candidates, as candidates: in first-stage order, then that of the text.

    A first passage goes by its document's id, so that simulated judgements know it; the others are `doc#2`, `doc#3`, …
    with as many `#` as it takes to be no document's id. Each has its document's first-stage score.
    """
    mark = "#"
    while any(mark in doc.id for doc in candidates.docs):
        mark += "#"
    docs, scores = [], []
    for doc, score in zip(candidates.docs, candidates.scores, strict=True):
        for number, text in enumerate(shown(doc, options), 1):
            docs.append(Doc(doc.id if number == 1 else f"{doc.id}{mark}{number}", text))
            scores.append(score)
    return Candidates(candidates.query, tuple(docs), tuple(scores))


def ranked_by_passages(candidates: Candidates, options: Passages, method: Callable[[Candidates], Steps]) -> Steps:
    """A method that scores every document, at work on passages; documents of equal scores keep first-stage order."""
    passages = split(candidates, options)
    found = yield from method(passages)
    scored = dict(zip(found.docs, found.scores or (), strict=True))
    documents = {doc.id for doc in candidates.docs}
    of_docs: dict[str, list[tuple[float, str]]] = {}
    owner = ""
    for passage in passages.docs:
        owner = passage.id if passage.id in documents else owner
        of_docs.setdefault(owner, []).append((scored[passage.id], passage.text))
    aggregate = AGGREGATES[options.aggregate]
    ranking = by_score(candidates, [aggregate([score for score, _ in each]) for each in of_docs.values()])
    best = {doc: max(each, key=lambda row: row[0])[1] for doc, each in of_docs.items()}
    return PassageRanking(ranking.docs, ranking.scores, tuple(best[doc] for doc in ranking.docs))


def scores_documents(method: Callable[[Candidates], Steps]) -> bool:
    """Whether a method gives every document a score: it is tried on two, with answers that say nothing."""
    steps = method(Candidates(Query("", ""), (Doc("a", ""), Doc("b", "")), (1.0, 0.0)))
    try:
        asks = next(steps)
        for _ in range(TRIED):
            asks = steps.send([_neutral(ask) for ask in asks])
    except StopIteration as stop:
        return isinstance(stop.value, Ranking) and stop.value.scores is not None
    return False


def _neutral(ask: Ask) -> Answer:
    count = len(ask.docs)
    return Answer(order=tuple(range(ask.limit or count)), scores=(0.0,) * count)
