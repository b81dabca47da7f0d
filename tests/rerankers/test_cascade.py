"""A cascade: each stage ranks the first documents of the order so far, and costs add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from r2llm.rerankers import accounting
from r2llm.rerankers import cascade as cascades
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.cascade import Cascade, Ranked, Stage
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import Candidates, Cost, Doc, Query

POINTWISE = {"method": "pointwise.yes_no"}
SETWISE = {"method": "setwise.heapsort", "k": 3}


def model(answers: str = "rel", seed: int = 0) -> simulated.Backend:
    return simulated.open(simulated.Options(answers=answers), Setting(seed=seed))


def ranked(stages: Sequence[Stage], queries: Sequence[Candidates], *, pooled: bool = True) -> dict[str, Ranked]:
    ledger = Ledger(None)
    found = {each.cost.query_id: each for each in Cascade(stages, ledger, pooled=pooled).rank(queries)}
    ledger.close()
    return found


def stage(options: dict[str, Any], depth: int | None = None, backend: Any = None) -> Stage:
    return Stage(Ranker.create(options), backend or model(), depth)


def alone(options: dict[str, Any], candidates: Candidates) -> tuple[str, ...]:
    return ranked([stage(options)], [candidates])[candidates.query.id].ranking.docs


def test_each_stage_ranks_the_first_of_the_order_so_far(make_candidates) -> None:
    found = make_candidates(12)
    first = alone(POINTWISE, found)
    # The second model is of another mind: it reorders the first five, and nothing below.
    both = ranked([stage(POINTWISE), stage(POINTWISE, 5, model(seed=1))], [found])["q1"].ranking.docs
    assert both[5:] == first[5:]
    assert sorted(both[:5]) == sorted(first[:5])
    assert both != first


@pytest.mark.parametrize("pooled", [True, False])
def test_the_costs_of_all_stages_add_up(make_candidates, pooled: bool) -> None:
    queries = [make_candidates(9, f"q{i}", f"query {i}") for i in range(4)]
    stages = [stage(POINTWISE), stage(SETWISE, 6), stage({"method": "listwise.sliding"}, 4)]
    for each in ranked(stages, queries, pooled=pooled).values():
        first, second, third = each.costs
        assert (first.asks, first.rounds, first.comparisons) == (9, 1, 0)
        assert (third.asks, third.rounds, third.comparisons) == (1, 1, 1)
        assert second.asks == second.comparisons > 0
        total = each.cost
        assert total.asks == sum(cost.asks for cost in each.costs) == total.calls + total.cached
        assert total.rounds == second.rounds + 2
        assert total.prompt_tokens is None
        assert total.seconds == pytest.approx(sum(cost.seconds or 0 for cost in each.costs))


def test_what_is_unknown_in_one_stage_is_unknown_in_all() -> None:
    known, unknown = Cost("q", asks=2, calls=2, seconds=1.5), Cost("q", prompt_tokens=None, seconds=None)
    total = accounting.total([known, unknown])
    assert (total.asks, total.prompt_tokens, total.completion_tokens, total.seconds) == (2, None, 0, None)
    assert accounting.total([known]) == known


def test_queries_are_ranked_as_if_each_was_alone(make_candidates, monkeypatch) -> None:
    monkeypatch.setattr(cascades, "IN_FLIGHT", 3)
    queries = [make_candidates(7 + i % 3, f"q{i}", f"query {i}") for i in range(8)]
    stages = [stage(POINTWISE), stage(SETWISE, 5, model("hash"))]
    together = ranked(stages, queries)
    assert sorted(together) == [f"q{i}" for i in range(8)]
    for each in queries:
        assert ranked(stages, [each])[each.query.id].ranking == together[each.query.id].ranking


def test_no_more_queries_than_are_in_flight_are_read_ahead(make_candidates, monkeypatch) -> None:
    monkeypatch.setattr(cascades, "IN_FLIGHT", 3)
    read = 0

    def queries() -> Any:
        nonlocal read
        for i in range(9):
            read += 1
            yield make_candidates(4, f"q{i}", f"query {i}")

    ledger = Ledger(None)
    for done, _ in enumerate(Cascade([stage(POINTWISE), stage(SETWISE)], ledger).rank(queries())):
        assert read <= done + 3
    ledger.close()


def test_two_stages_can_share_a_model_and_its_answers(make_candidates) -> None:
    shared = model()
    each = ranked([stage(POINTWISE, None, shared), stage(POINTWISE, 3, shared)], [make_candidates(6)])["q1"]
    assert (each.costs[1].calls, each.costs[1].cached) == (0, 3)
    assert each.cost.seconds is not None


def test_scores_are_those_of_a_last_stage_that_scored_all(make_candidates) -> None:
    found = make_candidates(5)
    assert ranked([stage(SETWISE), stage(POINTWISE)], [found])["q1"].ranking.scores is not None
    assert ranked([stage(POINTWISE), stage(POINTWISE, 4)], [found])["q1"].ranking.scores is None
    assert ranked([stage(POINTWISE), stage(SETWISE)], [found])["q1"].ranking.scores is None


def test_documents_go_on_as_their_best_passages_with_their_first_stage_scores(rule_backend) -> None:
    from r2llm.rerankers.answers.reading import Reply

    def judge(request: Any) -> Reply:
        if request.ask.kind == "score":
            return Reply(scores=(0.0, -9.0) if "tide" in request.passages[0] else (-9.0, 0.0))
        return Reply(scores=tuple(-float(i) for i in range(len(request.labels))))

    backend = rule_backend(judge)
    docs = (Doc("a", "one two three four five"), Doc("b", "one two the tide comes"), Doc("c", "x"))
    found = Candidates(Query("q", "tides"), docs, (3.0, 2.0, 1.0))
    by_passage = POINTWISE | {"passages": {"words": 3, "overlap": 1}}
    seen = cascades._Order(found)
    ledger = Ledger(None)
    chain = Cascade([stage(by_passage, 2, backend), stage(SETWISE, None, backend)], ledger)
    [order] = chain._through(0, [seen])
    ledger.close()
    assert [(doc.id, doc.text) for doc in order.candidates.docs] == [
        ("b", "the tide comes"),
        ("a", "one two three"),
        ("c", "x"),
    ]
    assert order.candidates.scores == (2.0, 3.0, 1.0)
    each = ranked([stage(by_passage, 2, backend), stage(SETWISE, None, backend)], [found])["q"]
    asked = [request for request in backend.asked if request.ask.kind == "choose"]
    assert asked[0].texts == {"b": "the tide comes", "a": "one two three", "c": "x"}
    assert sorted(each.ranking.docs) == ["a", "b", "c"]
