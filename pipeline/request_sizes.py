"""What a sample of requests comes to in the mean: tokens and FLOPs without the model's weights, time with them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..rerankers.answers.reading import Reading, Reply, read
from ..rerankers.backends._tokens.tokens import Tokens
from ..rerankers.backends.base import Backend, Request
from ..rerankers.flops import Shape, corrections, of_answer, readings
from .io.progress import Advance


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tokens and FLOPs of a request, in the mean over a sample; FLOPs are null where the model's shape is not known."""

    prompt_tokens: float
    completion_tokens: float
    flops: float | None
    corrections: Mapping[str, float]
    """FLOPs that the published estimate leaves out, by name; none where the model's shape is not known."""

    bounded: bool
    """Whether completion tokens are the most there can be, and FLOPs with them."""

    requests: int = 1
    """Of how many it is the mean."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the real model answered of a sample: requests with replies, and the time that one takes."""

    replies: Sequence[tuple[Request, Reply]]
    seconds: float
    """Of a request, in the mean."""

    loading: float
    """How long the first reply took, for which the model was loaded."""

    @property
    def completion_tokens(self) -> float | None:
        """Of a reply, in the mean; None where one does not say."""
        counts = [reply.completion_tokens for _, reply in self.replies]
        known = [count for count in counts if count is not None]
        return statistics.fmean(known) if known and len(known) == len(counts) else None

    @property
    def note(self) -> str:
        """The note of median length."""
        notes = [read(request.ask, request.prompt, reply, Reading()).note for request, reply in self.replies]
        return sorted(notes, key=len)[len(notes) // 2]


def sizes(sample: Sequence[Request], model: Backend, answered: Answered | None) -> Sizes | None:
    """The sizes of a sample of requests, by the model's tokenizer, or else by what the model said of its replies.

    How much is written is known from replies, else it is the most there can be. None where nothing counts tokens.
    """
    tokens, shape = model.tokens, model.shape
    rows = [row for reply in answered.replies if (row := _reported(*reply, shape))] if answered else []
    written = answered.completion_tokens if answered else None
    if tokens is not None:
        rows = [_counted(request, tokens, shape, written) for request in sample]
    if not rows:
        return None
    return Sizes(
        prompt_tokens=statistics.fmean(row.prompt_tokens for row in rows),
        completion_tokens=statistics.fmean(row.completion_tokens for row in rows),
        flops=statistics.fmean(row.flops for row in rows if row.flops is not None) if shape else None,
        corrections={name: statistics.fmean(row.corrections[name] for row in rows) for name in rows[0].corrections},
        bounded=any(row.bounded for row in rows),
        requests=len(rows),
    )


def _counted(request: Request, tokens: Tokens, shape: Shape | None, written: float | None) -> Sizes:
    """What the tokenizer says of a request, given how many tokens are written if that is known."""
    text, ids = tokens.prompt(request)
    target = len(tokens.target(request)) if request.prompt.target else 0
    generates = request.scoring == "generation"
    completion = 0.0 if not generates else tokens.answer_tokens(request) if written is None else written
    answers = [target or max(round(completion), 1)]
    if not generates and not target and request.prompt.answer.scored == "whole":
        answers = [len(label) for label in tokens.label_ids(request, text)]
    prompt = len(ids) + target
    left_out = _left_out(shape, len(ids), answers)
    bounded = generates and written is None
    return Sizes(prompt, completion, _flops(request, shape, prompt, completion), left_out, bounded)


def _reported(request: Request, reply: Reply, shape: Shape | None) -> Sizes | None:
    """What a reply says of its request; None where it says nothing."""
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    if prompt is None or completion is None:
        return None
    left_out = _left_out(shape, prompt, [max(completion, 1)])
    return Sizes(prompt, completion, _flops(request, shape, prompt, completion), left_out, bounded=False)


def _flops(request: Request, shape: Shape | None, prompt: int, completion: float) -> float | None:
    """The operations of a request, as a run counts them."""
    if shape is None:
        return None
    times = readings(request.prompt, request.ask) if request.scoring == "likelihood" else 1
    return of_answer(shape, prompt, round(completion), times)


def _left_out(shape: Shape | None, prompt: int, answers: Sequence[int]) -> Mapping[str, float]:
    """What the published estimate leaves out of a request with answers of so many tokens."""
    each = [corrections(shape, prompt, answer) for answer in answers] if shape else []
    return {name: sum(row[name] for row in each) for name in each[0]} if each else {}


def renoted(sample: Sequence[Request], notes: Mapping[str, str]) -> list[Request]:
    """The sample with other notes in its asks: those that `notes` has something to put in the place of."""

    def mended(request: Request) -> Request:
        told = tuple((name, notes.get(note, note)) for name, note in request.ask.notes)
        return dataclasses.replace(request, ask=dataclasses.replace(request.ask, notes=told))

    return [mended(request) if request.ask.notes else request for request in sample]


def ask(model: Backend, sample: Sequence[Request], together: int, limit: float, advance: Advance) -> Answered:
    """Have the model answer as much of a sample as it does in about so many seconds.

    Asks are put in growing portions, up to as many as the method puts `together`: only those near that size tell how
    long one takes. The time of the first request, which loads the model, is kept apart.
    """
    opened = time.perf_counter()
    replies = _answers(model, sample[:1])
    loading = time.perf_counter() - opened
    timed: list[tuple[int, float, Sequence[tuple[Request, Reply]]]] = []
    place, size, begun = min(1, len(sample) - 1), 1, time.perf_counter()
    while place < len(sample) and (not timed or time.perf_counter() - begun < limit):
        portion = sample[place : place + size]
        started = time.perf_counter()
        answered = _answers(model, portion)
        timed.append((size, time.perf_counter() - started, answered))
        replies += answered
        place, size = place + len(portion), min(2 * size, max(together, 1))
        advance(place)
    largest = max(size for size, _, _ in timed)
    telling = [(spent, answered) for size, spent, answered in timed if 2 * size >= largest]
    seconds = sum(spent for spent, _ in telling) / sum(len(answered) for _, answered in telling)
    return Answered(replies, seconds, loading)


def _answers(model: Backend, requests: Sequence[Request]) -> list[tuple[Request, Reply]]:
    model.submit(requests)
    found: list[tuple[Request, Reply]] = []
    while len(found) < len(requests):
        found += model.collect()
    return found
