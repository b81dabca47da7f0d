"""The max-heap of every heapsort: it is built from the bottom, and its top extracted k times.

How a document is moved down is the family's: it asks the model, by pairs or by sets.
"""

from collections.abc import Callable, Generator, Sequence

from ..types import Answer, Ask

Asking = Generator[list[Ask], list[Answer], None]
SiftDown = Callable[[list[str], int], Asking]
"""Moves the document at an index of the heap down until none of its children is more relevant."""


def extract_top(
    docs: Sequence[str], k: int, children: int, sift_down: SiftDown
) -> Generator[list[Ask], list[Answer], list[str]]:
    """Return the top k documents, best first, by a heap of so many `children` a node."""
    heap = list(docs)
    for root in range(len(heap) // children, -1, -1):
        yield from sift_down(heap, root)
    ranked: list[str] = []
    while heap:
        heap[0], heap[-1] = heap[-1], heap[0]
        ranked.append(heap.pop())
        if len(ranked) == k:
            break
        yield from sift_down(heap, 0)
    return ranked
