"""Pairwise heapsort: a binary max-heap whose comparisons are asked in both orders.

Qin et al., arXiv:2306.17563 (PRP-Sorting). Stops once the top k are extracted. The left child is compared with its
parent first, then the right one with the greater of the two.
"""

from ...types import Candidates, Steps, top_then_rest
from ..heaps import Asking, extract_top
from . import Params, beats


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    return top_then_rest((yield from extract_top(candidates.ids, params.k, 2, _sift_down)), candidates)


def _sift_down(heap: list[str], node: int) -> Asking:
    """Move the document at `node` down until no child beats it."""
    while True:
        best = node
        for child in (2 * node + 1, 2 * node + 2):
            if child < len(heap) and (yield from beats(heap[child], heap[best])):
                best = child
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best
