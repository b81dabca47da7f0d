"""The max-heap of every heapsort: it is built from the bottom, and its top extracted k times.

How the best of a node and its children is found is the family's: it asks the model, by pairs or by sets.
"""

from collections.abc import Callable, Sequence

from ..types import Part

BestOf = Callable[[list[str]], Part[int]]
"""Finds the index of the most relevant of a node, which comes first, and its children."""


def extract_top(docs: Sequence[str], k: int, children: int, best_of: BestOf) -> Part[list[str]]:
    """Return the top k documents, best first, by a heap of so many `children` a node."""
    heap = list(docs)
    for root in range(len(heap) // children, -1, -1):
        yield from _sift_down(heap, root, children, best_of)
    ranked: list[str] = []
    while heap:
        heap[0], heap[-1] = heap[-1], heap[0]
        ranked.append(heap.pop())
        if len(ranked) == k:
            break
        yield from _sift_down(heap, 0, children, best_of)
    return ranked


def _sift_down(heap: list[str], node: int, children: int, best_of: BestOf) -> Part[None]:
    """Move the document at `node` down until none of its children is more relevant."""
    while (first := children * node + 1) < len(heap):
        nodes = [node, *range(first, min(first + children, len(heap)))]
        best = nodes[(yield from best_of([heap[i] for i in nodes]))]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best
