"""Setwise heapsort: a max-heap of num_child children a node, in which one ask covers a node and its children.

Zhuang et al., SIGIR 2024, arXiv:2310.09497, Section 3 and Algorithm 1. Stops once the top k are extracted.
A node and its children are asked in heap order; an answer that could not be read keeps the node.
"""

from collections.abc import Generator

from ...types import Answer, Ask, Candidates, Steps, choose, top_then_rest
from . import Params


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    heap = list(candidates.ids)
    for root in range(len(heap) // params.num_child, -1, -1):
        yield from _sift_down(heap, root, params.num_child)
    ranked: list[str] = []
    while heap:
        heap[0], heap[-1] = heap[-1], heap[0]
        ranked.append(heap.pop())
        if len(ranked) == params.k:
            break
        yield from _sift_down(heap, 0, params.num_child)
    return top_then_rest(ranked, candidates)


def _sift_down(heap: list[str], node: int, num_child: int) -> Generator[list[Ask], list[Answer], None]:
    """Move the document at `node` down until it is the most relevant of its subtree's top."""
    while (first := num_child * node + 1) < len(heap):
        nodes = [node, *range(first, min(first + num_child, len(heap)))]
        [answer] = yield [choose([heap[i] for i in nodes])]
        best = nodes[answer.choice]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best
