"""Setwise reranking: the model picks the most relevant of several documents at once.

Zhuang et al., "A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with Large Language Models",
SIGIR 2024, arXiv:2310.09497.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import Field

from ...types import Ask, AskKind, Part, Seeded, TopK, added, choose


class Params(TopK, Seeded):
    """Parameters of the setwise sorts."""

    asks: ClassVar[tuple[AskKind, ...]] = ("choose",)
    prompt: ClassVar[str] = "setwise"

    num_child: int = Field(
        2, ge=1, description="documents a prompt shows besides the first: the paper's c is num_child + 1"
    )
    num_permutation: int = Field(
        1,
        ge=1,
        description="shuffles of documents and labels that each comparison is a majority vote of; 1: as they are",
    )
    shuffle: bool = added(False, "show documents in a random order in every ask, with the labels in order")

    @property
    def draws(self) -> bool:
        """Return whether it makes random choices."""
        return self.num_permutation > 1 or self.shuffle

    @property
    def most_docs(self) -> int:
        """Return the most documents that one ask shows."""
        return self.num_child + 1


def best_of(docs: Sequence[str], params: Params, dice: Random, *, outside: bool = False) -> Part[int]:
    """Return the index of the most relevant document: one ask or, with `num_permutation`, a round of shuffled ones.

    With `outside`, the answer to one ask may be a label that no document has: its index, beyond the documents.

    As ielab/llm-rankers at b36517b does where T5 generates, and there alone: the document with the most votes wins, of
    several with the most one at random. What cannot be read is no vote; without any the first document is kept. Every
    vote is a comparison, but equal shuffles are equal asks and answered once: sampling gives them no second answer.
    """
    if params.num_permutation == 1 and not params.shuffle:
        [answer] = yield [choose(docs)]
        return answer.outside if outside and answer.outside is not None else answer.choice
    places = range(len(docs))
    asks, orders = [], []
    for _ in range(params.num_permutation):
        order = dice.sample(places, len(docs))
        labels = () if params.shuffle else tuple(dice.sample(places, len(docs)))
        asks.append(Ask("choose", tuple(docs[i] for i in order), labels=labels))
        orders.append(order)
    answers = yield asks
    votes = Counter(order[answer.choice] for order, answer in zip(orders, answers, strict=True) if answer.parsed)
    most = max(votes.values(), default=0)
    return dice.choice([i for i in places if votes[i] == most]) if most else 0
