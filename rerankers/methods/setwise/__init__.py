"""Setwise reranking: the model picks the most relevant of several documents at once.

Zhuang et al., "A Setwise Approach for Effective and Highly Efficient Zero-shot Ranking with Large Language Models",
SIGIR 2024, arXiv:2310.09497.
"""

from typing import ClassVar

from pydantic import Field

from ...types import AskKind, TopK


class Params(TopK):
    """Parameters of the setwise sorts."""

    asks: ClassVar[tuple[AskKind, ...]] = ("choose",)
    prompt: ClassVar[str] = "setwise"

    num_child: int = Field(
        2, ge=1, description="documents a prompt shows besides the first: the paper's c is num_child + 1"
    )

    @property
    def most_docs(self) -> int:
        """The most documents that one ask shows."""
        return self.num_child + 1
