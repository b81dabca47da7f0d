"""Pairwise by probabilities: all documents are ranked by the sums of their probabilities of winning their pairs.

Pradeep et al., "The Expando-Mono-Duo Design Pattern for Text Ranking with Pretrained Sequence-to-Sequence Models",
2021, arXiv:2101.05667 (duoT5, SYM-SUM): of each pair one document gets p and the other 1 - p. One round: all n(n - 1)
ordered pairs, as in castorini/pygaggle at 08339dd or, with `pairs: once`, the n(n - 1)/2 pairs in first-stage order, as
in castorini/rank_llm at 1b3cabb. By generation the document named gets 1, and what cannot be read counts 0. Equal sums
keep first-stage order.
"""

from itertools import combinations, permutations
from typing import Literal

from pydantic import Field

from ...types import Candidates, Steps, by_score, compare
from . import Pairs, sums


class Params(Pairs):
    """Parameters of pairs by probabilities."""

    pairs: Literal["ordered", "once"] = Field("ordered", description="each pair in both orders, or only as they rank")


def probability(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by their sums over all pairs."""
    pairs = list((permutations if params.pairs == "ordered" else combinations)(candidates.ids, 2))
    points = sums(candidates.ids, pairs, (yield [compare(a, b) for a, b in pairs]))
    return by_score(candidates, [points[doc] for doc in candidates.ids])
