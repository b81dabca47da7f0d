"""Top-down partitioning: the other documents are compared with a pivot from the first window, and those above it rank.

Parry et al., "Top-Down Partitioning for Efficient List-Wise Ranking", 2024, arXiv:2405.14589 (TDPart). The first
window is ordered and its document at rank k taken; every further partition is ordered together with it, all of
them in one round, since they do not depend on each other. What comes out above the pivot is ranked in turn. With
`parallel: false` partitions are asked one at a time until `budget` candidates are found, as the authors' code does;
what is then left is never seen.

Their code (Parry-Parry/TDPart, `partitionrank/transformer`) is mended in three places: what an inner turn sorts out
goes before what an outer one did, not after it; it stops where no partition had a better document than the pivot,
which its test never notices; candidates that fit into one window are ordered once, and not twice where they fill it.
With a judge that is always right the first k ranks are exact as long as no turn finds more than `budget` candidates.
Those beyond the budget rank right above the pivot, unordered.
"""

from typing import ClassVar

from pydantic import Field, model_validator

from ...types import Candidates, Ranking, Steps, permute
from . import Params as ListwiseParams
from . import in_order, ordered


class Params(ListwiseParams):
    """Parameters of top-down partitioning."""

    prompt: ClassVar[str] = "rank_zephyr"
    shows: ClassVar[int | str] = "window"

    window: int = Field(20, ge=2, description="documents a window, the pivot among them")
    k: int = Field(
        10, ge=1, description="the pivot's rank in the first window, or the last but one: the top that counts"
    )
    budget: int = Field(20, ge=1, description="the most candidates that a turn may find above the pivot")
    parallel: bool = Field(True, description="ask about all partitions in one round, instead of stopping at the budget")

    @model_validator(mode="after")
    def _the_top_is_in_the_budget(self) -> "Params":
        if self.budget < self.pivot:
            raise ValueError(f"budget {self.budget} is less than the pivot's rank {self.pivot}: the top would be cut")
        return self

    @property
    def pivot(self) -> int:
        """Return the pivot's rank in the first window: below it there is at least one document."""
        return min(self.k, self.window - 1)


def topdown(candidates: Candidates, params: Params) -> Steps:
    """Rank the top documents by top-down partitioning; all others follow as they were last seen."""
    docs, tail = list(candidates.ids), list[str]()
    while True:
        first = yield from ordered(docs[: params.window])
        rest = docs[params.window :]
        if not rest:
            return Ranking((*first, *tail))
        pivot, above, below = first[params.pivot - 1], first[: params.pivot - 1], first[params.pivot :]
        while rest and (params.parallel or len(above) < params.budget):
            size = params.window - 1
            now, rest = (rest, []) if params.parallel else (rest[:size], rest[size:])
            partitions = [[pivot, *now[i : i + size]] for i in range(0, len(now), size)]
            answers = yield [permute(partition) for partition in partitions]
            for partition, answer in zip(partitions, answers, strict=True):
                order = in_order(partition, answer)
                place = order.index(pivot)
                above, below = above + order[:place], below + order[place + 1 :]
        docs, enough = above[: params.budget], len(above) >= params.pivot
        tail = [*above[params.budget :], pivot, *below, *rest, *tail]
        if not enough:
            return Ranking((*docs, *tail))
