"""Statistics and reproduction measures against those of statsmodels and repro_eval, where these are installed."""

from itertools import combinations

import numpy as np
import pytest
from r2llm.pipeline.compare import similarity, statistics
from scipy import stats

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(7)
QUERIES = 43
EASE = RNG.beta(3, 2, QUERIES)
SHIFTS = {"a": 0.0, "b": 0.02, "c": 0.1, "d": 0.2}
RUNS = {name: np.clip(EASE + RNG.normal(shift, 0.1, QUERIES), 0, 1) for name, shift in SHIFTS.items()}
A, B, C, D = RUNS.values()


def test_corrections_are_those_of_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p_values = [0.001, 0.04, 0.03, 0.2, 0.04, 1.0]
    for ours, theirs in (("holm", "holm"), ("bh", "fdr_bh")):
        expected = multitest.multipletests(p_values, method=theirs)[1]
        assert statistics.corrected(p_values, ours) == pytest.approx(expected)


def test_equivalence_and_power_are_those_of_statsmodels() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    power = pytest.importorskip("statsmodels.stats.power")
    for margin in (0.01, 0.05):
        expected = weightstats.ttost_paired(B, A, -margin, margin)[0]
        assert statistics.equivalence(A, B, margin) == pytest.approx(expected)
    effect = power.TTestPower().solve_power(nobs=QUERIES, alpha=0.05, power=0.8)
    assert statistics.detectable_difference(A, B) == pytest.approx(effect * (B - A).std(ddof=1), rel=1e-5)


def test_tukey_has_the_residuals_of_a_two_way_layout() -> None:
    linear = pytest.importorskip("statsmodels.regression.linear_model")
    run, query = (index.ravel() for index in np.indices((len(RUNS), QUERIES)))
    design = np.column_stack([np.ones(len(run)), np.eye(len(RUNS))[run][:, 1:], np.eye(QUERIES)[query][:, 1:]])
    fitted = linear.OLS(np.concatenate(list(RUNS.values())), design).fit()
    assert fitted.df_resid == (len(RUNS) - 1) * (QUERIES - 1)
    found = statistics.tukey(RUNS)
    for a, b in combinations(RUNS, 2):
        q = abs(RUNS[a].mean() - RUNS[b].mean()) / np.sqrt(fitted.mse_resid / QUERIES)
        assert found[a, b] == pytest.approx(stats.studentized_range.sf(q, len(RUNS), fitted.df_resid), abs=1e-9)


def test_reproduction_is_that_of_repro_eval() -> None:
    effects = pytest.importorskip("repro_eval.measure.overall_effects")
    effectiveness = pytest.importorskip("repro_eval.measure.effectiveness")
    original, advanced, base_again, advanced_again = (
        {f"q{i}": {"ndcg": value} for i, value in enumerate(values)} for values in (A, C, B, D)
    )
    rmse = effectiveness.RMSE(advanced, advanced_again)["ndcg"]
    ratio = effects.ER(advanced, original, advanced_again, base_again)["ndcg"]
    change = effects.DRI(advanced, original, advanced_again, base_again)["ndcg"]
    assert similarity.root_mean_square_error(C, D) == pytest.approx(rmse)
    assert similarity.effect_ratio(A, C, B, D) == pytest.approx(ratio)
    assert similarity.relative_improvement_change(A, C, B, D) == pytest.approx(change)


def test_bootstrap_intervals_are_those_of_scipy() -> None:
    for values in (A, D, np.tile(A, 30)):  # the last one is drawn in blocks
        drawn = {"n_resamples": statistics.BOOTSTRAPS, "method": "BCa", "rng": np.random.default_rng(0), "batch": 1000}
        expected = stats.bootstrap((values,), np.mean, **drawn).confidence_interval
        [found] = statistics.bootstrap_intervals(values[None])
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
