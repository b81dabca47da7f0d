"""Fusion of two orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import fusion

RANKED = [("a", 9.0), ("b", 8.0), ("c", 3.0), ("d", 1.0)]


def test_reciprocal_ranks_are_summed() -> None:
    # a: 1/61 + 1/64, b: 1/62 + 1/61, c: 1/63 + 1/62, d: 1/64 + 1/63
    other = [("b", 4.0), ("c", 3.0), ("d", 2.0), ("a", 1.0)]
    assert fusion.rrf(RANKED, other) == ["b", "a", "c", "d"]
    # With k = 0 the first rank counts most: a: 1 + 1/4, b: 1/2 + 1, c: 1/3 + 1/2, d: 1/4 + 1/3
    assert fusion.rrf(RANKED, other, k=0) == ["b", "a", "c", "d"]
    assert fusion.rrf(RANKED, [("d", 1.0), ("c", 0.5)]) == ["d", "c", "a", "b"]


def test_what_the_other_run_lacks_has_no_share_in_it_and_strangers_are_ignored() -> None:
    assert fusion.rrf(RANKED, [("x", 5.0), ("c", 4.0)]) == ["c", "a", "b", "d"]
    assert fusion.rrf(RANKED, []) == ["a", "b", "c", "d"]


def test_equal_shares_keep_the_reranked_order() -> None:
    assert fusion.rrf([("a", 2.0), ("b", 1.0)], [("b", 2.0), ("a", 1.0)]) == ["a", "b"]


def test_scaled_scores_are_weighed() -> None:
    # Reranked: a 1, b 7/8, c 1/4, d 0. The other: d 1, c 1/2, a 0, b not there.
    other = [("d", 30.0), ("x", 29.0), ("c", 20.0), ("a", 10.0)]
    assert fusion.interpolate(RANKED, other, alpha=0.0) == ["a", "b", "c", "d"]
    assert fusion.interpolate(RANKED, other, alpha=1.0) == ["d", "c", "a", "b"]
    # At 0.4: a 0.6, b 0.525, c 0.35, d 0.4. At 0.6: a 0.4, b 0.35, c 0.4, d 0.6.
    assert fusion.interpolate(RANKED, other, alpha=0.4) == ["a", "b", "d", "c"]
    assert fusion.interpolate(RANKED, other, alpha=0.6)[0] == "d"


def test_equal_scores_say_nothing() -> None:
    assert fusion.interpolate(RANKED, [("d", 5.0), ("c", 5.0)], alpha=1.0) == ["a", "b", "c", "d"]
    assert fusion.interpolate(RANKED, [], alpha=0.7) == ["a", "b", "c", "d"]


SCORES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@given(SCORES, SCORES, st.floats(0, 1), st.integers(0, 100))
def test_the_fused_order_is_a_permutation(ours: list[float], theirs: list[float], alpha: float, k: int) -> None:
    ranked = [(f"d{i}", score) for i, score in enumerate(sorted(ours, reverse=True))]
    other = [(f"d{i}", score) for i, score in enumerate(theirs)]
    docs = sorted(doc for doc, _ in ranked)
    assert sorted(fusion.rrf(ranked, other, k)) == sorted(fusion.interpolate(ranked, other, alpha)) == docs
    assert fusion.rrf(ranked, ranked, k) == [doc for doc, _ in ranked]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_run_fused_with_itself_stays_as_it_is(alpha: float) -> None:
    assert fusion.interpolate(RANKED, RANKED, alpha) == [doc for doc, _ in RANKED]
