"""The rules that answer in a model's place, and the count that they keep of what they are asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from r2llm.pipeline.estimate import simulation
from r2llm.pipeline.estimate.simulation import Rule, StandIn, open_rule
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Request
from r2llm.rerankers.types import Candidates

HEAPSORT = {"method": "setwise.heapsort", "k": 3}
REPEATED = {"method": "listwise.sliding", "window": 4, "stride": 2, "repeats": 3}


def run_of(candidates: Candidates) -> dict[str, list[tuple[str, float]]]:
    return {candidates.query.id: list(zip(candidates.ids, candidates.scores, strict=True))}


def choices(rule: Rule, candidates: Candidates, grades, rank, rule_backend) -> list[str]:
    """The documents that a rule puts first, the best first."""
    found = open_rule(rule, run_of(candidates), grades, seed=0)
    [(ranking, _)] = rank({"method": "setwise.bubblesort", "k": 3}, found, [candidates])
    return list(ranking.docs)


def test_the_likely_rule_follows_judgements_with_noise(make_candidates, rank, rule_backend, monkeypatch) -> None:
    candidates = make_candidates(12)
    monkeypatch.setitem(simulation.RULES, "likely", {"answers": "noisy", "noise": 0.0})
    graded = {"q1": {"d11": 50, "d05": 40, "d08": 30}}
    assert choices("likely", candidates, graded, rank, rule_backend)[:3] == ["d11", "d05", "d08"]
    # Equal grades are not equal to a model: their order is not the one given.
    assert choices("likely", candidates, {"q1": {}}, rank, rule_backend)[:3] != ["d00", "d01", "d02"]


def test_without_judgements_it_follows_the_first_stage(make_candidates, rank, rule_backend, monkeypatch) -> None:
    monkeypatch.setitem(simulation.RULES, "likely", {"answers": "noisy", "noise": 0.0})
    monkeypatch.setattr(simulation, "DEVIATION", 0.0)
    candidates = make_candidates(12)
    assert choices("likely", candidates, None, rank, rule_backend) == list(candidates.ids)


def test_it_answers_the_same_each_time(make_candidates, rank, rule_backend) -> None:
    candidates = make_candidates(12)
    first, second = (choices("likely", candidates, {"q1": {"d03": 2}}, rank, rule_backend) for _ in range(2))
    assert first == second


def test_the_other_rules(make_candidates, rank, rule_backend) -> None:
    candidates = make_candidates(12)
    assert choices("equal", candidates, {"q1": {"d11": 3}}, rank, rule_backend)[:3] == ["d00", "d01", "d02"]
    assert choices("inverse", candidates, None, rank, rule_backend)[:3] == ["d11", "d10", "d09"]
    assert choices("random", candidates, None, rank, rule_backend) != list(candidates.ids)


def model() -> simulated.Simulated:
    return simulated.Simulated(simulated.Options(answers="rel"), 0, {})


def test_a_stand_in_counts_asks_and_calls(make_candidates, rank, monkeypatch) -> None:
    monkeypatch.setattr(simulation, "SAMPLE", 4)
    candidates = make_candidates(10)
    stand_in = StandIn(open_rule("equal", run_of(candidates), None, 0), model(), set(), 0)
    [(_, cost)] = rank(REPEATED, stand_in, [candidates])
    [(_, alone)] = rank(REPEATED, stand_in.rule, [candidates])
    [stratum] = stand_in.strata.values()
    assert (stratum.kind, stratum.asks, len(stratum.sample)) == ("permute", cost.asks, 4)
    assert stand_in.calls["q1"] == alone.calls < alone.asks == cost.asks


def test_where_nothing_is_shared_every_ask_is_a_call(make_candidates, rank) -> None:
    candidates = make_candidates(10)
    stand_in = StandIn(open_rule("equal", run_of(candidates), None, 0), model(), None, 0)
    [(_, cost)] = rank(REPEATED, stand_in, [candidates])
    assert stand_in.calls["q1"] == cost.asks


def test_calls_are_shared_between_stand_ins_of_one_model(make_candidates, rank) -> None:
    candidates = make_candidates(6)
    seen: set[bytes] = set()
    first, second = (StandIn(open_rule("inverse", run_of(candidates), None, 0), model(), seen, 0) for _ in range(2))
    for stand_in in (first, second):
        rank(HEAPSORT, stand_in, [candidates])
    assert first.calls["q1"] > 0 == second.calls["q1"]
    [stratum] = second.strata.values()
    assert stratum.asks > 0
    assert stratum.sample


@pytest.mark.parametrize("simulated_model", [True, False])
def test_notes_are_as_long_as_the_model_may_write_them(
    make_candidates, rank, rule_backend: Callable, simulated_model: bool
) -> None:
    candidates = make_candidates(3)
    stands_for = rule_backend(lambda request: None)
    stands_for.simulated = simulated_model
    stand_in = StandIn(open_rule("likely", run_of(candidates), None, 0), stands_for, set(), 0)
    asked: list[Request] = []
    submit = stand_in.submit
    stand_in.submit = lambda requests: (asked.extend(requests), submit(requests))[1]  # type: ignore[method-assign]
    rank({"method": "pointwise.judgerank", "max_new_tokens": 30}, stand_in, [candidates])
    strata = list(stand_in.strata.values())
    assert [(stratum.kind, stratum.asks) for stratum in strata] == [("write", 1), ("write", 3), ("score", 3)]
    notes = {note for request in asked for _, note in request.ask.notes}
    if simulated_model:
        assert all(note.startswith("a note for") for note in notes)
    else:
        assert notes == {f"{name} " + " ".join(["the"] * 30) for name in ("judgerank_query", "judgerank_passage")}
