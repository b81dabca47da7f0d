"""Reading a model's reply: the one place where label scores and generated text become answers.

A text that cannot be read gives an answer with `parsed=False` and the neutral value of its kind; nothing is guessed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..types import Answer, Ask
from .prompts import Prompt

LabelRule = Literal["strict", "whole", "last_character"]
"""How a label is read from text: see `read_label`."""

AROUND_A_LABEL = " \t\r\n\"'*[]().:"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a backend returns, and what the ledger keeps.

    Either `text`, as generated (what the answer was made to begin with is not in it), or `scores`: one
    log-probability a label, over the whole vocabulary, in the labels' order.
    """

    text: str | None = None
    scores: tuple[float, ...] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def read(ask: Ask, prompt: Prompt, reply: Reply, rule: LabelRule) -> Answer:
    """The answer that a reply gives to an ask of kind score, compare or choose."""
    labels = prompt.labels_for(len(ask.docs))
    values = tuple(prompt.labels.values()) if isinstance(prompt.labels, dict) else ()
    if reply.scores is not None:
        choice: int | None = max(range(len(labels)), key=reply.scores.__getitem__)
        scores = (expected_value(reply.scores, values),) if values else reply.scores
    else:
        choice = read_label(reply.text or "", labels, rule)
        scores = (0.0 if choice is None else values[choice],) if values else ()
    return Answer(
        choice=choice or 0,
        scores=scores,
        text=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        parsed=choice is not None,
    )


def expected_value(log_probabilities: Sequence[float], values: Sequence[float]) -> float:
    """The labels' mean value under their probabilities, which are made to sum to one over these labels."""
    highest = max(log_probabilities)
    weights = [math.exp(p - highest) for p in log_probabilities]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def read_label(text: str, labels: Sequence[str], rule: LabelRule) -> int | None:
    """Which of the labels a text gives, as an index, or None.

    `strict`: the text is the label, in any case, with nothing around it but white space, punctuation and the word
    "Passage". As ielab/llm-rankers at b36517b reads it, for labels of one letter: `last_character` (T5) and
    `whole` (the whole text, in upper case; llama).
    """
    if rule == "last_character":
        stated = text.strip()[-1:]
    elif rule == "whole":
        stated = text.strip().upper()
    else:
        stated = re.sub(r"^passage\b", "", text.strip(AROUND_A_LABEL), flags=re.IGNORECASE).strip(AROUND_A_LABEL)
        labels, stated = [label.casefold() for label in labels], stated.casefold()
    return labels.index(stated) if stated in labels else None
