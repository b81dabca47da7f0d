"""Listwise tournament sort: groups of m documents send on their best r until one ask is left, which gives the winner.

Yoon et al., "ListT5: Listwise Reranking with Fusion-in-Decoder Improves Zero-shot Retrieval", ACL 2024,
arXiv:2402.15838; the control flow of soyoung97/ListT5 at 6838938, for any model that orders documents, best first.
After each win another document takes the winner's slot, so that most groups stay what they were, and a set of
documents that was asked about before is not asked about again. Short groups are filled up with others of their level,
or of the one before. m documents or fewer are ranked with one ask. Unlike that code, no prompt shows a document twice.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, model_validator

from ...types import Candidates, Part, Steps, TopK, permute, top_then_rest
from . import Params as ListwiseParams
from . import ordered

SHIFT = 21
"""The distance down the first stage of the document that takes a winner's slot: far from its neighbours."""

Known = dict[frozenset[int], list[int]]
"""The order of each set of documents that was asked about, by first-stage index."""


class Params(ListwiseParams, TopK):
    """Parameters of the tournament sort."""

    shows: ClassVar[int | str] = "m"

    m: int = Field(5, ge=2, description="documents a group, all shown in one prompt")
    r: int = Field(2, ge=1, description="documents of a group that go on to the next level")

    @model_validator(mode="after")
    def _levels_shrink(self) -> "Params":
        if 2 * self.r > self.m:
            raise ValueError(f"r {self.r} is more than half of m {self.m}: levels would not get smaller")
        return self


def tournament(candidates: Candidates, params: Params) -> Steps:
    """Rank the top k by one tournament each; all others keep first-stage order."""
    ids = candidates.ids
    if len(ids) <= params.m:
        return top_then_rest((yield from ordered(ids))[: params.k], candidates)
    slots, known, winners = list(range(len(ids))), Known(), list[int]()
    while len(winners) < min(params.k, len(ids)):
        winner = yield from _winner(slots, ids, params, known)
        winners.append(winner)
        below = [(winner + SHIFT + i) % len(ids) for i in range(len(ids))]
        other = next((i for i in below if i not in winners), winner)
        slots = [other if slot == winner else slot for slot in slots]
    return top_then_rest([ids[i] for i in winners], candidates)


def _winner(slots: Sequence[int], ids: Sequence[str], params: Params, known: Known) -> Part[int]:
    """Return the best of the documents in the slots, level by level: the groups of a level are one round."""
    above: Sequence[int] = ()
    while True:
        groups = []
        for start in range(0, len(slots), params.m):
            members = slots[start : start + params.m]
            others = [i for i in dict.fromkeys((*slots, *above)) if i not in members]
            groups.append(frozenset((*members, *others[: params.m - len(members)])))
        new = [sorted(group) for group in dict.fromkeys(groups) if len(group) > 1 and group not in known]
        if new:
            answers = yield [permute([ids[i] for i in group]) for group in new]
            for group, answer in zip(new, answers, strict=True):
                known[frozenset(group)] = [group[i] for i in answer.order]
        ranked = [known.get(group, list(group)) for group in groups]
        if len(groups) == 1:
            return ranked[0][0]
        above, slots = slots, [i for order in ranked for i in order[: params.r]]
