"""Scaling up what some queries cost."""

from __future__ import annotations

import math

import pytest
from r2llm.pipeline.trial import Figure, scaled


def test_what_a_judge_foretells_exactly_is_scaled_exactly() -> None:
    assert scaled([20.0, 60.0], [10.0, 30.0], 200.0, 10) == Figure(400.0, 400.0, 400.0)


def test_deviations_from_it_make_a_range() -> None:
    found = scaled([9.0, 11.0, 10.0], [10.0, 10.0, 10.0], 120.0, 12)
    error = 12 * math.sqrt((1 + 1 + 0) / 2 / 3 * (1 - 3 / 12))
    span = 4.302653 * error  # Student's t, two degrees of freedom, 97.5 %
    assert found == Figure(120.0, pytest.approx(120 - span), pytest.approx(120 + span))


def test_all_queries_leave_no_doubt_and_one_of_several_says_nothing_of_it() -> None:
    assert scaled([9.0, 11.0], [10.0, 10.0], 20.0, 2) == Figure(20.0, 20.0, 20.0)
    assert scaled([9.0], [10.0], 20.0, 2) == Figure(18.0, None, None)
    assert scaled([9.0], [10.0], 10.0, 1) == Figure(9.0, 9.0, 9.0)


def test_where_the_judge_was_asked_nothing_each_query_counts_the_same() -> None:
    assert scaled([0.0, 0.0], [0.0, 0.0], 0.0, 7) == Figure(0.0, 0.0, 0.0)
    assert scaled([2.0, 2.0], [0.0, 0.0], 0.0, 7) == Figure(14.0, 14.0, 14.0)


def test_less_than_nothing_is_never_spent() -> None:
    assert scaled([0.0, 100.0], [1.0, 1.0], 10.0, 10).low == 0.0
