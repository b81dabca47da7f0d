"""Labels' log-probabilities out of the list of most probable tokens that a server gives with its answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

IMPOSSIBLE = -9999.0
"""What vLLM and OpenAI write for the logarithm of nothing: it, and what is less, says no probability."""

ROUNDING = 1e-4
"""A logarithm so little above 0 is one of 1 that was rounded."""


def log_probability(value: object) -> float | None:
    """The log-probability that a server's value is, at most 0; None where it cannot be one: then it is not listed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not IMPOSSIBLE < value <= ROUNDING:
        return None
    return min(float(value), 0.0)


def by_text(listed: Sequence[tuple[str, float]], labels: Sequence[str], gap: str = "") -> list[float | None]:
    """Each label's log-probability, None where it is not listed, from tokens as text and their log-probabilities.

    A token stands for the label that it is, after the `gap` that the answer begins with, or but for white space around
    it; of a label of several words it may be the first, if no other label begins with that. Of several such tokens the
    first kind counts, and then the most probable.
    """
    exact = dict(reversed(listed))  # the most probable come first, and stay
    found = [exact.get(gap + label) for label in labels]
    if None in found:
        bare = {token.strip(): p for token, p in sorted(listed, key=lambda row: row[1])}
        begins = [label.split(maxsplit=1)[0] for label in labels]
        for i, (label, first) in enumerate(zip(labels, begins, strict=True)):
            if found[i] is None:
                found[i] = bare.get(label, bare.get(first) if begins.count(first) == 1 else None)
    return found


def bounded(found: Sequence[float | None], listed: Sequence[float]) -> list[float] | None:
    """The same, with the most that it can be for a label that is not listed; None where no label is.

    That is the least of the listed log-probabilities, or all the probability that the list leaves if that is less. The
    best label stays the best one, and labels that are not listed come after those that are, all alike.
    """
    known = [score for score in found if score is not None]
    if len(known) == len(found) or not known:
        return known or None
    left = 1.0 - math.fsum(math.exp(p) for p in listed)
    most = min(min(listed), math.log(left) if left > 0 else -math.inf)
    # No probability left: rounding has taken what is not listed, which is then far below the rest.
    most = most if math.isfinite(most) else min(listed)
    return [most if score is None else score for score in found]


def shifted(found: Sequence[float | None], among_labels: Sequence[float]) -> list[float] | None:
    """Log-probabilities over the whole vocabulary from those among the labels alone; None where no label is listed.

    Both differ by one number, which the most probable of the listed labels tells.
    """
    known = [(score, i) for i, score in enumerate(found) if score is not None]
    if not known:
        return None
    score, best = max(known)
    return [among_labels[i] + score - among_labels[best] if own is None else own for i, own in enumerate(found)]


def are_log_probabilities(values: Mapping[str, object]) -> bool:
    """Whether these can be log-probabilities of different tokens, and are not, say, logits."""
    numbers = [log_probability(value) for value in values.values()]
    known = [number for number in numbers if number is not None]
    logits = any(type(value) in (int, float) and ROUNDING < value < math.inf for value in values.values())  # type: ignore[operator]
    return bool(known) and not logits and math.fsum(map(math.exp, known)) <= 1.001
