"""Pairwise sliding windows: k passes of comparing neighbours, each over the whole list from its bottom.

Qin et al., arXiv:2306.17563 (PRP-Sliding-K). Pass i compares n - 1 - i pairs, two prompts each, whatever is answered:
945 comparisons and 1,890 prompts for the top 10 of 100 documents, one comparison a round. `pairwise.bubblesort` ranks
the same with fewer, where equal asks are answered the same.
"""

from ...types import Candidates, Steps, top_then_rest
from . import Params, bubble_up


def sliding(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by k passes; all others keep first-stage order."""
    docs = list(candidates.ids)
    for rank in range(min(params.k, len(docs))):
        yield from bubble_up(docs, len(docs) - 1, rank)
    return top_then_rest(docs[: params.k], candidates)
