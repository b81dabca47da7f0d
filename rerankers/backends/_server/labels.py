"""Labels' log-probabilities out of the list of most probable tokens that a server gives with its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...answers.reading import NO_PROBABILITY, Reply, no_answer

IMPOSSIBLE = -9999.0  # vLLM and OpenAI write this, or less, for the logarithm of nothing
ROUNDING = 1e-4  # a logarithm so little above 0 is one of 1 that was rounded

Rows = Sequence[tuple[str, Any]]  # listed tokens as text, the most probable first, with what the server says of each
Listed = Sequence[tuple[str, float]]  # those that have a log-probability


@dataclass(slots=True)
class Listing:
    """The tokens that a reply lists for one prompt, and the labels' log-probabilities in it."""

    scores: list[float | None]
    listed: Listed
    text: str
    prompt_tokens: int | None

    @classmethod
    def of(cls, rows: Rows, find: Callable[[Listed], list[float | None]], text: str, tokens: int | None) -> Listing:
        """Return the listing of the rows, in which `find` finds the labels."""
        listed = [(token, p) for token, value in rows if (p := log_probability(value)) is not None]
        scores = find(listed)
        if scores.count(None) == len(scores) > find([(token, 0.0) for token, _ in rows]).count(None):
            text = no_answer(NO_PROBABILITY, "the labels are listed without a log-probability")
        return cls(scores, listed, text, tokens)

    @property
    def reply(self) -> Reply:
        """The labels' scores, or if none is known the text that the model would have said instead."""
        scores = bounded(self.scores, [p for _, p in self.listed])
        return Reply(None if scores else self.text, tuple(scores) if scores else None, self.prompt_tokens, 0)


def log_probability(value: object) -> float | None:
    """Return the log-probability, at most 0, that a server's value is, or None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not IMPOSSIBLE < value <= ROUNDING:
        return None
    return min(float(value), 0.0)


def by_text(listed: Listed, labels: Sequence[str], gap: str = "") -> list[float | None]:
    """Return each label's log-probability, or None if it is not listed.

    A token stands for the label that it is, after the `gap` that the answer begins with, or but for white space around
    it; of a label of several words it may be the first, if no other label begins with that. Of several such tokens the
    first kind counts, and then the most probable.
    """
    exact = dict(reversed(listed))  # the most probable come first, and stay
    scores = [exact.get(gap + label) for label in labels]
    if None in scores:
        bare = {token.strip(): p for token, p in sorted(listed, key=lambda row: row[1])}
        begins = [label.split(maxsplit=1)[0] for label in labels]
        for i, (label, first) in enumerate(zip(labels, begins, strict=True)):
            if scores[i] is None:
                scores[i] = bare.get(label, bare.get(first) if begins.count(first) == 1 else None)
    return scores


def bounded(scores: Sequence[float | None], listed: Sequence[float]) -> list[float] | None:
    """Return the scores, with the most that it can be for a label that is not listed, or None if no label is.

    That is the least of the listed log-probabilities, or all the probability that the list leaves if that is less. The
    best label stays the best one, and labels that are not listed come after those that are, all alike.
    """
    known = [score for score in scores if score is not None]
    if len(known) == len(scores) or not known:
        return known or None
    left = 1.0 - math.fsum(math.exp(p) for p in listed)
    # No probability left: rounding has taken what is not listed, which is then far below the rest.
    most = min(min(listed), math.log(left)) if left > 0 else min(listed)
    return [most if score is None else score for score in scores]


def shifted(scores: Sequence[float | None], among_labels: Sequence[float]) -> list[float] | None:
    """Return log-probabilities over the whole vocabulary from those among the labels, or None if no label is listed.

    Both differ by one number, which the most probable of the listed labels tells.
    """
    known = [(score, i) for i, score in enumerate(scores) if score is not None]
    if not known:
        return None
    score, best = max(known)
    return [among_labels[i] + score - among_labels[best] if known is None else known for i, known in enumerate(scores)]


def are_log_probabilities(values: Mapping[str, object]) -> bool:
    """Return whether these can be log-probabilities of different tokens, and are not, say, logits."""
    known = [number for value in values.values() if (number := log_probability(value)) is not None]
    logits = any(type(value) in (int, float) and ROUNDING < value < math.inf for value in values.values())  # type: ignore[operator]
    return bool(known) and not logits and math.fsum(map(math.exp, known)) <= 1.001
