"""JudgeRank: the model analyses the query, then each passage, and then judges the passage in one word.

Niu et al., "JudgeRank: Leveraging Large Language Models for Reasoning-Intensive Reranking", arXiv:2411.00142. One
query analysis, n passage analyses that show it, n judgements that show both: 1 + 2 n prompts, three rounds. The score
is P(Yes) / (P(Yes) + P(No)), 1 or 0 by generation. All documents are ranked; equal scores keep first-stage order.

The paper also combines it with the first stage, but its formula was not at hand. `combine: interpolate` is
alpha · first-stage score, brought to the range from 0 to 1 per query, + (1 - alpha) · P(Yes), and alpha must be given;
`combine: discrete` puts all documents judged Yes above all others, in first-stage order among themselves.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...types import AskKind, Candidates, PromptName, Steps, by_score, minmax, score, write
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of JudgeRank."""

    asks: ClassVar[tuple[AskKind, ...]] = ("score",)
    prompt: ClassVar[str] = "judgerank_judgment"

    query_prompt: PromptName = Field("judgerank_query", description="the prompt that asks for the query's analysis")
    passage_prompt: PromptName = Field("judgerank_passage", description="the prompt that asks for a passage's analysis")
    combine: Literal["none", "interpolate", "discrete"] = Field(
        "none", description="what the first stage adds: nothing, a share of the score, or the order within Yes and No"
    )
    alpha: float | None = Field(None, ge=0, le=1, description="the first stage's share, with combine: interpolate")

    @model_validator(mode="after")
    def _interpolation_has_a_share(self) -> "Params":
        if self.combine == "interpolate" and self.alpha is None:
            raise ValueError("combine: interpolate needs alpha, the first stage's share of the score, from 0 to 1")
        return self

    @property
    def templates(self) -> Mapping[str, AskKind]:
        """Return the prompts of the two analyses."""
        return {self.query_prompt: "write", self.passage_prompt: "write"}


def judgerank(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by the probability that they are judged relevant, after an analysis of each."""
    docs = candidates.ids
    if not docs:
        return by_score(candidates, [])
    [query] = yield [write(params.query_prompt)]
    shown = ("query_analysis", query.note)
    passages = yield [write(params.passage_prompt, [doc], [shown]) for doc in docs]
    answers = yield [
        score(doc, notes=[shown, ("passage_analysis", passage.note)])
        for doc, passage in zip(docs, passages, strict=True)
    ]
    relevance = [answer.scores[0] for answer in answers]
    if params.combine == "discrete":
        relevance = [float(probability > 0.5) for probability in relevance]
    if params.combine == "interpolate" and params.alpha is not None:
        first = minmax(candidates.scores)
        relevance = [params.alpha * s + (1 - params.alpha) * p for s, p in zip(first, relevance, strict=True)]
    return by_score(candidates, relevance)
