"""Listwise from the first token: a window is sorted by the probabilities of the letters that could begin the answer.

Gangi Reddy et al., "FIRST: Faster Improved Listwise Reranking with Single Token Decoding", EMNLP 2024,
arXiv:2406.15657; as in gangiswag/llm-reranker at 2d7cba4. Passages are lettered, the answer is made to begin with "[",
and one forward pass gives all letters their probability: sliding windows at the price of reading the prompts. With
`scoring: generation` the same prompt is answered by a whole list of letters.
"""

from typing import ClassVar

from ...types import Candidates, Scoring, Steps
from . import Sliding, slide


class Params(Sliding):
    """Parameters of listwise reranking from the first token."""

    prompt: ClassVar[str] = "first"
    scored_prompt: ClassVar[str | None] = None
    scoring: ClassVar[Scoring] = "likelihood"


def first(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by sliding windows, each sorted by its letters' probabilities."""
    return slide(candidates.ids, params)
