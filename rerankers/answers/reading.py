"""Reading a model's reply: the one place where label scores and generated text become answers.

A text that cannot be read gives an answer with `parsed=False` and the neutral value of its kind; nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..prompts.template import Prompt
from ..types import Answer, Ask, AskKind
from . import parsing
from .parsing import Found, LabelRule, PermutationRule


@dataclass(frozen=True, slots=True)
class Reply:
    """What a backend returns, and what the ledger keeps.

    Either `text`, as generated (what the answer was made to begin with is not in it), or `scores`: one
    log-probability a label, over the whole vocabulary, in the labels' order; of a continuation its log-probability;
    of a cross-encoder the number its head gives.
    """

    text: str | None = None
    scores: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


REFUSED, NO_PROBABILITY = "refused", "no_probability"
"""Why an ask has no answer: the provider declined the prompt, or the labels have no log-probability."""

NO_ANSWER = re.compile(r"\A<no answer: (\w+)> ")


def no_answer(form: str, reason: str) -> str:
    """Return the text of a reply to an ask that has no answer: it is unread, in that form, whatever the reason says."""
    return f"<no answer: {form}> {reason}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How text is read."""

    label: LabelRule = "strict"
    permutation: PermutationRule = "strict"


OTHER_TEXTS: Mapping[AskKind, str] = {
    "select": "the labels on the last line that holds nothing else, or a list of one a line; no more than asked for",
    "rate": "a score for each label: a JSON object, or lines such as 'Doc: 3, Relevance: 7' or '[3]: 7'",
    "write": "a note, shown in later prompts as it is, without the thought before it",
}
"""How the texts of the kinds that have one rule only are read."""


def read(ask: Ask, prompt: Prompt, reply: Reply, reading: Reading) -> Answer:
    """The answer that a reply gives to an ask."""
    labels = prompt.labels_of(ask)
    if reply.scores is not None:
        return _by_scores(ask, prompt, reply, reply.scores)
    missing = NO_ANSWER.match(reply.text or "")
    text, docs = "" if missing else reply.text or "", len(ask.docs)
    choice, order, scores, peak, note, outside = 0, tuple[int, ...](), tuple[float, ...](), 0.0, "", None
    found: Found[Any]
    if ask.kind == "permute":
        found = parsing.read_permutation(text, labels, reading.permutation)
        order = tuple(range(docs)) if found.value is None else found.value
    elif ask.kind == "select":
        found = parsing.read_selection(text, labels, ask.limit)
        order = tuple(range(min(ask.limit, docs))) if found.value is None else found.value
    elif ask.kind == "rate":
        found = parsing.read_ratings(text, labels)
        scores = tuple(-math.inf if score is None else score for score in found.value or (None,) * docs)
    elif ask.kind == "write":
        note = (parsing.after_thinking(text) or "").strip()
        found = Found(note or None, "note" if note else "empty")
    elif ask.kind in ("likelihood", "relevance"):  # a text gives no number
        found = Found(None, "text")
        scores = (-math.inf,)
    else:
        found = parsing.read_label(text, labels, reading.label)
        choice = found.value or 0
        if found.value is None and reading.label != "strict" and isinstance(prompt.labels, tuple):
            outside = parsing.read_label(text, prompt.labels, reading.label).value
        if isinstance(prompt.labels, dict):
            peak = 0.0 if found.value is None else prompt.labels[labels[choice]]
            scores = (peak,)
    return Answer(
        choice=choice,
        order=order,
        scores=scores,
        peak=peak,
        note=note,
        text=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        parsed=found.value is not None and not missing,
        form=missing[1] if missing else found.form,
        outside=outside,
    )


def describe(kind: AskKind, reading: Reading) -> str:
    """Return in words how the generated text of an answer is read, to follow "generated text"."""
    if kind == "permute":
        return f", read by the rule '{reading.permutation}': {parsing.ORDER_RULES[reading.permutation]}"
    if kind in OTHER_TEXTS:
        return f": {OTHER_TEXTS[kind]}"
    return f", read by the rule '{reading.label}': {parsing.LABEL_RULES[reading.label]}"


def _by_scores(ask: Ask, prompt: Prompt, reply: Reply, scores: tuple[float, ...]) -> Answer:
    """The answer that label scores give: the best label, their order, or their mean value."""
    choice, order, peak = 0, tuple[int, ...](), 0.0
    if ask.kind in ("permute", "select"):
        order = tuple(sorted(range(len(scores)), key=lambda i: -scores[i]))[: ask.limit or None]
    elif isinstance(prompt.labels, dict):
        values = tuple(prompt.labels.values())
        peak = scores[values.index(max(values))]
        scores = (expected_value(scores, values),)
    elif ask.kind not in ("likelihood", "relevance"):
        choice = scores.index(max(scores))
    return Answer(
        choice=choice,
        order=order,
        scores=scores,
        peak=peak,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


def expected_value(log_probabilities: Sequence[float], values: Sequence[float]) -> float:
    """The labels' mean value under their probabilities, which are made to sum to one over these labels."""
    highest = max(log_probabilities)
    weights = [math.exp(p - highest) for p in log_probabilities]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
