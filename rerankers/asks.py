"""Kinds of ask: what asks of one kind have in common, a row a kind."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .types import Ask, AskKind, Scoring

Fields = dict[str, Any]
"""Values of an `Answer`'s fields, by name."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The meaning of one kind.

    Generated text is read for `text` (see `answers.reading`); labels' log-probabilities become `scores`, in words the
    `outcome`. `neutral` returns the fields of an answer that cannot be read. `scoring` is the only one possible, if not
    both are. A comparison in the papers is what `counted` says: a pair, in either order, a prompt, or nothing. The
    prompt's `labels` must be a mapping to values, or one a document, or may be either.
    """

    text: Literal["label", "order", "selection", "ratings", "note", "none"]
    neutral: Callable[[Ask], Fields] = lambda ask: {}  # noqa: ARG005
    scores: Literal["choice", "order", "mean", "number"] | None = None
    outcome: str = ""
    scoring: Scoring | None = None
    counted: Literal["pair", "prompt"] | None = None
    labels: Literal["values", "documents"] | None = None

    @property
    def several(self) -> bool:
        """Return whether documents of a group are set against each other by their labels' first tokens."""
        return self.counted == "prompt" and self.scores is not None


def _as_presented(ask: Ask) -> Fields:
    count = len(ask.docs)
    return {"order": tuple(range(min(ask.limit or count, count)))}


def _no_relevance(ask: Ask) -> Fields:
    return {"scores": (-math.inf,) * len(ask.docs)}


MEAN = "the score is the mean of their values, weighted by their probabilities"
HEAD = "the number that a cross-encoder's head gives; of two labels the second's log-probability, or logit if asked for"
CHOICE = "the most probable one is the choice"
ORDER = "the order is that of their probabilities"

KINDS: Mapping[AskKind, Kind] = {
    "score": Kind("label", lambda _: {"scores": (0.0,)}, "mean", MEAN, labels="values"),
    "relevance": Kind("none", _no_relevance, "number", HEAD, scoring="likelihood"),
    "likelihood": Kind("none", _no_relevance, "number", scoring="likelihood"),
    "compare": Kind("label", scores="choice", outcome=CHOICE, counted="pair", labels="documents"),
    "choose": Kind("label", scores="choice", outcome=CHOICE, counted="prompt", labels="documents"),
    "permute": Kind("order", _as_presented, "order", ORDER, counted="prompt"),
    "select": Kind("selection", _as_presented, "order", "the most probable ones are selected", counted="prompt"),
    "rate": Kind("ratings", _no_relevance, scoring="generation", counted="prompt"),
    "write": Kind("note", scoring="generation"),
    "derive": Kind("none"),
}
