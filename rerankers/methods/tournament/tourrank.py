"""TourRank: documents win points in a tournament whose stages each select the best of their groups.

Chen et al., "TourRank: Utilizing Large Language Models for Documents Ranking with a Tournament-Inspired Strategy",
WWW 2025, arXiv:2406.11678; as in chenyiqun/TourRank. Of 100 documents a tournament keeps 50, 20, 10, 5 and 2, with 13
asks in 5 rounds. The documents left are dealt out to the groups in turn (i, i + G, i + 2G, …) and shuffled within
each; a document that is selected wins a point and goes on. Points of `repeats` tournaments, which are independent and
run side by side, are added up (TourRank-r); of equal sums the earlier in the first stage wins.

The paper's stages are for 100 documents. For other numbers the same table holds: a stage that would keep all is left
out, and the others divide what they keep evenly among as many groups as it takes. An answer that cannot be read
selects the documents shown first, which are random ones. With `scoring: likelihood` the setwise prompt is used, and
the labels of highest probability are selected.
"""

from itertools import chain, pairwise
from typing import ClassVar

from pydantic import Field, model_validator

from ...types import Ask, AskKind, Candidates, Scoring, Seeded, Steps, Strict, by_score


class Stage(Strict):
    """One stage of a tournament."""

    keep: int = Field(ge=1, description="documents of all groups together that go on")
    size: int = Field(ge=2, description="the most documents a group")


class Params(Seeded):
    """Parameters of TourRank."""

    asks: ClassVar[tuple[AskKind, ...]] = ("select",)
    prompt: ClassVar[str] = "tourrank"
    scored_prompt: ClassVar[str | None] = "setwise"
    scoring: ClassVar[Scoring] = "generation"

    repeats: int = Field(1, ge=1, description="tournaments whose points are added: the r of TourRank-r")
    stages: list[Stage] = Field(
        [Stage(keep=keep, size=size) for keep, size in ((50, 20), (20, 10), (10, 20), (5, 10), (2, 5))],
        min_length=1,
        description="the stages of a tournament, each keeping fewer documents than the one before",
    )

    @model_validator(mode="after")
    def _every_stage_keeps_fewer(self) -> "Params":
        kept = [stage.keep for stage in self.stages]
        if any(later >= earlier for earlier, later in pairwise(kept)):
            raise ValueError(f"stages keep {', '.join(map(str, kept))}: each must keep fewer than the one before")
        return self

    @property
    def most_docs(self) -> int:
        """Return the most documents that one ask shows."""
        return max(stage.size for stage in self.stages)


def tourrank(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by the points they win in tournaments."""
    dice = params.dice(candidates)
    points = dict.fromkeys(candidates.ids, 0)
    left = [list(candidates.ids)] * params.repeats
    for stage in params.stages:
        if stage.keep >= len(candidates.ids):
            continue
        asks = []
        for number, docs in enumerate(left):
            groups = -(-len(docs) // stage.size)
            for i in range(groups):
                group = docs[i::groups]
                dice.shuffle(group)
                # Of what cannot be divided evenly the first groups keep one more; each keeps one at least.
                limit = max(1, stage.keep // groups + (i < stage.keep % groups))
                asks.append(Ask("select", tuple(group), limit=limit, sample=number))
        answers = yield asks
        selected = [set[str]() for _ in left]
        for ask, answer in zip(asks, answers, strict=True):
            selected[ask.sample] |= {ask.docs[i] for i in answer.order}
        left = [[doc for doc in candidates.ids if doc in winners] for winners in selected]
        for doc in chain.from_iterable(left):
            points[doc] += 1
    return by_score(candidates, [points[doc] for doc in candidates.ids])
