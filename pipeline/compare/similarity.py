"""Similarity of two rankings of a query, and reproduction of the effect of an original run."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import TIE, Values

PERSISTENCE = 0.9
"""RBO's p: 86 % of the weight is in the top ten."""

BLOCK = 4_000_000  # comparisons of documents that are held at once

TOP = 10
"""Depth of the overlap."""


def of_pairs(rankings: Sequence[Sequence[str]], pairs: ArrayLike) -> tuple[Values, Values, Values]:
    """Return Kendall's τ, RBO and the overlap of pairs of rankings, which are told by their numbers.

    τ is over the documents that both have; NaN for fewer than two. The overlap is the share of the first `TOP` that
    they have in common. RBO is the extrapolated rank-biased overlap, to the depth k of the shorter one:
    RBO_ext = (1 - p)/p · Σ X_d/d · p^d + X_k/k · p^k (Webber et al. 2010), with X_d the overlap at depth d.
    """
    docs = {doc: column for column, doc in enumerate(dict.fromkeys(chain.from_iterable(rankings)))}
    narrow = np.min_scalar_type(len(docs))  # a few times as fast as 64 bits
    lengths = np.array([len(ranking) for ranking in rankings], dtype=narrow)
    ranks = np.full((len(rankings), len(docs)), len(docs), dtype=narrow)
    for row, ranking in enumerate(rankings):
        ranks[row, list(map(docs.__getitem__, ranking))] = np.arange(len(ranking))
    one, other = np.asarray(pairs).T
    lower, shorter = np.maximum(ranks[one], ranks[other]), np.minimum(lengths[one], lengths[other])
    longer = np.minimum(TOP, np.maximum(lengths[one], lengths[other]))
    with np.errstate(invalid="ignore"):
        overlaps = np.where(longer, (lower < longer[:, None]).sum(axis=1) / longer, 1.0)
        depths = np.arange(1, len(docs) + 1)
        weights = np.concatenate([[0.0], np.cumsum(PERSISTENCE**depths / depths)])
        # Common from a depth on, a document adds the weights of that depth to the last; otherwise nothing.
        below = weights[np.minimum(lower, shorter[:, None])].sum(axis=1)
        weighted = len(docs) * weights[shorter] - below
        common = (lower < shorter[:, None]).sum(axis=1)
        rest = common / shorter * PERSISTENCE**shorter
        rbos = np.where(shorter, (1 - PERSISTENCE) / PERSISTENCE * weighted + rest, lengths[one] == lengths[other])
    return _taus(ranks)[one, other], rbos, overlaps


def _taus(ranks: NDArray[np.unsignedinteger[Any]]) -> Values:
    """Return Kendall's τ of every two rows of ranks, the number of documents being the rank of a missing one."""
    runs, docs = ranks.shape
    columns, there = np.ascontiguousarray(ranks.T), np.ascontiguousarray((ranks < docs).T)
    agreeing, compared = np.zeros((runs, runs)), np.zeros((runs, runs))
    step = max(1, BLOCK // max(1, ranks.size))
    for start in range(0, docs, step):
        firsts = range(start, min(start + step, docs))  # each pair once, with those behind
        signs = np.concatenate([columns[doc] < columns[doc + 1 :] for doc in firsts]).astype(np.float32)
        signs -= 0.5  # half a sign: 1/2 or -1/2
        if not there.all():
            both = np.concatenate([there[doc] & there[doc + 1 :] for doc in firsts]).astype(np.float32)
            signs *= both
        agreeing += 4 * (signs.T @ signs)
        compared += len(signs) if there.all() else both.T @ both
    with np.errstate(invalid="ignore"):
        return agreeing / compared


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
