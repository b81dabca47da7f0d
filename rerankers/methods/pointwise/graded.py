"""Pointwise graded relevance: documents sorted by the model's judgement on a scale of several labels.

Zhuang et al., "Beyond Yes and No: Improving Zero-Shot LLM Rankers via Scoring Fine-Grained Relevance Labels", NAACL
2024, arXiv:2310.14122. The prompt's labels have values 0 to k. `score: expected` is the paper's ER, the labels' mean
value under their probabilities, which are made to sum to one; `score: peak` is its PR, the log-probability of the top
label. A label's log-probability is that of its whole text (`scored: whole` in the prompts with worded labels). By
generation, a document's score is the value of the label that is read, or the mean over `samples` answers of which those
that cannot be read count 0. n prompts a sample, one round. All documents are ranked; equal scores keep first-stage
order.

Prompts: `graded_2l`, `graded_3l`, `graded_4l` (RG-2L to RG-4L) and `graded_s4` (RG-S(0,4)). With `graded_3l_first` and
`graded_s4_first` the score is P(top) / (P(top) + P(bottom)) at the label's first token, as in
ielab/zeroshot-rankers-prompt-variations; they have no other labels, so they are for `scoring: likelihood`.
"""

from statistics import fmean
from typing import ClassVar, Literal

from pydantic import Field

from ...types import Ask, AskKind, Candidates, Steps, added, by_score
from ...types import Params as BaseParams


class Params(BaseParams):
    """Parameters of graded relevance."""

    asks: ClassVar[tuple[AskKind, ...]] = ("score",)
    prompt: ClassVar[str] = "graded_3l"

    score: Literal["expected", "peak"] = Field(
        "expected", description="the labels' mean value (ER), or the log-probability of the top label (PR)"
    )
    samples: int = added(1, "answers a document, whose mean is its score; with a temperature they differ")


def graded(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by their expected grade, or by the probability of the highest one."""
    samples = range(params.samples)
    answers = yield [Ask("score", (doc,), sample=sample) for doc in candidates.ids for sample in samples]
    expected = params.score == "expected"
    grades = iter([answer.scores[0] if expected else answer.peak for answer in answers])
    return by_score(candidates, [fmean(next(grades) for _ in samples) for _ in candidates.ids])
