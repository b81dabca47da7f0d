"""Pairwise bubblesort: neighbours are compared from the bottom up, and k passes bring the top k up.

PRP-Sliding-K (Qin et al., arXiv:2306.17563; `pairwise.sliding` here) without comparisons that cannot change anything:
a pass starts where the one before first changed something, since nothing below that moved, as ielab/llm-rankers does
at b36517b; published comparisons depend on it. Two prompts a comparison. Wisznia et al. (ACL 2025, arXiv:2505.24643)
also remember the pairs that come again: here the scheduler answers equal asks once, so that `calls` are the cost of
their cached bubblesort and `asks` that of the plain one.
"""

from ...types import Candidates, Steps, top_then_rest
from . import Params, bubble_up


def bubblesort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by bubblesort; all others keep first-stage order."""
    docs = list(candidates.ids)
    lowest = start = len(docs) - 1
    for rank in range(min(params.k, len(docs))):
        changed = yield from bubble_up(docs, start, rank)
        if changed is None:
            break
        start = min(changed + 1, lowest)
    return top_then_rest(docs[: params.k], candidates)
