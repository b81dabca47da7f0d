"""Fusion of a ranking with another run of the same documents.

A document that the other run lacks gets no share from it (`rrf`) or its lowest score (`interpolate`). Documents of
equal fused scores stay in the order of the ranking.
"""

from collections.abc import Mapping, Sequence

from .types import minmax

Scored = Sequence[tuple[str, float]]
"""Document ids with their scores, best first."""

RRF_K = 60  # of Cormack et al., who found it to serve many collections


def rrf(ranked: Scored, other: Scored, k: int = RRF_K) -> list[str]:
    """Return document ids by the sum of 1 / (k + rank) over both, ranks from 1: reciprocal rank fusion.

    Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009.
    """
    shares = {doc: 1 / (k + rank) for rank, (doc, _) in enumerate(ranked, 1)}
    for rank, (doc, _) in enumerate(other, 1):  # documents that are no candidates keep their places there
        if doc in shares:
            shares[doc] += 1 / (k + rank)
    return _best_first(ranked, shares)


def interpolate(ranked: Scored, other: Scored, alpha: float) -> list[str]:
    """Return document ids by alpha · the other run's score + (1 - alpha) · the ranking's.

    Both are scaled so that the candidates' scores reach from 0 to 1; if all are equal, all are 0.
    """
    ours = _scaled(dict(ranked))
    theirs = _scaled({doc: score for doc, score in other if doc in ours})
    return _best_first(ranked, {doc: alpha * theirs.get(doc, 0.0) + (1 - alpha) * ours[doc] for doc in ours})


def _scaled(scores: Mapping[str, float]) -> dict[str, float]:
    return dict(zip(scores, minmax(list(scores.values()), equal=0.0), strict=True))


def _best_first(ranked: Scored, fused: Mapping[str, float]) -> list[str]:
    return sorted((doc for doc, _ in ranked), key=lambda doc: -fused[doc])
