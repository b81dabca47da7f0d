"""Long documents: they are split into passages, the passages are ranked, and their scores become the document's.

Dai and Callan, "Deeper Text Understanding for IR with Contextual Neural Language Modeling", SIGIR 2019,
arXiv:1905.09217, for MaxP, FirstP and SumP; their mean is AvgP. The split is PARADE's (Li et al., arXiv:2008.09093;
`generate_data.py` of canjiali/PARADE): windows of 150 words of which 50 are the next window's too, at most 16.
"""

import random
from collections.abc import Callable, Sequence
from math import fsum
from operator import itemgetter
from statistics import fmean
from typing import Literal

from pydantic import Field, model_validator

from .asks import KINDS
from .types import Answer, Candidates, Doc, Query, Ranking, Steps, Strict, by_score

Aggregate = Literal["max", "first", "sum", "mean"]

AGGREGATES: dict[Aggregate, Callable[[Sequence[float]], float]] = {
    "max": max,
    "first": itemgetter(0),
    "sum": fsum,
    "mean": fmean,
}
"""MaxP, FirstP, SumP and AvgP, of the scores in the order of the text."""


class Passages(Strict):
    """Keys of a ranker's `passages`: the split of documents, and the aggregate of their passages' scores."""

    words: int = Field(150, ge=1, description="words of a passage")
    overlap: int = Field(50, ge=0, description="words that it shares with the next one")
    most: int = Field(16, ge=1, description="of more passages, the first, the last, and others drawn")
    aggregate: Aggregate = Field("max", description="MaxP, FirstP (only first passages are asked about), SumP, AvgP")
    seed: int = Field(0, description="what passages are drawn with, together with the document id; the config's `seed`")

    @model_validator(mode="after")
    def _goes_forward(self) -> "Passages":
        if self.overlap >= self.words:
            raise ValueError("overlap must be smaller than words")
        return self


def pieces(text: str, options: Passages) -> list[str]:
    """Return all windows of a text in order; a final one no longer than the overlap says nothing new and is dropped.

    A text of one window is left as it is, white space included.
    """
    words = text.split()
    starts = range(0, max(len(words) - options.overlap, 1), options.words - options.overlap)
    if len(starts) == 1:
        return [text]
    return [" ".join(words[start : start + options.words]) for start in starts]


def shown(doc: Doc, options: Passages) -> list[str]:
    """Return the passages of a document that are ranked: the same ones for every query."""
    passages = pieces(doc.text, options)
    if options.aggregate == "first" or options.most == 1:
        return passages[:1]
    if len(passages) <= options.most:
        return passages
    dice = random.Random(f"{options.seed}|{doc.id}")  # noqa: S311
    drawn = sorted(dice.sample(range(1, len(passages) - 1), options.most - 2))
    return [passages[i] for i in (0, *drawn, -1)]


def split(candidates: Candidates, options: Passages) -> Candidates:
    """Return the passages of all candidates, as candidates: in first-stage order, then that of the text.

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
    """Rank documents by a method that scores their passages; documents of equal scores keep first-stage order."""
    passages = split(candidates, options)
    ranked = yield from method(passages)
    score_of = dict(zip(ranked.docs, ranked.scores or (), strict=True))
    of_docs: dict[str, list[tuple[float, str]]] = {doc.id: [] for doc in candidates.docs}
    owner = ""
    for passage in passages.docs:
        owner = passage.id if passage.id in of_docs else owner
        of_docs[owner].append((score_of[passage.id], passage.text))
    aggregate = AGGREGATES[options.aggregate]
    ranking = by_score(candidates, [aggregate([score for score, _ in rows]) for rows in of_docs.values()])
    best = {doc: max(rows, key=lambda row: row[0])[1] for doc, rows in of_docs.items()}
    return Ranking(ranking.docs, ranking.scores, tuple(best[doc] for doc in ranking.docs))


def scores_documents(method: Callable[[Candidates], Steps]) -> bool:
    """Return whether a method gives every document a score: it is tried on two, with answers that say nothing."""
    steps = method(Candidates(Query("", ""), (Doc("a", ""), Doc("b", "")), (1.0, 0.0)))
    try:
        asks = next(steps)
        while True:
            asks = steps.send([Answer(**KINDS[ask.kind].neutral(ask), parsed=False) for ask in asks])
    except StopIteration as stop:
        return isinstance(stop.value, Ranking) and stop.value.scores is not None
