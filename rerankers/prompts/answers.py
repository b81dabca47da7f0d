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

LabelRule = Literal["strict", "exact", "whole", "last_character"]
"""How a label is read from text: see `read_label`."""

PermutationRule = Literal["strict", "digits"]
"""How an order is read from text: see `read_permutation`."""

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


@dataclass(frozen=True, slots=True)
class Reading:
    """How text is read."""

    label: LabelRule = "strict"
    permutation: PermutationRule = "strict"


def read(ask: Ask, prompt: Prompt, reply: Reply, reading: Reading) -> Answer:
    """The answer that a reply gives to an ask."""
    choice: int | None = 0
    order: tuple[int, ...] | None = ()
    scores: tuple[float, ...] = reply.scores or ()
    labels = prompt.labels_for(len(ask.docs))
    if ask.kind == "permute":
        if reply.scores is not None:
            order = tuple(sorted(range(len(labels)), key=lambda i: -scores[i]))
        else:
            order = read_permutation(reply.text or "", len(ask.docs), reading.permutation)
    elif ask.kind == "likelihood":
        if reply.scores is None:  # a text gives no probability
            choice, scores = None, (-math.inf,)
    else:
        if reply.scores is not None:
            choice = max(range(len(labels)), key=scores.__getitem__)
        else:
            choice = read_label(reply.text or "", labels, reading.label)
        if isinstance(prompt.labels, dict):
            values = tuple(prompt.labels.values())
            scores = (expected_value(scores, values) if scores else 0.0 if choice is None else values[choice],)
    return Answer(
        choice=choice or 0,
        order=tuple(range(len(ask.docs))) if order is None else order,
        scores=scores,
        text=reply.text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        parsed=choice is not None and order is not None,
    )


def expected_value(log_probabilities: Sequence[float], values: Sequence[float]) -> float:
    """The labels' mean value under their probabilities, which are made to sum to one over these labels."""
    highest = max(log_probabilities)
    weights = [math.exp(p - highest) for p in log_probabilities]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)


def read_label(text: str, labels: Sequence[str], rule: LabelRule) -> int | None:
    """Which of the labels a text gives, as an index, or None.

    `strict`: the text is the label, in any case, with nothing around it but white space, punctuation and the word
    "Passage". As ielab/llm-rankers at b36517b reads it, for labels of one letter: `last_character` (setwise, T5),
    `exact` (pairwise, T5) and `whole` (the whole text, in upper case; llama).
    """
    if rule == "last_character":
        stated = text.strip()[-1:]
    elif rule == "exact":
        stated = text.removeprefix(" ")
    elif rule == "whole":
        stated = text.strip().upper()
    else:
        stated = re.sub(r"^passage\b", "", text.strip(AROUND_A_LABEL), flags=re.IGNORECASE).strip(AROUND_A_LABEL)
        labels, stated = [label.casefold() for label in labels], stated.casefold()
    return labels.index(stated) if stated in labels else None


def read_permutation(text: str, docs: int, rule: PermutationRule) -> tuple[int, ...] | None:
    """The order that a text gives to `docs` documents, as indices, best first; None where it gives none.

    `strict`: the longest chain of labels, `[2] > [1] > …`, else of bare numbers, `2 > 1`; a single label only where
    it is all there is. A number in prose is no label. `digits`: every number anywhere, as RankGPT's code reads it.
    Repeated and out-of-range labels are dropped, missing ones appended in the order presented.
    """
    if rule == "digits":
        # Not by isdigit(), for which "²" is a digit too; int() does not read it.
        numbers = [int(number) for number in re.findall(r"[0-9]+", text)]
    else:
        chains = [re.findall(r"\d+", chain) for pattern in CHAINS for chain in [_longest(pattern, text)] if chain]
        numbers = [int(number) for number in chains[0]] if chains else []
    stated = list(dict.fromkeys(number - 1 for number in numbers if 1 <= number <= docs))
    if not stated and rule == "strict":
        return None
    named = set(stated)
    return (*stated, *(i for i in range(docs) if i not in named))


CHAINS = (
    re.compile(r"\[\d+\](?:[\s>=,]*[>=,\s][\s>=,]*\[\d+\])+", re.ASCII),
    re.compile(r"(?<![\w.])\d+(?:\s*>\s*\d+)+(?![\w])", re.ASCII),
    re.compile(r"\A\W*\[?\d+\]?\W*\Z", re.ASCII),
)
"""Labels one after the other: in brackets; bare, with > between them; or a single one and nothing else."""


def _longest(pattern: re.Pattern[str], text: str) -> str:
    return max((match[0] for match in pattern.finditer(text)), key=len, default="")
