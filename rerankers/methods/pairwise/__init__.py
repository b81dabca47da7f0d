"""Pairwise ranking prompting: the model compares two documents, in both orders.

Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting", Findings of NAACL
2024, arXiv:2306.17563. A document wins only if both orders of the pair agree on it; all else is a tie.
"""

from collections.abc import Generator, Sequence
from typing import ClassVar

from ...types import Answer, Ask, AskKind, TopK, compare


class Params(TopK):
    """Parameters of the pairwise sorts."""

    asks: ClassVar[tuple[AskKind, ...]] = ("compare",)
    prompt: ClassVar[str] = "pairwise"

    @property
    def most_docs(self) -> int:
        """The most documents that one ask shows."""
        return 2


def first_wins(both_orders: Sequence[Answer]) -> bool:
    """Whether the answers to (a, b) and to (b, a) agree that a is the more relevant."""
    ab, ba = both_orders
    return ab.parsed and ba.parsed and ab.choice == 0 and ba.choice == 1


def beats(a: str, b: str) -> Generator[list[Ask], list[Answer], bool]:
    """Compare two documents in both orders: one comparison, two prompts."""
    return first_wins((yield [compare(a, b), compare(b, a)]))
