"""Pairwise heapsort: a binary max-heap whose comparisons are asked in both orders.

Qin et al., arXiv:2306.17563 (PRP-Sorting). Stops once the top k are extracted. The left child is compared with its
parent first, then the right one with the greater of the two.
"""

from collections.abc import Generator

from ...types import Answer, Ask, Candidates, Steps, top_then_rest
from . import Params, beats


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    heap = list(candidates.ids)
    for root in range(len(heap) // 2, -1, -1):
        yield from _sift_down(heap, root)
    ranked: list[str] = []
    while heap:
        heap[0], heap[-1] = heap[-1], heap[0]
        ranked.append(heap.pop())
        if len(ranked) == params.k:
            break
        yield from _sift_down(heap, 0)
    return top_then_rest(ranked, candidates)


def _sift_down(heap: list[str], node: int) -> Generator[list[Ask], list[Answer], None]:
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
