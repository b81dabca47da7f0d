"""Listwise sliding windows: windows of documents are ordered from the bottom of the list to its top.

Sun et al., "Is ChatGPT Good at Search? Investigating Large Language Models as Re-Ranking Agents", EMNLP 2023,
arXiv:2304.09542 (RankGPT). With `scoring: likelihood`, Zhuang et al., SIGIR 2024, arXiv:2310.09497: the setwise
prompt, a window ordered by its labels' probabilities. `tail: drop`, which `compat: llm-rankers` implies, leaves out
a last window that would be shorter than the others, so that the first ranks may never be seen.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from ...types import AskKind, Candidates, Ranking, Scoring, Steps, permute
from ...types import Params as BaseParams
from . import windows


class Params(BaseParams):
    """Parameters of sliding windows."""

    asks: ClassVar[tuple[AskKind, ...]] = ("permute",)
    prompt: ClassVar[str] = "rankgpt"
    scoring: ClassVar[Scoring] = "generation"
    compat_defaults: ClassVar[dict[str, object]] = {"tail": "drop"}

    window: int = Field(20, ge=2, description="documents a window")
    stride: int = Field(10, ge=1, description="documents from one window to the next")
    repeats: int = Field(1, ge=1, description="passes over the whole list")
    tail: Literal["cover", "drop"] = Field("cover", description="what to do with a last window that is shorter")

    @model_validator(mode="after")
    def _every_document_is_seen(self) -> "Params":
        if self.stride > self.window:
            raise ValueError(f"stride {self.stride} is more than window {self.window}: documents would be passed over")
        return self

    def prompt_for(self, scoring: Scoring) -> str:
        """RankGPT's conversation, or the setwise prompt where labels are scored."""
        return "setwise" if scoring == "likelihood" else self.prompt

    @property
    def most_docs(self) -> int:
        """The most documents that one ask shows."""
        return self.window


def sliding(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by sliding windows."""
    docs = list(candidates.ids)
    for _ in range(params.repeats):
        for start, end in windows(len(docs), params.window, params.stride, partial=params.tail == "cover"):
            if end - start < 2:
                continue
            shown = docs[start:end]
            [answer] = yield [permute(shown)]
            docs[start:end] = [shown[i] for i in answer.order]
    return Ranking(tuple(docs))
