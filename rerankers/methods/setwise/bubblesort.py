"""Setwise bubblesort: windows of num_child + 1 documents move up the list, and each one's best goes to its front.

Zhuang et al., SIGIR 2024, arXiv:2310.09497, Section 3. Pass r fixes rank r; there are k passes. A pass starts where
the one before first changed something, as in ielab/llm-rankers at b36517b, since what lies below is in order still:
the paper's counts depend on it. Windows of fewer than two documents, which that code would ask about, are passed over.

Two options repeat that code. `outside: swap`: a label that no document of a window has, such as D where a window cut
short at the top shows three, moves up the document that far below the first. `skip: reference` starts as high as it
does, and with more than one child can miss documents of the top k however good the answers are: after a first change
in a window that is cut short at the top it starts too high, and a window that the ranks have passed is not seen again.
"""

from typing import Literal

from pydantic import Field

from ...types import Candidates, Steps, added, top_then_rest
from . import Params as SetwiseParams
from . import best_of


class Params(SetwiseParams):
    """Parameters of setwise bubblesort."""

    skip: Literal["exact", "reference"] = Field(
        "exact", description="windows at the bottom that a pass leaves out: those in order still, or as the authors do"
    )
    outside: Literal["ignore", "swap"] = added(
        "ignore",
        "a label that no document of a window has: unread, or as the authors do, the one that far below",
    )


def bubblesort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by bubblesort; all others keep first-stage order."""
    docs, dice, outside = list(candidates.ids), params.dice(candidates), params.outside == "swap"
    lowest = start_of_pass = len(docs) - (params.num_child + 1)
    for rank in range(min(params.k, len(docs))):
        if params.skip == "exact" and start_of_pass + params.num_child < rank:
            start_of_pass += params.num_child
        start, changed = start_of_pass, False
        while True:
            head = max(start, rank)
            window = docs[head : start + params.num_child + 1]
            best = (yield from best_of(window, params, dice, outside=outside)) if len(window) > 1 else 0
            if best and head + best < len(docs):
                docs[head], docs[head + best] = docs[head + best], docs[head]
                if not changed and start_of_pass != lowest and best == len(window) - 1:
                    start_of_pass += params.num_child if params.skip == "exact" else best
                changed = True
            if head == rank:
                break
            if not changed:
                start_of_pass -= params.num_child
            start -= params.num_child
    return top_then_rest(docs[: params.k], candidates)
