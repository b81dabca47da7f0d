"""Setwise heapsort: a max-heap of num_child children a node, in which one ask covers a node and its children.

Zhuang et al., SIGIR 2024, arXiv:2310.09497, Section 3 and Algorithm 1. Stops once the top k are extracted.
A node and its children are asked in heap order; an answer that could not be read keeps the node.
"""

from functools import partial

from ...types import Candidates, Steps, top_then_rest
from ..heaps import extract_top
from . import Params, best_of


def heapsort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by heapsort; all others keep first-stage order."""
    ask = partial(best_of, params=params, dice=params.dice(candidates))
    return top_then_rest((yield from extract_top(candidates.ids, params.k, params.num_child, ask)), candidates)
