"""REBEL: documents are rated by several criteria at once, in groups, by a rubric that is written for the query.

LeVine and Varjavand, "Relevance Isn't All You Need: Scaling RAG Systems With Inference-Time Compute Via Multi-Criteria
Reranking", arXiv:2504.07104, and microsoft/REBEL. With `turns: two` the model first writes the query's rubric, which
each group's prompt then shows: 1 + ⌈n / group_size⌉ prompts, two rounds. With `turns: one` the prompt has five fixed
criteria: ⌈n / group_size⌉ prompts, one round. A document's score is relevance (0 to 10) plus half of each criterion
(0 to 5), computed by the model; both prompts tell it to leave out documents whose relevance is below 3. Groups are
consecutive in first-stage order. Documents are sorted by score, equal scores keep first-stage order, and those that
an answer does not name or scores below `drop_below` follow in first-stage order.

An answer that names no document, which the prompts ask for where none is relevant, counts as unparsed.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from ...types import Ask, AskKind, Candidates, PromptName, Ranking, Scoring, Steps, top_then_rest, write
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of REBEL."""

    asks: ClassVar[tuple[AskKind, ...]] = ("rate",)
    prompt: ClassVar[str] = "rebel"
    scoring: ClassVar[Scoring] = "generation"
    shows: ClassVar[int | str] = "group_size"

    turns: Literal["one", "two"] = Field("two", description="two: a rubric is written for every query first")
    group_size: int = Field(10, ge=1, description="documents a prompt")
    drop_below: float = Field(3.0, description="lower final scores follow the others, in first-stage order")
    rubric_prompt: PromptName = Field(
        "rebel_rubric", description="the prompt that asks for the rubric, with turns: two"
    )

    @property
    def templates(self) -> Mapping[str, AskKind]:
        """Return the prompt of the rubric, if one is written."""
        return {self.rubric_prompt: "write"} if self.turns == "two" else {}

    def prompt_for(self, scoring: Scoring) -> str:  # noqa: ARG002
        """Return the prompt that shows the rubric, or the one with five criteria of its own."""
        return self.prompt if self.turns == "two" else "rebel_one_turn"


def rebel(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by their rating."""
    docs = candidates.ids
    if len(docs) < 2:
        return Ranking(docs)
    notes: tuple[tuple[str, str], ...] = ()
    if params.turns == "two":
        [rubric] = yield [write(params.rubric_prompt)]
        notes = (("rubric", rubric.note),)
    starts = range(0, len(docs), params.group_size)
    answers = yield [Ask("rate", docs[start : start + params.group_size], notes=notes) for start in starts]
    rated = dict(zip(docs, (score for answer in answers for score in answer.scores), strict=True))
    kept = [doc for doc in docs if rated[doc] >= params.drop_below]
    return top_then_rest(sorted(kept, key=lambda doc: -rated[doc]), candidates)
