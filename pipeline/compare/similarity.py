"""How alike two rankings of a query are, and how far a run reproduces the effect of an original one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .statistics import TIE, Values

PERSISTENCE = 0.9
"""RBO's p: 86 % of the weight is in the top ten."""

TOP = 10
"""Depth of the overlap."""


def overlap(a: Sequence[str], b: Sequence[str], depth: int = TOP) -> float:
    """Return the share of the first `depth` documents that two rankings have in common."""
    depth = min(depth, max(len(a), len(b)))
    return len(set(a[:depth]) & set(b[:depth])) / depth if depth else 1.0


def rbo(a: Sequence[str], b: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return the extrapolated rank-biased overlap of two rankings without ties, to the depth of the shorter one.

    RBO_ext = (1 - p)/p · Σ X_d/d · p^d + X_k/k · p^k (Webber et al. 2010), with X_d the overlap at depth d.
    """
    depth = min(len(a), len(b))
    if depth == 0:
        return 1.0 if len(a) == len(b) else 0.0
    first, second = set[str](), set[str]()
    common, weighted = 0, 0.0
    for d, (one, other) in enumerate(zip(a, b, strict=False), 1):
        first.add(one)
        second.add(other)
        common += 1 if one == other else (one in second) + (other in first)
        weighted += common / d * p**d
    return (1 - p) / p * weighted + common / depth * p**depth


def kendall(a: Sequence[str], b: Sequence[str]) -> float | None:
    """Return Kendall's τ of two rankings over the documents they share; None for fewer than two."""
    from scipy import stats

    positions = {doc: rank for rank, doc in enumerate(b)}
    shared = [positions[doc] for doc in a if doc in positions]
    return float(stats.kendalltau(range(len(shared)), shared).statistic) if len(shared) > 1 else None


def average_precision_correlation(ranking: Sequence[str], reference: Sequence[str]) -> float | None:
    """Return τ_AP of a ranking given the reference (Yilmaz et al. 2008) over the documents they share."""
    positions = {doc: rank for rank, doc in enumerate(reference)}
    shared = [positions[doc] for doc in ranking if doc in positions]
    if len(shared) < 2:
        return None
    agreeing = [sum(above < position for above in shared[:i]) / i for i, position in enumerate(shared) if i]
    return 2 * sum(agreeing) / len(agreeing) - 1


def root_mean_square_error(original: Values, reproduced: Values) -> float:
    """Return the RMSE of per-query values."""
    return float(np.sqrt(np.mean((original - reproduced) ** 2)))


def effect_ratio(base: Values, advanced: Values, base_again: Values, advanced_again: Values) -> float | None:
    """Return the reproduced mean effect over the original one (Breuer et al. 2020): 1 reproduced, below 0 reversed.

    None where the original runs do not differ.
    """
    effect = float(np.mean(advanced - base))
    return float(np.mean(advanced_again - base_again)) / effect if abs(effect) > TIE else None


def relative_improvement_change(
    base: Values, advanced: Values, base_again: Values, advanced_again: Values
) -> float | None:
    """Return ΔRI, the original relative improvement minus the reproduced one; None where a baseline's mean is 0."""
    if not base.mean() or not base_again.mean():
        return None
    return float((advanced.mean() / base.mean()) - (advanced_again.mean() / base_again.mean()))
