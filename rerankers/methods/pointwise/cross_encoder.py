"""Cross-encoder: documents sorted by the relevance that a model's classification head gives to query and document.

Nogueira and Cho, arXiv:1901.04085. One label: its logit. Two: the log-probability of the second. All documents are
ranked; equal scores keep first-stage order.
"""

from typing import ClassVar

from ...types import Ask, AskKind, Candidates, Scoring, Steps, by_score
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of a cross-encoder: none."""

    asks: ClassVar[tuple[AskKind, ...]] = ("relevance",)
    prompt: ClassVar[str] = "pair"

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """Return likelihood alone: the head gives a number."""
        return ("likelihood",)


def cross_encoder(candidates: Candidates, params: Params) -> Steps:  # noqa: ARG001 - the signature of every method
    """Rank all documents by the model's relevance score."""
    answers = yield [Ask("relevance", (doc,)) for doc in candidates.ids]
    return by_score(candidates, [answer.scores[0] for answer in answers])
