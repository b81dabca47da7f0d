"""InstUPR: all documents get a score from 1 to 5, and the best of them are compared in all ordered pairs.

Huang and Chen, "InstUPR: Instruction-based Unsupervised Passage Reranking with Large Language Models",
arXiv:2403.16435; as in MiuLab/InstUPR at a439337. Two rounds of n and m(m - 1) prompts: 100 and 870. A document's
score is the mean of the labels 1 to 5 under their probabilities; of a pair each one gets its label's probability over
both, in both orders. By generation the score is the one stated, the document named gets 1, and what cannot be read
counts 0. The m best are ranked by the sum over their pairs, of equal sums the better scored first; all others by
score, of equal scores the earlier in the first stage first.

There the texts of a pair are cut at 980 tokens or 600, by dataset; here at `passage_tokens`, as everywhere.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import ClassVar

from pydantic import Field

from ...types import AskKind, Candidates, PromptName, Ranking, Steps, by_score, compare, score
from . import Pairs, sums


class Params(Pairs):
    """Parameters of InstUPR."""

    prompt: ClassVar[str] = "instupr_pair"

    m: int = Field(30, ge=0, description="how many of the best by score are compared with each other")
    score_prompt: PromptName = Field("instupr_score", description="the prompt that asks for a document's score")

    @property
    def templates(self) -> Mapping[str, AskKind]:
        """Return the prompt that scores a document."""
        return {self.score_prompt: "score"}


def instupr(candidates: Candidates, params: Params) -> Steps:
    """Rank the m best by score by their pairs, then the rest by score."""
    answers = yield [score(doc, params.score_prompt) for doc in candidates.ids]
    ranked = by_score(candidates, [answer.scores[0] for answer in answers]).docs
    pairs = list(permutations(ranked[: params.m], 2))
    points = sums(ranked[: params.m], pairs, (yield [compare(a, b) for a, b in pairs]))
    return Ranking((*sorted(points, key=lambda doc: -points[doc]), *ranked[params.m :]))
