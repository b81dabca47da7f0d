"""Pointwise reranking: every document gets a score of its own, and the documents are sorted by it."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from ...types import Answer, Ask, AskKind, Candidates, Part, score
from ...types import Params as BaseParams


class Anchored(BaseParams):
    """Parameters of methods that set every document against one anchor, made of the first documents' sentences."""

    asks: ClassVar[tuple[AskKind, ...]] = ("score",)
    prompt: ClassVar[str] = "gccp"

    m: int = Field(10, ge=1, description="how many of the first stage's documents the anchor is made of")
    z: int = Field(10, ge=1, description="how many of their sentences it has at most")
    threshold: float = Field(0.2, ge=0, le=1, description="the least cosine that links two sentences")
    choice: Literal["cluster", "magnitude"] = Field("cluster", description="of sentences: the paper's or the code's")


def contrasts(candidates: Candidates, params: Anchored) -> Part[list[Ask]]:
    """Return the asks of GCCP, one a document: is it more relevant than the anchor, which is derived first?"""
    options = (("sentences", params.z), ("threshold", params.threshold), ("choice", params.choice))
    [anchor] = yield [Ask("derive", candidates.ids[: params.m], template="spectral_summary", options=options)]
    return [score(doc, notes=[("anchor", anchor.note)]) for doc in candidates.ids]


def peak_probability(answer: Answer) -> float:
    """Return the most relevant label's probability over the whole vocabulary, or the value that a text gives."""
    return math.exp(answer.peak) if answer.text is None else answer.peak
