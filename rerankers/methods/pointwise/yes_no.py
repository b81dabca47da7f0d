"""Pointwise yes/no: documents sorted by the probability of "Yes" to "does the passage answer the query?".

Nogueira et al., Findings of EMNLP 2020, for the score; Zhuang et al., SIGIR 2024, arXiv:2310.09497, Table 2
(pointwise.yes_no), for the zero-shot prompt. The probability is taken over "Yes" and "No" alone; with a prompt
whose answer is `scored: logit`, the score is one token's raw logit, or a difference of two. All documents are ranked;
equal scores keep first-stage order.
"""

from typing import ClassVar

from ...types import AskKind, Candidates, Steps, by_score, score
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of pointwise yes/no: none."""

    asks: ClassVar[tuple[AskKind, ...]] = ("score",)
    prompt: ClassVar[str] = "yes_no"


def yes_no(candidates: Candidates, params: Params) -> Steps:  # noqa: ARG001 - the signature of every method
    """Rank all documents by P(Yes)."""
    answers = yield [score(doc) for doc in candidates.ids]
    return by_score(candidates, [answer.scores[0] for answer in answers])
