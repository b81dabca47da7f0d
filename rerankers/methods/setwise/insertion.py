"""Setwise insertion: the top k so far are kept sorted, and a document that beats their last is inserted.

Podolak et al., "Beyond Reproducibility: Advancing Zero-shot LLM Reranking Efficiency with Setwise Insertion", SIGIR
2025, arXiv:2504.10509; as in LeonPeric/llm-rankers at 84e175a. The first k are sorted by heapsort; the others are shown
num_child at a time after the last of the top k, and one that beats it replaces it and moves up. Their prompt that says
to answer A in doubt, so that the first stage's order counts, is `prompt: setwise_biased`.

With `compare: max` an ask gives the best document of a window. One that has stopped moving up may belong up to
num_child - 1 places higher, so that with more than one child even perfect answers make only the first rank certain.
With `compare: sort` the labels' probabilities order the window, and perfect answers give the exact top k. An
oracle's answers about BM25's top 100 of DL19 take 78 asks with `max` and 80 with `sort`, where heapsort takes 107.
"""

from functools import partial
from random import Random
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...types import AskKind, Candidates, Part, Scoring, Steps, permute, top_then_rest
from ..heaps import extract_top
from . import Params as SetwiseParams
from . import best_of


class Params(SetwiseParams):
    """Parameters of setwise insertion."""

    asks: ClassVar[tuple[AskKind, ...]] = ("choose", "permute")

    compare: Literal["max", "sort"] = Field(
        "max", description="what a window is asked for: its best document, or its order by the labels' probabilities"
    )

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """Return likelihood alone where a window is ordered."""
        return ("likelihood",) if self.compare == "sort" else ("likelihood", "generation")

    @model_validator(mode="after")
    def _votes_give_no_order(self) -> "Params":
        if self.compare == "sort" and self.num_permutation > 1:
            raise ValueError("compare: sort orders a window by one answer; leave out num_permutation, or compare: max")
        return self


def insertion(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by insertion; all others keep first-stage order."""
    dice, waiting = params.dice(candidates), list(candidates.ids[params.k :])
    ask = partial(best_of, params=params, dice=dice)
    top = yield from extract_top(candidates.ids[: params.k], params.k, params.num_child, ask)
    while waiting:
        last, shown, waiting = top[-1], waiting[: params.num_child], waiting[params.num_child :]
        ranked = yield from _ranked([last, *shown], params, dice)
        if ranked[0] != last:
            below = ranked.index(last) if params.compare == "sort" else len(ranked)
            waiting = [doc for doc in ranked[1:below] if doc != last] + waiting
            top[-1] = ranked[0]
            yield from _move_up(top, params, dice)
    return top_then_rest(top, candidates)


def _move_up(docs: list[str], params: Params, dice: Random) -> Part[None]:
    """Move the last document up, window by window, as long as it is the best of each."""
    moving, end = docs[-1], len(docs)
    while end > 1 and docs[end - 1] == moving:
        start = max(0, end - 1 - params.num_child)
        docs[start:end] = yield from _ranked(docs[start:end], params, dice)
        end = start + 1


def _ranked(docs: list[str], params: Params, dice: Random) -> Part[list[str]]:
    """Return the documents by their labels' probabilities, or as they are but with the best first."""
    if params.compare == "max":
        best = yield from best_of(docs, params, dice)
        return [docs[best], *docs[:best], *docs[best + 1 :]]
    [answer] = yield [permute(docs)]
    return [docs[i] for i in answer.order]
