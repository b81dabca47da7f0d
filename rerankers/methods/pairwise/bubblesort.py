"""Pairwise bubblesort: neighbours are compared from the bottom up, and k passes bring the top k up.

Qin et al., arXiv:2306.17563 (PRP-Sliding-K). A pass starts where the one before first changed something, since
nothing below that moved (as ielab/llm-rankers does, at b36517b; published comparisons depend on it).
"""

from ...types import Candidates, Steps, top_then_rest
from . import Params, beats


def bubblesort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by bubblesort; all others keep first-stage order."""
    docs = list(candidates.ids)
    lowest = start_of_pass = len(docs) - 1
    for rank in range(min(params.k, len(docs))):
        changed = False
        for lower in range(start_of_pass, rank, -1):
            if (yield from beats(docs[lower], docs[lower - 1])):
                docs[lower - 1], docs[lower] = docs[lower], docs[lower - 1]
                if not changed and start_of_pass != lowest:
                    start_of_pass += 1
                changed = True
            if not changed:
                start_of_pass -= 1
    return top_then_rest(docs[: params.k], candidates)
