"""Pairwise ranking prompting: the model compares two documents, in both orders.

Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting", Findings of NAACL
2024, arXiv:2306.17563. A document wins only if both orders of the pair agree on it; all else is a tie.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

from ...types import Answer, AskKind, Part, TopK, compare
from ...types import Params as BaseParams


class Pairs(BaseParams):
    """Parameters of all pairwise methods."""

    asks: ClassVar[tuple[AskKind, ...]] = ("compare",)
    prompt: ClassVar[str] = "pairwise"
    shows: ClassVar[int | str] = 2


class Params(Pairs, TopK):
    """Parameters of the pairwise sorts."""


def first_wins(answers: Sequence[Answer]) -> bool:
    """Return whether the answers to (a, b) and to (b, a), or to (a, b) alone, agree that a is the more relevant."""
    return all(answer.parsed and answer.choice == place for place, answer in enumerate(answers))


def beats(a: str, b: str) -> Part[bool]:
    """Compare two documents in both orders: one comparison, two prompts."""
    return first_wins((yield [compare(a, b), compare(b, a)]))


def bubble_up(docs: list[str], start: int, rank: int) -> Part[int | None]:
    """Compare neighbours from index `start` up to `rank`, and swap where the lower one wins.

    Returns the index of the first that moved up, None where nothing changed.
    """
    changed = None
    for lower in range(start, rank, -1):
        if (yield from beats(docs[lower], docs[lower - 1])):
            docs[lower - 1], docs[lower] = docs[lower], docs[lower - 1]
            changed = changed or lower
    return changed


def probabilities(answer: Answer) -> tuple[float, float]:
    """Return the two documents' probabilities of being the more relevant, over both labels.

    A generated answer gives the document that it names 1; one that could not be read gives both 0.
    """
    if not answer.parsed:
        return 0.0, 0.0
    first = 1.0 - answer.choice
    if answer.scores:
        a, b = answer.scores
        first = (1 + math.tanh((a - b) / 2)) / 2
    return first, 1 - first


def sums(docs: Sequence[str], pairs: Sequence[tuple[str, str]], answers: Sequence[Answer]) -> dict[str, float]:
    """Return each document's sum of its probabilities over the pairs."""
    points = dict.fromkeys(docs, 0.0)
    for pair, answer in zip(pairs, answers, strict=True):
        for doc, probability in zip(pair, probabilities(answer), strict=True):
            points[doc] += probability
    return points
