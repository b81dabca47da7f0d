"""Statistics of paired per-query values: tests, intervals, corrections and effect sizes.

All functions take arrays of one value a query, both in the same order of queries. SciPy is imported where it is used:
`scipy.stats` is slow to import.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Test = Literal["t", "wilcoxon", "permutation", "tukey"]
Correction = Literal["holm", "bh", "none"]
Values = NDArray[np.float64]

TIE = 1e-9
"""Absolute difference up to which two values of a query are a tie."""

RESAMPLES = 100_000
"""Sign flips of a permutation test; all of them where 2ⁿ is no more."""

BOOTSTRAPS = 10_000

DRAWN_ONCE = 1000  # queries up to which all runs share the drawn samples: 80 MB

CONFIDENCE = 0.95

POWER = 0.8
"""Power at which the detectable difference is given."""


class Interval(NamedTuple):
    """A confidence interval of a mean."""

    low: float
    high: float


def p_value(a: Values, b: Values, test: Test) -> float:
    """Return the two-sided p-value of the mean difference b - a by a paired test; 1 where all differences are 0.

    NaN for a single query. Tukey's test is over all runs at once: see `tukey`.
    """
    from scipy import special

    d = np.round(b - a, 9)
    if not d.any():
        return 1.0
    if len(d) < 2:
        return math.nan
    if test == "wilcoxon":
        from scipy import stats

        # Of the differences and not of both samples: round-off would split ties.
        return float(stats.wilcoxon(d, zero_method="wilcox").pvalue)
    if test == "permutation":
        from scipy import stats

        flipped = stats.permutation_test(
            (b, a),
            lambda x, y, axis: np.mean(x - y, axis=axis),
            permutation_type="samples",
            n_resamples=RESAMPLES,
            rng=np.random.default_rng(0),
            vectorized=True,
            batch=max(1, 10_000_000 // len(d)),
        )
        return float(flipped.pvalue)
    if np.ptp(d) == 0:
        return 0.0
    return float(2 * special.stdtr(len(d) - 1, -abs((b - a).mean()) / _standard_error(b - a)))


def interval(a: Values, b: Values) -> Interval:
    """Return the 95 % interval of the mean difference b - a by Student's t."""
    d = b - a
    half = _t_quantile((1 + CONFIDENCE) / 2, len(d)) * _standard_error(d)
    return Interval(float(d.mean() - half), float(d.mean() + half))


def wilson(successes: int, trials: int) -> Interval:
    """Return the 95 % interval of a rate by Wilson's score, which stays between 0 and 1."""
    from scipy import stats

    ends = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float(ends.low), float(ends.high))


def bootstrap_intervals(table: Values) -> list[Interval]:
    """Return the 95 % BCa bootstrap interval of each row's mean (Efron 1987); the mean itself of a constant row."""
    n = table.shape[1]
    means = np.concatenate([draws @ table.T / n for draws in (_draws(n) if n <= DRAWN_ONCE else _drawn(n))])
    return [_bca(values, sampled) for values, sampled in zip(table, means.T, strict=True)]


def _bca(values: Values, means: Values) -> Interval:
    """Return the interval of a mean, from the means of its bootstrap samples."""
    from scipy import special

    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    d = values - values.mean()
    above = means - values.mean()  # samples that equal the mean do so but for round-off
    below = special.ndtri(((above < -TIE).mean() + (above <= TIE).mean()) / 2)
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    ends = below + special.ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(means, special.ndtr(below + ends / (1 - acceleration * ends)))
    return Interval(float(low), float(high))


@lru_cache(maxsize=1)
def _draws(n: int) -> list[Values]:
    """Return `_drawn`, kept: the samples are the same for all runs."""
    return list(_drawn(n))


def _drawn(n: int) -> Iterator[Values]:
    """Yield, a block of bootstrap samples of n queries at a time, how often each has each query."""
    rng, rows = np.random.default_rng(0), max(1, 10_000_000 // n)
    for start in range(0, BOOTSTRAPS, rows):
        drawn = rng.integers(0, n, (min(rows, BOOTSTRAPS - start), n))
        cells = drawn + np.arange(len(drawn))[:, None] * n
        yield np.bincount(cells.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def effect_size(a: Values, b: Values) -> float | None:
    """Return d_z, the mean difference over the standard deviation of differences; None where they do not vary."""
    d = b - a
    deviation = float(d.std(ddof=1)) if len(d) > 1 else 0.0
    return float(d.mean()) / deviation if deviation > TIE else None


def detectable_difference(a: Values, b: Values) -> float | None:
    """Return the smallest mean difference that a paired t-test of these queries finds with power .8.

    Power is that of the noncentral t distribution at alpha = .05, two-sided. None for a single query.
    """
    n = len(a)
    error = _standard_error(b - a)
    return _noncentrality(n) * error if n > 1 and error > 0 else None


@lru_cache
def _noncentrality(n: int) -> float:
    """Return the mean difference, in standard errors, that n queries show with power .8."""
    from scipy import special

    # The chance of a significant difference in the wrong direction is negligible at this power.
    return float(special.nctdtrinc(n - 1, 1 - POWER, _t_quantile((1 + CONFIDENCE) / 2, n)))


def equivalence(a: Values, b: Values, margin: float) -> float:
    """Return the p-value of TOST: the larger of both one-sided paired t-tests of |mean difference| < margin."""
    from scipy import stats

    d = b - a
    if _standard_error(d) == 0:
        return 0.0 if abs(d.mean()) < margin else 1.0
    lower = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(d, margin, alternative="less").pvalue
    return float(max(lower, upper))


def smallest_margin(a: Values, b: Values) -> float:
    """Return the smallest margin in which TOST finds equivalence at alpha = .05: the 90 % interval's farther end."""
    d = b - a
    half = _t_quantile(0.95, len(d)) * _standard_error(d)
    return float(max(abs(d.mean() - half), abs(d.mean() + half)))


def corrected(p_values: Sequence[float], correction: Correction) -> list[float]:
    """Return adjusted p-values of a family by Holm or Benjamini-Hochberg; undefined ones stay so and do not count."""
    defined = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    if correction == "bh" and defined:
        from scipy import stats

        for i, p in zip(defined, stats.false_discovery_control([p_values[i] for i in defined]), strict=True):
            adjusted[i] = float(p)
    if correction == "holm":
        largest = 0.0
        for rank, i in enumerate(sorted(defined, key=lambda i: p_values[i])):
            largest = max(largest, min(1.0, (len(defined) - rank) * p_values[i]))
            adjusted[i] = largest
    return adjusted


def tukey(runs: Mapping[str, Values]) -> dict[tuple[str, str], float]:
    """Return each pair's p-value by Tukey's HSD on the two-way layout of runs x queries without replication.

    The residual mean square has (m - 1)(n - 1) degrees of freedom; the pairing by query is kept, unlike in the one-way
    `scipy.stats.tukey_hsd`.
    """
    from scipy import stats

    table = np.stack(list(runs.values()))
    m, n = table.shape
    freedom = (m - 1) * (n - 1)
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    pairs = {}
    for a, b in combinations(runs, 2):
        difference = abs(float(runs[a].mean() - runs[b].mean()))
        if not np.any(np.round(runs[a] - runs[b], 9)):
            pairs[a, b] = 1.0
        elif freedom == 0:
            pairs[a, b] = math.nan
        else:
            error = math.sqrt(float((residuals**2).sum()) / freedom / n)
            pairs[a, b] = float(stats.studentized_range.sf(difference / error, m, freedom)) if error else 0.0
    return pairs


def _standard_error(d: Values) -> float:
    return float(d.std(ddof=1)) / math.sqrt(len(d)) if len(d) > 1 else math.nan


@lru_cache
def _t_quantile(probability: float, n: int) -> float:
    from scipy import special

    return float(special.stdtrit(n - 1, probability)) if n > 1 else math.nan
