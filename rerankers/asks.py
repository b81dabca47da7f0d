"""Kinds of ask: what asks of one kind have in common, a row a kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .types import AskKind, Scoring


@dataclass(frozen=True, slots=True)
class Kind:
    """What asks of one kind have in common."""

    outcome: str = ""
    """What the labels' log-probabilities become, in words; empty where labels are never scored."""

    scoring: Scoring | None = None
    """The only scoring it can be answered with; None for the ranker's."""

    counted: Literal["pair", "prompt"] | None = None
    """What a comparison is in the papers: a pair, in either order, or a prompt; None where none is counted."""

    labels: Literal["values", "documents"] | None = None
    """What the labels of a prompt must be: a mapping to values, or one a document; None where they may be either."""

    orders: bool = False
    """Whether documents are set against each other by the first token of their labels."""


CHOICE = "the most probable one is the choice"

KINDS: Mapping[AskKind, Kind] = {
    "score": Kind("the score is the mean of their values, weighted by their probabilities", labels="values"),
    "relevance": Kind("the number that a cross-encoder's head gives", scoring="likelihood"),
    "likelihood": Kind("the sum over the query's tokens", scoring="likelihood"),
    "compare": Kind(CHOICE, counted="pair", labels="documents"),
    "choose": Kind(CHOICE, counted="prompt", labels="documents", orders=True),
    "permute": Kind("the order is that of their probabilities", counted="prompt", orders=True),
    "select": Kind("the most probable ones are selected", counted="prompt", orders=True),
    "rate": Kind(scoring="generation", counted="prompt"),
    "write": Kind(scoring="generation"),
    "derive": Kind(),
}
