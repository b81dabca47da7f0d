"""Sensitivity to the initial order: what must not matter does not, and what does is measured."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest
from r2llm.pipeline.compare import sensitivity
from r2llm.rerankers.errors import InputError

from .conftest import DOCS, QUERIES, Ordered

GRADES = tuple(range(DOCS))
ORDERS = ["given", "inverse", 1, 2, 3]


def test_distinct_scores_of_single_documents_are_insensitive(ordered: Ordered) -> None:
    rows, notes = sensitivity.sensitivity(ordered("pointwise.yes_no", ORDERS, grades=GRADES))
    [row] = rows
    assert notes == []
    assert (row.name, row.measure, row.simulated) == ("pointwise.yes_no", "nDCG@10", True)
    assert (row.given, row.inverse, row.shuffles) == (1.0, 1.0, (1.0, 1.0, 1.0))
    assert (row.drop, row.sd, row.query_sd, row.overlap, row.tied) == (0.0, 0.0, 0.0, 1.0, 0)
    assert row.tau == pytest.approx(1.0)
    assert row.asks == {"given": (DOCS,), "inverse": (DOCS,), "shuffle": (DOCS, DOCS, DOCS)}


def test_tied_scores_keep_the_presented_order_and_are_counted(ordered: Ordered) -> None:
    [row], _ = sensitivity.sensitivity(ordered("pointwise.yes_no", ORDERS, grades=(0,) * (DOCS - 2) + (1, 2)))
    assert row.tied == QUERIES * (DOCS - 2)
    assert row.tau is not None
    assert row.tau < 1
    assert row.drop == 0.0


def test_a_model_that_keeps_the_order_is_as_good_as_the_order(ordered: Ordered) -> None:
    runs = ordered("listwise.sliding", ORDERS, "model.answers=inverse", grades=GRADES)
    [row], _ = sensitivity.sensitivity(runs)
    # It turns every order round: best last is perfect, best first is the worst.
    assert (row.given, row.tied) == (1.0, None)
    assert row.inverse is not None
    assert row.inverse < min(row.shuffles) < max(row.shuffles) < 1.0
    values = [run.measures["nDCG@10"] for run in runs[2:]]
    assert row.shuffles == pytest.approx([fmean(each.values()) for each in values])
    assert (row.mean, row.sd) == pytest.approx((fmean(row.shuffles), stdev(row.shuffles)))
    assert row.drop == pytest.approx(1.0 - fmean(row.shuffles))
    assert row.query_sd == pytest.approx(fmean(stdev(each[query] for each in values) for query in values[0]))


def test_sorting_asks_more_in_another_order(ordered: Ordered) -> None:
    [row], _ = sensitivity.sensitivity(ordered("setwise.heapsort, k: 3", ["given", "inverse"], grades=GRADES))
    assert row.asks["given"] != row.asks["inverse"]
    assert (row.mean, row.sd, row.drop, row.tau, row.shuffles) == (None, None, None, None, ())


def test_methods_are_told_apart_by_what_differs(ordered: Ordered) -> None:
    runs = ordered("setwise.heapsort, num_child: 2", [1, 2], grades=GRADES)
    more = ordered("pointwise.yes_no", [1, 2], grades=GRADES)
    rows, _ = sensitivity.sensitivity([*runs, *more])
    assert [row.name for row in rows] == ["setwise.heapsort", "pointwise.yes_no"]
    for run in more:
        run.config["ranker"]["method"] = "setwise.heapsort"
    rows, notes = sensitivity.sensitivity([*runs, *more])
    assert [row.name for row in rows] == [
        "setwise.heapsort, ranker.num_child=2",
        "setwise.heapsort, ranker.num_child=None",
    ]
    assert notes == []


def test_a_run_alone_is_left_out_and_a_table_needs_two(ordered: Ordered) -> None:
    runs = ordered("pointwise.yes_no", ["given", 1], grades=GRADES)
    alone = ordered("setwise.heapsort", ["given"], grades=GRADES)
    rows, notes = sensitivity.sensitivity([*runs, *alone])
    assert [row.name for row in rows] == ["pointwise.yes_no"]
    assert notes == [f"setwise.heapsort: left out: {alone[0].name} is its only run"]
    with pytest.raises(InputError, match="no two runs differ"):
        sensitivity.sensitivity(alone)
    table = sensitivity.table(rows)
    assert [len(row) for row in table.rows] == [len(table.header)]
