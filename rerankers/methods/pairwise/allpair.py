"""Pairwise all-pairs: every pair in both orders; a win counts 1, a tie ½ for each.

Qin et al., arXiv:2306.17563 (PRP-Allpair): n(n - 1) prompts, one round. The top k by the sum are ranked; of equal
sums the earlier in the first stage wins or, with `ties: first_scored`, the one that got a share of a pair first, as in
ielab/llm-rankers.
"""

from itertools import combinations
from typing import Literal

from pydantic import Field

from ...types import Candidates, Steps, compare, top_then_rest
from . import Params as PairwiseParams
from . import first_wins


class Params(PairwiseParams):
    """Parameters of all-pairs."""

    ties: Literal["first_stage", "first_scored"] = Field("first_stage", description="who wins of equal sums")


def allpair(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by the comparisons they win; all others keep first-stage order."""
    pairs = list(combinations(candidates.ids, 2))
    answers = yield [ask for a, b in pairs for ask in (compare(a, b), compare(b, a))]
    wins = dict.fromkeys(candidates.ids, 0.0) if params.ties == "first_stage" else {}
    for number, (a, b) in enumerate(pairs):
        ab, ba = answers[2 * number : 2 * number + 2]
        share = 1.0 if first_wins((ab, ba)) else 0.0 if first_wins((ba, ab)) else 0.5
        for doc, won in ((a, share), (b, 1 - share)):
            if won:
                wins[doc] = wins.get(doc, 0.0) + won
    ranked = sorted(wins, key=lambda doc: -wins[doc])
    return top_then_rest(ranked[: params.k], candidates)
