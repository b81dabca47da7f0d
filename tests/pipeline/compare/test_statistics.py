"""Paired statistics: a case worked out by hand, the edges, and SciPy's and the published values."""

import math

import numpy as np
import pytest
from r2llm.pipeline.compare import statistics

A = np.array([0.50, 0.61, 0.72, 0.40, 0.55, 0.30, 0.80, 0.66])
B = np.array([0.55, 0.70, 0.70, 0.52, 0.61, 0.30, 0.86, 0.75])


def test_small_samples_are_tested_exactly() -> None:
    assert statistics.p_value(A, B, "permutation") == 8 / 256
    assert statistics.p_value(A, B, "wilcoxon") == pytest.approx(0.03125)
    assert statistics.p_value(A, B, "t") == pytest.approx(0.0115461, abs=5e-8)


def test_identical_runs_do_not_differ() -> None:
    for test in ("t", "wilcoxon", "permutation"):
        assert statistics.p_value(A, A, test) == 1.0
    assert statistics.tukey({"a": A, "b": A, "c": B})["a", "b"] == 1.0
    assert statistics.effect_size(A, A) is None
    assert statistics.bootstrap_intervals((A - A)[None]) == [statistics.Interval(0.0, 0.0)]


def test_one_query_shows_nothing() -> None:
    assert math.isnan(statistics.p_value(A[:1], B[:1], "t"))
    assert statistics.detectable_difference(A[:1], B[:1]) is None


def test_holm_and_benjamini_hochberg() -> None:
    assert statistics.corrected([0.01, 0.04, 0.03, 0.005], "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.corrected([0.01, 0.04, 0.03, 0.005], "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert statistics.corrected([0.01, 0.04], "none") == [0.01, 0.04]
    # An undefined p-value is no member of the family.
    adjusted = statistics.corrected([0.01, math.nan, 0.04], "holm")
    assert (adjusted[0], math.isnan(adjusted[1]), adjusted[2]) == (0.02, True, 0.04)


def test_equivalence_is_found_within_the_smallest_margin_and_no_closer() -> None:
    margin = statistics.smallest_margin(A, B)
    assert statistics.equivalence(A, B, margin) == pytest.approx(0.05)
    assert statistics.equivalence(A, B, margin * 1.01) < 0.05 < statistics.equivalence(A, B, margin * 0.99)


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five() -> None:
    size = statistics.detectable_difference(A, B)
    assert size is not None
    rng = np.random.default_rng(1)
    deviation = float((B - A).std(ddof=1))
    draws = rng.normal(size, deviation, (4000, len(A)))
    found = sum(statistics.p_value(np.zeros(len(A)), draw, "t") < 0.05 for draw in draws[:800])
    assert 0.74 < found / 800 < 0.86
