"""Setwise heapsort: a max-heap of num_child children a node, in which one ask covers a node and its children.

Zhuang et al., SIGIR 2024, arXiv:2310.09497, Section 3 and Algorithm 1. Stops once the top k are extracted.
A node and its children are asked in heap order; an answer that could not be read keeps the node.
"""

from collections.abc import Generator, Sequence
from functools import partial
from random import Random

from ...types import Answer, Ask, Candidates, Steps, top_then_rest
from .. import heaps
from . import Params, best_of


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    top = yield from extract_top(candidates.ids, params, params.dice(candidates))
    return top_then_rest(top, candidates)


def extract_top(docs: Sequence[str], params: Params, dice: Random) -> Generator[list[Ask], list[Answer], list[str]]:
    """Return the top k documents, best first."""
    sift_down = partial(_sift_down, params=params, dice=dice)
    return heaps.extract_top(docs, params.k, params.num_child, sift_down)


def _sift_down(heap: list[str], node: int, params: Params, dice: Random) -> heaps.Asking:
    """Move the document at `node` down until it is the most relevant of its subtree's top."""
    while (first := params.num_child * node + 1) < len(heap):
        nodes = [node, *range(first, min(first + params.num_child, len(heap)))]
        best = nodes[(yield from best_of([heap[i] for i in nodes], params, dice))]
        if best == node:
            return
        heap[node], heap[best] = heap[best], heap[node]
        node = best
