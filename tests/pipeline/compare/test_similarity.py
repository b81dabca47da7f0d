"""Similarity of rankings: worked examples and their bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.pipeline.compare import similarity


def test_worked_examples() -> None:
    assert similarity.rbo("abcd", "bace") == pytest.approx(0.71775)
    assert similarity.kendall("cab", "acb") == pytest.approx(1 / 3)
    assert similarity.overlap("abcd", "bace", 2) == 1.0
    assert similarity.overlap("abcd", "bace") == 0.75
    assert similarity.average_precision_correlation("abc", "abc") == 1.0
    assert similarity.average_precision_correlation("cba", "abc") == -1.0


def test_rankings_with_nothing_in_common() -> None:
    assert similarity.rbo("ab", "cd") == 0.0
    assert similarity.kendall("ab", "cd") is None
    assert similarity.overlap("ab", "cd") == 0.0


@given(st.permutations(list("abcdefgh")))
def test_a_ranking_is_itself(ranking: list[str]) -> None:
    assert similarity.rbo(ranking, ranking) == pytest.approx(1.0)
    assert similarity.kendall(ranking, ranking) == pytest.approx(1.0)
    assert similarity.kendall(ranking, ranking[::-1]) == pytest.approx(-1.0)
    assert 0 < similarity.rbo(ranking, sorted(ranking)) <= 1.0 + 1e-12


def test_an_effect_that_is_halved_or_undefined() -> None:
    base, advanced = np.array([0.2, 0.4]), np.array([0.4, 0.6])
    assert similarity.effect_ratio(base, advanced, base, base + 0.1) == pytest.approx(0.5)
    assert similarity.effect_ratio(base, base, base, advanced) is None
    assert similarity.relative_improvement_change(base, advanced, base, advanced) == 0.0
    assert similarity.relative_improvement_change(base * 0, advanced, base, advanced) is None
    assert similarity.root_mean_square_error(base, base + 0.3) == pytest.approx(0.3)


@given(st.lists(st.permutations(list("abcdefghijklmn")).map(lambda docs: docs[:11]), min_size=2, max_size=4))
def test_many_pairs_at_once_are_as_alike_as_one_by_one(rankings: list[list[str]]) -> None:
    rankings = [*rankings, [], ["z"]]
    pairs = [(a, b) for a in range(len(rankings)) for b in range(len(rankings))]
    for (a, b), tau, rbo, overlap in zip(pairs, *similarity.of_pairs(rankings, pairs), strict=True):
        one, other = rankings[a], rankings[b]
        assert tau == pytest.approx(similarity.kendall(one, other) or np.nan, nan_ok=True) or tau == 0
        assert rbo == pytest.approx(similarity.rbo(one, other))
        assert overlap == pytest.approx(similarity.overlap(one, other))
