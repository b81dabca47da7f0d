"""Replies become answers here, label scores and generated text alike.

A text that cannot be read gives an answer with `parsed=False` and the neutral value of its kind; nothing is guessed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Any

from ..asks import KINDS, Fields
from ..types import Answer, Ask, AskKind
from . import labels, orders, ratings
from .labels import Found, LabelRule
from .orders import OrderRule
from .thinking import after_thinking

if TYPE_CHECKING:
    from ..prompts.template import Prompt


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a backend, as the ledger keeps it: `text`, as generated, or `scores`, or a text that has scores.

    The text lacks what the answer was made to begin with, but for the mark of a thought. Scores are log-probabilities
    over the whole vocabulary, one a label in the labels' order or that of a continuation, or a cross-encoder's number.
    """

    text: str | None = None
    scores: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


REFUSED, NO_PROBABILITY = "refused", "no_probability"
"""Reasons that an ask has no answer: the provider declined the prompt, or the labels have no log-probability."""

NO_ANSWER = re.compile(r"\A<no answer: (\w+)> ")


def no_answer(form: str, reason: str) -> str:
    """Return the text of a reply to an ask that has no answer: it is unread, in that form, whatever the reason says."""
    return f"<no answer: {form}> {reason}"


@dataclass(frozen=True, slots=True)
class Reading:
    """The rules by which text is read."""

    label: LabelRule = "strict"
    order: OrderRule = "strict"
    pattern: str | None = None  # of a text that it matches, what its first group captures that takes part is read


def describe(kind: AskKind, reading: Reading) -> str:
    """Return in words how the generated text of an answer is read, to follow "generated text"."""
    part = f", of which what {reading.pattern} captures" if reading.pattern else ""
    return (
        part
        + {
            "label": f", read by the rule '{reading.label}': {labels.RULES[reading.label]}",
            "order": f", read by the rule '{reading.order}': {orders.RULES[reading.order]}",
            "selection": f": {orders.SELECTION}",
            "ratings": f": {ratings.RATINGS}",
            "note": ": a note, shown in later prompts as it is, without the thought before it",
            "none": ", which gives no number",
        }[KINDS[kind].text]
    )


def read(ask: Ask, prompt: "Prompt", reply: Reply, reading: Reading) -> Answer:
    """Return the answer that a reply gives to an ask."""
    kind, scores, written = KINDS[ask.kind], reply.scores, prompt.answer.scored == "written"
    if scores is None or (written and reply.text is not None):
        missing = NO_ANSWER.match(reply.text or "")
        stated, fields = _of_text("" if missing else reply.text or "", ask, prompt, reading)
        if written and scores and stated.value is not None:
            fields["scores"] = tuple(value * math.exp(scores[0]) for value in fields["scores"])
        return Answer(
            **(kind.neutral(ask) | fields),
            text=reply.text,
            parsed=stated.value is not None,
            form=missing[1] if missing else stated.form,
        )
    choice, order, peak = 0, tuple[int, ...](), 0.0
    if kind.scores in ("choice", "mean"):
        choice = scores.index(max(scores))
    if kind.scores == "order":
        order = tuple(sorted(range(len(scores)), key=scores.__getitem__, reverse=True))[: ask.limit or None]
    elif kind.scores == "mean" and isinstance(prompt.labels, dict):
        values = tuple(prompt.labels.values())
        summed = prompt.answer.scored == "logit"
        peak = scores[values.index(max(values))]
        scores = (sum(map(mul, scores, values)) if summed else expected_value(scores, values),)
    return Answer(choice, order, scores, peak, text=reply.text)


def span_of(pattern: str, text: str) -> tuple[int, int] | None:
    """Return where the first group lies that takes part in the pattern's first match, or None if there is none."""
    match = re.search(pattern, text)
    spans = map(match.span, range(1, match.re.groups + 1)) if match else ()
    return next((span for span in spans if span != (-1, -1)), None)


def _of_text(text: str, ask: Ask, prompt: "Prompt", reading: Reading) -> tuple[Found[Any], Fields]:
    names, sought = prompt.labels_of(ask), KINDS[ask.kind].text
    if reading.pattern:
        span = span_of(reading.pattern, text)
        if span is None:
            return Found(None, "no_match"), {}
        text = text[slice(*span)]
    if sought == "selection":
        order = orders.read_selection(text, names, ask.limit)
    elif sought == "order":
        order = orders.read_order(text, names, reading.order)
    if sought in ("order", "selection"):
        return order, {} if order.value is None else {"order": order.value}
    if sought == "ratings":
        rated = ratings.read_ratings(text, names)
        return rated, {"scores": tuple(-math.inf if it is None else it for it in rated.value)} if rated.value else {}
    if sought == "note":
        note = (after_thinking(text) or "").strip()
        return Found(note or None, "note" if note else "empty"), {"note": note}
    if sought == "none":
        return Found(None, "text"), {}
    if prompt.scores_numbers(ask.kind):
        number = ratings.read_number(text)
        return number, {} if number.value is None else {"peak": number.value, "scores": (number.value,)}
    label = labels.read_label(text, names, reading.label)
    if label.value is None and reading.label != "strict" and isinstance(prompt.labels, tuple):
        return label, {"outside": labels.read_label(text, prompt.labels, reading.label).value}
    if label.value is not None and isinstance(prompt.labels, dict):
        value = prompt.labels[names[label.value]]
        return label, {"choice": label.value, "peak": value, "scores": (value,)}
    return label, {"choice": label.value or 0}


def expected_value(log_probabilities: Sequence[float], values: Sequence[float]) -> float:
    """Return the labels' mean value under their probabilities, which are made to sum to one over these labels."""
    highest = max(log_probabilities)
    weights = [math.exp(p - highest) for p in log_probabilities]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
