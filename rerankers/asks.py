"""Kinds of ask: what asks of one kind have in common, a row a kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .types import Ask, AskKind, Scoring

Fields = dict[str, Any]
"""Values of an `Answer`'s fields, by name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What asks of one kind have in common."""

    text: Literal["label", "order", "selection", "ratings", "note", "none"]
    """What generated text is read for: see `answers.reading`."""

    neutral: Callable[[Ask], Fields] = lambda ask: {}  # noqa: ARG005
    """Return the value of an answer that cannot be read, where it is not that of an empty `Answer`."""

    scores: Literal["choice", "order", "mean", "number"] | None = None
    """What labels' log-probabilities become; None where labels are never scored."""

    outcome: str = ""
    """That in words."""

    scoring: Scoring | None = None
    """The only scoring it can be answered with; None for the ranker's."""

    counted: Literal["pair", "prompt"] | None = None
    """What a comparison is in the papers: a pair, in either order, or a prompt; None where none is counted."""

    labels: Literal["values", "documents"] | None = None
    """What the labels of a prompt must be: a mapping to values, or one a document; None where they may be either."""

    @property
    def several(self) -> bool:
        """Whether documents of a group are set against each other by their labels' first tokens."""
        return self.counted == "prompt" and self.scores is not None


def _as_presented(ask: Ask) -> Fields:
    count = len(ask.docs)
    return {"order": tuple(range(min(ask.limit or count, count)))}


def _no_relevance(ask: Ask) -> Fields:
    return {"scores": (-math.inf,) * len(ask.docs)}


MEAN = "the score is the mean of their values, weighted by their probabilities"
CHOICE = "the most probable one is the choice"
ORDER = "the order is that of their probabilities"

KINDS: Mapping[AskKind, Kind] = {
    "score": Kind("label", lambda _: {"scores": (0.0,)}, "mean", MEAN, labels="values"),
    "relevance": Kind("none", _no_relevance, "number", scoring="likelihood"),
    "likelihood": Kind("none", _no_relevance, "number", scoring="likelihood"),
    "compare": Kind("label", scores="choice", outcome=CHOICE, counted="pair", labels="documents"),
    "choose": Kind("label", scores="choice", outcome=CHOICE, counted="prompt", labels="documents"),
    "permute": Kind("order", _as_presented, "order", ORDER, counted="prompt"),
    "select": Kind("selection", _as_presented, "order", "the most probable ones are selected", counted="prompt"),
    "rate": Kind("ratings", _no_relevance, scoring="generation", counted="prompt"),
    "write": Kind("note", scoring="generation"),
    "derive": Kind("none"),
}
