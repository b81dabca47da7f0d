"""Listwise reranker with a large language model: the model completes a program that sorts a list of passages.

Ma et al., "Zero-Shot Listwise Document Reranking with a Large Language Model", 2023, arXiv:2305.02156 (LRL). Sliding
windows with a prompt of their own: `PASSAGE1 = "…"`, to be continued after `SORTED_PASSAGES =`.
"""

from typing import ClassVar

from ...types import Candidates, Steps
from . import Sliding, slide


class Params(Sliding):
    """Parameters of LRL."""

    prompt: ClassVar[str] = "lrl"
    scored_prompt: ClassVar[str | None] = None


def lrl(candidates: Candidates, params: Params) -> Steps:
    """Rank all documents by sliding windows over a list of named passages."""
    return slide(candidates.ids, params)
