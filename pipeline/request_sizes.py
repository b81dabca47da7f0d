"""What a sample of requests comes to in the mean: tokens and FLOPs without the model's weights, time with them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from ..rerankers.backends import Backend, Request
from ..rerankers.backends._tokens import Tokens
from ..rerankers.flops import Shape, corrections, flops
from .progress import Advance


def sizes(sample: Sequence[Request], model: Backend) -> tuple[dict[str, float], dict[str, float]]:
    """A request's tokens and FLOPs, and the corrections of these, in the mean over a sample.

    Empty where the model has no tokenizer of its own, or nothing was asked; without FLOPs where it has no known shape.
    """
    tokens = getattr(model, "tokens", None)
    if not isinstance(tokens, Tokens) or not sample:
        return {}, {}
    shape = Shape.of(getattr(model, "config", None))
    rows: list[dict[str, float]] = []
    more: list[dict[str, float]] = []
    for request in sample:
        text, ids = tokens.prompt(request)
        target = len(tokens.target(request)) if request.prompt.target else 0
        written = tokens.answer_tokens(request) if request.scoring == "generation" else 0
        rows.append({"prompt_tokens": len(ids) + target, "completion_tokens": written})
        if shape is not None:
            answers = _answers(request, tokens, text, target or written)
            rows[-1]["flops"] = sum(flops(shape, len(ids), answer) for answer in answers)
            each = [corrections(shape, len(ids), answer) for answer in answers]
            more.append({name: sum(found[name] for found in each) for name in each[0]})
    return _means(rows), _means(more)


def _answers(request: Request, tokens: Tokens, text: str, length: int) -> list[int]:
    """The tokens of each answer that the model computes for a request: labels of several tokens are each computed."""
    if not length and request.prompt.answer.scored == "whole":
        return [len(label) for label in tokens.label_ids(request, text)]
    return [max(length, 1)]


def seconds_per_token(model: Backend, sample: Sequence[Request], limit: float, advance: Advance) -> float:
    """Seconds a prompt token of as much of the sample as the model answers within about so many seconds."""
    model.submit(sample[:1])
    model.collect()  # loads the weights: that is no part of the time
    model.submit(sample)
    answered = tokens = 0
    begun = time.perf_counter()
    while answered < len(sample) and (not answered or time.perf_counter() - begun < limit):
        for _, reply in model.collect():
            answered += 1
            tokens += reply.prompt_tokens or 0
        advance(answered)
    spent = time.perf_counter() - begun
    model.close()
    return spent / max(tokens, 1)


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]} if rows else {}
