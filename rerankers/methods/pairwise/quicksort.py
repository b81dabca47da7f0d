"""Pairwise quicksort: all documents of a span are compared with a pivot at once.

Wisznia et al., "Are Optimal Algorithms Still Optimal? Rethinking Sorting in LLM-Based Pairwise Ranking with Batching
and Caching", ACL 2025, arXiv:2505.24643; as in juanwisz/llm-rankers at ef6993a. Quickselect finds the top k, quicksort
sorts them. A document goes left of the pivot if it wins; ties go right. Partitioning m documents is one round, in
batches of b prompts ⌈2(m - 1) / b⌉ of them; `pivot: median_of_three` first compares the three in a round of their own.

That code's `original` pivot is `pivot: last`, which compares every pair of documents that are in the right order
already; it shows a pair in one order, the pivot second: `orders: one`. No prompt is asked twice about a query, their
caching, unless `cache: false`. It partitions by swapping in place, which shuffles the documents that lose; here both
sides keep their order. Where the answers are those of one strict order, the ranking is the same (72 of 72 tried); with
ties it is another (0 of 72 the same), and with answers that contradict one another too (2 of 72).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, combinations
from random import Random
from typing import Literal

from pydantic import Field

from ...types import Answer, Ask, Candidates, Part, Seeded, Steps, compare, top_then_rest
from . import Params as PairwiseParams
from . import first_wins


class Params(PairwiseParams, Seeded):
    """Parameters of quicksort."""

    pivot: Literal["middle", "first", "last", "random", "median_of_three"] = Field(
        "middle", description="the document of a span that the others are compared with"
    )
    orders: Literal["both", "one"] = Field("both", description="the orders that a pair is shown in; one: pivot second")
    cache: bool = Field(True, description="remember the answers: no prompt is asked twice about a query")

    @property
    def draws(self) -> bool:
        """Return whether it makes random choices."""
        return self.pivot == "random"


def quicksort(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by quickselect, then quicksort; all others keep first-stage order."""
    docs, k = list(candidates.ids), min(params.k, len(candidates.docs))
    partition = partial(_partition, docs, params, params.dice(candidates), {})
    low, high, pivot = 0, len(docs), -1
    while k < len(docs) and pivot != k - 1:
        pivot = yield from partition(low, high)
        low, high = (low, pivot) if pivot > k - 1 else (pivot + 1, high)
    spans = [(0, k)]
    while spans:
        low, high = spans.pop()
        if high - low > 1:
            pivot = yield from partition(low, high)
            spans += [(pivot + 1, high), (low, pivot)]
    return top_then_rest(docs[:k], candidates)


def _partition(
    docs: list[str], params: Params, dice: Random, known: dict[Ask, Answer], low: int, high: int
) -> Part[int]:
    """Put those of docs[low:high] that beat a pivot before it and the others after it; return its new index."""
    span = docs[low:high]
    three = span[0], span[(len(span) - 1) // 2], span[-1]
    pivot = three[{"first": 0, "last": 2}.get(params.pivot, 1)]
    if params.pivot == "random":
        pivot = dice.choice(span)
    elif params.pivot == "median_of_three" and len(span) > 2:
        pairs = list(combinations(three, 2))
        wins = yield from _wins(pairs, params, known)
        won = Counter(a if a_wins else b for (a, b), a_wins in zip(pairs, wins, strict=True))
        pivot = sorted(three, key=won.__getitem__)[1]
    others = [doc for doc in span if doc != pivot]
    wins = yield from _wins([(doc, pivot) for doc in others], params, known)
    left = [doc for doc, better in zip(others, wins, strict=True) if better]
    right = [doc for doc, better in zip(others, wins, strict=True) if not better]
    docs[low:high] = [*left, pivot, *right]
    return low + len(left)


def _wins(pairs: Sequence[tuple[str, str]], params: Params, known: dict[Ask, Answer]) -> Part[list[bool]]:
    """Return whether the first of each pair beats the second: one round, in which only unknown pairs are asked."""
    asks = [[compare(a, b), compare(b, a)] if params.orders == "both" else [compare(a, b)] for a, b in pairs]
    new = [ask for ask in chain(*asks) if not (params.cache and ask in known)]
    if new:
        known.update(zip(new, (yield new), strict=True))
    return [first_wins([known[ask] for ask in group]) for group in asks]
