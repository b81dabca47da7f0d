"""Which prompts are computed together: those of like length, so that little is padding, as many as a batch may hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..base import Request, RequestSettings


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its prompt, as text and as the model's tokens."""

    request: Request
    text: str
    ids: list[int]


Batch = list[Prepared]


def planned(prompts: Sequence[Prepared], most: int, tokens: int) -> Iterator[Batch]:
    """Batches of prompts of the same terms, longest first: at most `most` prompts and `tokens` tokens with padding.

    Longest first, so that a batch too large for the memory is met at once. A prompt that is longer than `tokens` is a
    batch of its own.
    """
    on_terms: dict[RequestSettings, Batch] = {}
    for prompt in prompts:
        on_terms.setdefault(prompt.request.terms, []).append(prompt)
    for alike in on_terms.values():
        alike.sort(key=lambda prompt: -len(prompt.ids))
        while alike:
            size = max(1, min(most, tokens // max(1, len(alike[0].ids))))
            yield alike[:size]
            del alike[:size]
