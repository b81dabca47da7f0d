"""Pointwise yes/no: one round, one ask a document, sorted by the probability of Yes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.backends import Setting, simulated
from r2llm.rerankers.prompts.answers import Reply
from r2llm.rerankers.types import score


def test_every_document_is_asked_about_once_in_one_round(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(lambda request: Reply(scores=(-1.0, -2.0), prompt_tokens=9, completion_tokens=0))
    [(ranking, cost)] = rank({"method": "pointwise.yes_no"}, backend, [make_candidates(4)])
    assert [request.ask for request in backend.asked] == [score(f"d0{i}") for i in range(4)]
    assert (cost.asks, cost.rounds, cost.comparisons) == (4, 1, 0)
    assert (cost.prompt_tokens, cost.completion_tokens) == (36, 0)
    assert ranking.docs == ("d00", "d01", "d02", "d03")


def test_documents_are_sorted_by_the_share_of_yes_and_not_by_its_probability_alone(
    make_candidates, rank, rule_backend
) -> None:
    # P(Yes) over the vocabulary: 0.5, 0.1, 0.2, 0.2; over Yes and No: 0.5, 0.9…, 0.4, 0.4.
    scores = {
        "d00": (math.log(0.5), math.log(0.5)),
        "d01": (math.log(0.1), math.log(0.01)),
        "d02": (math.log(0.2), math.log(0.3)),
        "d03": (math.log(0.2), math.log(0.3)),
    }
    backend = rule_backend(lambda request: Reply(scores=scores[request.ask.docs[0]]))
    [(ranking, _)] = rank({"method": "pointwise.yes_no"}, backend, [make_candidates(4)])
    assert ranking.docs == ("d01", "d00", "d02", "d03")


@given(st.lists(st.sampled_from(["Yes", "No", "yes.", "perhaps", ""]), max_size=30))
def test_generated_answers_make_two_groups_in_first_stage_order(make_candidates, rank, rule_backend, texts) -> None:
    backend = rule_backend(lambda request: Reply(text=texts[int(request.ask.docs[0][1:])]))
    options = {"method": "pointwise.yes_no", "scoring": "generation"}
    [(ranking, cost)] = rank(options, backend, [make_candidates(len(texts))])
    yes = [f"d{i:02d}" for i, text in enumerate(texts) if text.lower().startswith("yes")]
    assert ranking.docs == (*yes, *(doc for doc in make_candidates(len(texts)).ids if doc not in yes))
    assert cost.unparsed == sum(text in ("perhaps", "") for text in texts)


@pytest.mark.parametrize("scoring", ["likelihood", "generation"])
def test_an_oracle_ranks_by_grade(make_candidates, rank, scoring: str) -> None:
    grades = {"q1": {"d04": 3, "d02": 2, "d03": 3, "d00": 1}}
    backend = simulated.open(simulated.Options(), Setting(grades=grades))
    [(ranking, _)] = rank({"method": "pointwise.yes_no", "scoring": scoring}, backend, [make_candidates(5)])
    if scoring == "likelihood":
        assert ranking.docs == ("d03", "d04", "d02", "d00", "d01")
    else:  # Yes from grade 1 on
        assert ranking.docs == ("d00", "d02", "d03", "d04", "d01")
