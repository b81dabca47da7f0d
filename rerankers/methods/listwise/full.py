"""Full ranking: one window shows all documents, and one answer orders them.

Liu et al., "Sliding Windows Are Not the End: Exploring Full Ranking with Long-Context Large Language Models", 2024,
arXiv:2412.14574; as in 8421BCD/fullrank. RankZephyr's wording, 100 words a passage, and as many new tokens as the
answer takes. Of more candidates than `window`, the first so many are ranked and the others keep their order.
"""

from typing import ClassVar

from pydantic import Field

from ...types import Candidates, Steps, top_then_rest
from . import Params as ListwiseParams
from . import ordered


class Params(ListwiseParams):
    """Parameters of full ranking."""

    prompt: ClassVar[str] = "full_ranking"
    scored_prompt: ClassVar[str | None] = None
    shows: ClassVar[int | str] = "window"

    window: int = Field(100, ge=2, description="the most documents that are shown and ranked")


def full(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents with one ask."""
    return top_then_rest((yield from ordered(candidates.ids[: params.window])), candidates)
