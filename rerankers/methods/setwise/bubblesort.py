"""Setwise bubblesort: windows of num_child + 1 documents move up the list, and each one's best goes to its front.

Zhuang et al., SIGIR 2024, arXiv:2310.09497, Section 3. Pass r fixes rank r; there are k passes. A pass starts where
the one before first changed something, since nothing below that moved (as the authors' code does; its paper counts
depend on it). Windows of fewer than two documents, which that code would ask about, are passed over.
"""

from ...types import Candidates, Steps, choose, top_then_rest
from . import Params


def bubblesort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by bubblesort; all others keep first-stage order."""
    docs = list(candidates.ids)
    lowest = start_of_pass = len(docs) - (params.num_child + 1)
    for rank in range(min(params.k, len(docs))):
        start, changed = start_of_pass, False
        while True:
            head = max(start, rank)
            window = docs[head : start + params.num_child + 1]
            best = 0
            if len(window) > 1:
                [answer] = yield [choose(window)]
                best = answer.choice
            if best:
                docs[head], docs[head + best] = docs[head + best], docs[head]
                if not changed and start_of_pass != lowest and best == len(window) - 1:
                    start_of_pass += len(window) - 1
                changed = True
            if head == rank:
                break
            if not changed:
                start_of_pass -= params.num_child
            start -= params.num_child
    return top_then_rest(docs[: params.k], candidates)
