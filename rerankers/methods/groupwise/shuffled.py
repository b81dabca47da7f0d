"""Shuffled groups: documents are rated in groups drawn at random, several times over, and ranked by their mean rating.

"GroupRank: A Groupwise Reranking Paradigm Driven by Reinforcement Learning", 2025, arXiv:2511.11653; as in
AQ-MedAI/Diver at 95b111b (Reranker/rerank_groupwise.py): each pass shuffles the order of the last one and cuts it into
groups, passes · ⌈n / group_size⌉ prompts in one round. A group whose answer cannot be read is rated 0; a document that
an answer leaves out has no rating from that pass, and 0 without any. Equal means keep first-stage order.
"""

import math
from statistics import fmean
from typing import ClassVar

from pydantic import Field

from ...types import Ask, AskKind, Candidates, Ranking, Scoring, Seeded, Steps, by_score


class Params(Seeded):
    """Parameters of shuffled groups."""

    asks: ClassVar[tuple[AskKind, ...]] = ("rate",)
    prompt: ClassVar[str] = "grouprank"
    scoring: ClassVar[Scoring] = "generation"
    shows: ClassVar[int | str] = "group_size"

    group_size: int = Field(20, ge=1, description="documents a prompt")
    passes: int = Field(2, ge=1, description="how often each document is rated, in a new group each time")


def shuffled(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by their mean rating."""
    docs, dice, asks = list(candidates.ids), params.dice(candidates), []
    if len(docs) < 2:
        return Ranking(candidates.ids)
    for number in range(params.passes):
        dice.shuffle(docs)
        groups = [docs[start : start + params.group_size] for start in range(0, len(docs), params.group_size)]
        asks += [Ask("rate", tuple(group), sample=number) for group in groups]
    ratings: dict[str, list[float]] = {doc: [] for doc in docs}
    for ask, answer in zip(asks, (yield asks), strict=True):
        for doc, rating in zip(ask.docs, answer.scores, strict=True):
            if not answer.parsed or math.isfinite(rating):
                ratings[doc].append(rating if answer.parsed else 0.0)
    return by_score(candidates, [fmean(ratings[doc] or [0.0]) for doc in candidates.ids])
