"""Similarity of rankings: worked examples and their bounds."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.pipeline.compare import similarity
from scipy import stats


def alike(a: Sequence[str], b: Sequence[str]) -> tuple[float, float, float]:
    """Kendall's τ, RBO and the overlap of two rankings."""
    [tau], [rbo], [overlap] = similarity.of_pairs([a, b], [(0, 1)])
    return tau, rbo, overlap


def test_worked_examples() -> None:
    assert alike("abcd", "bace")[1:] == pytest.approx((0.71775, 0.75))
    assert alike("cab", "acb")[0] == pytest.approx(1 / 3)


def test_rankings_with_nothing_in_common() -> None:
    tau, *rest = alike("ab", "cd")
    assert np.isnan(tau)
    assert rest == [0.0, 0.0]


@given(st.permutations(list("abcdefgh")))
def test_a_ranking_is_itself(ranking: list[str]) -> None:
    assert alike(ranking, ranking) == pytest.approx((1.0, 1.0, 1.0))
    assert alike(ranking, ranking[::-1])[0] == pytest.approx(-1.0)
    assert 0 < alike(ranking, sorted(ranking))[1] <= 1.0 + 1e-12


def test_an_effect_that_is_halved_or_undefined() -> None:
    base, advanced = np.array([0.2, 0.4]), np.array([0.4, 0.6])
    assert similarity.effect_ratio(base, advanced, base, base + 0.1) == pytest.approx(0.5)
    assert similarity.effect_ratio(base, base, base, advanced) is None
    assert similarity.relative_improvement_change(base, advanced, base, advanced) == 0.0
    assert similarity.relative_improvement_change(base * 0, advanced, base, advanced) is None
    assert similarity.root_mean_square_error(base, base + 0.3) == pytest.approx(0.3)


def by_definition(a: Sequence[str], b: Sequence[str]) -> tuple[float, float, float]:
    """The same, from SciPy and from Webber et al.'s equation 30."""
    shared = [b.index(doc) for doc in a if doc in b]
    tau = stats.kendalltau(range(len(shared)), shared).statistic if len(shared) > 1 else np.nan
    k, common = min(len(a), len(b)), [len({*a[:d]} & {*b[:d]}) for d in range(min(len(a), len(b)) + 1)]
    rbo = sum(common[d] / d * 0.9**d for d in range(1, k + 1)) / 9 + (common[k] / k * 0.9**k if k else a == b)
    top = min(10, max(len(a), len(b)))
    return tau, rbo, len({*a[:10]} & {*b[:10]}) / top if top else 1.0


@given(st.lists(st.permutations(list("abcdefghijklmn")).map(lambda docs: docs[:11]), min_size=2, max_size=4))
def test_many_pairs_at_once_are_as_alike_as_one_by_one(rankings: list[list[str]]) -> None:
    rankings = [*rankings, [], ["z"]]
    pairs = [(a, b) for a in range(len(rankings)) for b in range(len(rankings))]
    for (a, b), *found in zip(pairs, *similarity.of_pairs(rankings, pairs), strict=True):
        assert found == pytest.approx(by_definition(rankings[a], rankings[b]), nan_ok=True)
