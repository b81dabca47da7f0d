"""Batches of prompts of like length, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...answers.thinking import opened_thought
from ..base import Request, RequestSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its prompt, as text and as the model's tokens."""

    request: Request
    text: str
    ids: list[int]

    @property
    def thought(self) -> str:
        """Return the mark of a thought that the chat template has begun for the answer, or ""."""
        return opened_thought(self.text)


Batch = list[Prepared]


def planned(prompts: Sequence[Prepared], most: int, tokens: int) -> Iterator[Batch]:
    """Yield batches with equal settings of at most `most` prompts and `tokens` tokens, unless one alone has more.

    The longest come first, so that a batch too large for the memory is met at once.
    """
    by_settings: dict[RequestSettings, Batch] = {}
    for prompt in prompts:
        by_settings.setdefault(prompt.request.terms, []).append(prompt)
    for alike in by_settings.values():
        alike.sort(key=lambda prompt: -len(prompt.ids))
        while alike:
            size = max(1, min(most, tokens // max(1, len(alike[0].ids))))
            yield alike[:size]
            del alike[:size]
