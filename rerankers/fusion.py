"""Fusion: the order of a ranking and of another run of the same documents become one.

A document that the other run lacks has no share in it (`rrf`) or its lowest score (`interpolate`). Documents of equal
fused scores stay in the order of the ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .types import minmax

Scored = Sequence[tuple[str, float]]
"""Document ids with their scores, best first."""

RRF_K = 60
"""What Cormack et al. found to serve many collections."""


def rrf(ranked: Scored, other: Scored, k: int = RRF_K) -> list[str]:
    """Document ids by the sum of 1 / (k + rank) over both, ranks from 1: reciprocal rank fusion.

    Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009.
    """
    candidates = {doc for doc, _ in ranked}
    shares = {doc: 1 / (k + rank) for rank, (doc, _) in enumerate(ranked, 1)}
    # A document's rank in the other run is the one it has there: other documents keep their places.
    for rank, (doc, _) in enumerate(other, 1):
        if doc in candidates:
            shares[doc] += 1 / (k + rank)
    return _best_first(ranked, shares)


def interpolate(ranked: Scored, other: Scored, alpha: float) -> list[str]:
    """Document ids by alpha · the other run's score + (1 - alpha) · the ranking's, both scaled to 0 … 1 a query.

    The scale is that of the candidates' scores, minimum to maximum; where all are equal, all are 0.
    """
    candidates = {doc for doc, _ in ranked}
    theirs = _scaled({doc: score for doc, score in other if doc in candidates})
    ours = _scaled(dict(ranked))
    return _best_first(ranked, {doc: alpha * theirs.get(doc, 0.0) + (1 - alpha) * ours[doc] for doc in ours})


def _scaled(scores: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(scores, minmax(list(scores.values()), equal=0.0), strict=True))


def _best_first(ranked: Scored, fused: Mapping[str, float]) -> list[str]:
    return sorted((doc for doc, _ in ranked), key=lambda doc: -fused[doc])
