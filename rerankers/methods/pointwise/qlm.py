"""Query likelihood: documents sorted by the log-probability of the query given the document.

Sachan et al., "Improving Passage Retrieval with Zero-Shot Question Generation", EMNLP 2022, arXiv:2204.07496 (UPR;
their mean over tokens gives the order of this sum). All documents are ranked; equal scores keep first-stage order.
`count_pad: true` adds the log-probability of the padding token that ielab/llm-rankers puts before the query (T5).
"""

from typing import ClassVar

from ...types import Ask, AskKind, Candidates, Steps, by_score
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of query likelihood: none."""

    asks: ClassVar[tuple[AskKind, ...]] = ("likelihood",)
    prompt: ClassVar[str] = "qlm"


def qlm(candidates: Candidates, params: Params) -> Steps:  # noqa: ARG001 - the signature of every method
    """Rank all documents by log P(query | document)."""
    answers = yield [Ask("likelihood", (doc,)) for doc in candidates.ids]
    return by_score(candidates, [answer.scores[0] for answer in answers])
