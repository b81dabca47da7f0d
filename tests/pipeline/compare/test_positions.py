"""Position bias out of ledgers: known biases are read as what they are."""

from __future__ import annotations

import numpy as np
import pytest
from r2llm.pipeline.compare import positions
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends.simulated import Simulated
from r2llm.rerankers.errors import InputError
from scipy import stats

from .conftest import DOCS, QUERIES, Ordered


@pytest.mark.parametrize(("method", "docs"), [("setwise.heapsort", 3), ("pairwise.heapsort", 2)])
def test_a_model_that_always_chooses_the_first_document(ordered: Ordered, method: str, docs: int) -> None:
    [found], _ = positions.positions(ordered(method, [1, 2]))  # an oracle without judgements of the candidates
    assert [slot.value for slot in found.slots] == [1.0] + [0.0] * (docs - 1)
    assert (found.docs, found.uniform, found.undecided, found.simulated) == (docs, 1 / docs, found.asks, True)
    expected = stats.chisquare([found.asks] + [0] * (docs - 1))
    assert found.chi_square == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)


def test_answers_from_a_hash_prefer_no_slot(ordered: Ordered) -> None:
    [found], _ = positions.positions(ordered("setwise.heapsort", [1, 2, 3, 4], "model.answers=hash"))
    assert found.asks > 200
    assert [slot.value for slot in found.slots] == pytest.approx([1 / 3] * 3, abs=0.08)
    assert found.p is not None
    assert found.p > 0.01


def test_wherever_the_best_document_stands_an_oracle_chooses_it(ordered: Ordered) -> None:
    [found], _ = positions.positions(ordered("setwise.heapsort", [1, 2], grades=tuple(range(DOCS))))
    assert found.undecided == 0
    assert [(slot.best, slot.other) for slot in found.slots] == [(1.0, 0.0)] * 3


def test_an_order_has_the_mean_rank_of_each_slot(ordered: Ordered) -> None:
    # The last of the presented candidates is the most relevant one: one window is turned round.
    [found], _ = positions.positions(ordered("listwise.sliding", [1, 2], "model.answers=inverse"))
    assert [slot.value for slot in found.slots] == [float(rank) for rank in range(DOCS, 0, -1)]
    assert (found.ranks, found.uniform, found.asks) == (True, (DOCS + 1) / 2, 2 * QUERIES)


def test_the_statistic_is_pearsons_of_choices_and_friedmans_of_orders() -> None:
    dice = np.random.default_rng(0)
    chosen = dice.choice(4, size=200, p=[0.4, 0.2, 0.2, 0.2])
    pearson = stats.chisquare(np.bincount(chosen))
    assert positions.uniformity(np.eye(4, dtype=int)[chosen]) == pytest.approx((pearson.statistic, pearson.pvalue))
    ranks = np.array([dice.permutation(5) + 1 for _ in range(40)])
    friedman = stats.friedmanchisquare(*ranks.T)
    assert positions.uniformity(ranks) == pytest.approx((friedman.statistic, friedman.pvalue))


def test_what_is_left_out_is_said_with_its_number(ordered: Ordered, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = Simulated._reply

    def some(self: Simulated, request: object) -> Reply:
        return Reply("neither") if self.seed == 0 and "d3" in request.ask.docs else reply(self, request)

    monkeypatch.setattr(Simulated, "_reply", some)
    method = "setwise.heapsort, scoring: generation, num_child: 3"
    runs = ordered(method, ["given", "inverse", 1, 2], "max_unparsed=1", "model.answers=hash")
    (runs[3].path / "ledger.sqlite").unlink()
    [found], notes = positions.positions(runs)
    assert found.docs == 4
    unread = sum("whose answer is unread" in note for note in notes)
    assert unread == 1
    assert any("asks left out that show another number of documents" in note for note in notes)
    assert any(note.startswith(f"{runs[3].name}: left out: there is no ledger.sqlite") for note in notes)
    assert "2 runs left out: their candidates were not shuffled (first_stage.order: shuffle)" in notes


def test_methods_without_slots_and_runs_in_one_order_are_named(ordered: Ordered) -> None:
    with pytest.raises(InputError, match=r"pointwise.yes_no: 1 runs left out: its asks \(score\) neither choose"):
        positions.positions(ordered("pointwise.yes_no", ["given", 1]))


def test_the_table_has_a_row_a_slot(ordered: Ordered) -> None:
    table = positions.table(positions.positions(ordered("setwise.heapsort", [1]))[0])
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert table.rows[0][:6] == ["setwise.heapsort (simulated)", "choose", "3", "1", "1.0000", "0.3333"]
