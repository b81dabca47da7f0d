"""Pairwise heapsort: a binary max-heap whose comparisons are asked in both orders.

Qin et al., arXiv:2306.17563 (PRP-Sorting). Stops once the top k are extracted. The left child is compared with its
parent first, then the right one with the greater of the two.
"""

from ...types import Candidates, Part, Steps, top_then_rest
from ..heaps import extract_top
from . import Params, beats


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    return top_then_rest((yield from extract_top(candidates.ids, params.k, 2, _best_of)), candidates)


def _best_of(docs: list[str]) -> Part[int]:
    """Return the index of the most relevant: each child in turn is compared with the most relevant so far."""
    best = 0
    for child in range(1, len(docs)):
        if (yield from beats(docs[child], docs[best])):
            best = child
    return best
