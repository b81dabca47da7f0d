"""Groupwise methods: groups of documents are rated, in as many prompts as there are groups."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Ask, write

REBEL = {"method": "groupwise.rebel"}
ONE_TURN = REBEL | {"turns": "one"}


def ratings(scores: dict[str, float], rubric: str = "Depth (0-5)."):
    """Replies in REBEL's form that rate the documents; those without a score are left out."""

    def reply(request) -> Reply:
        if request.ask.kind == "write":
            return Reply(text=rubric)
        rated = [(i, scores[doc]) for i, doc in enumerate(request.ask.docs, 1) if doc in scores]
        return Reply(text="\n".join(f"Doc: {i}, Relevance: {score}" for i, score in reversed(rated)))

    return reply


def test_a_rubric_is_written_and_shown_to_every_group_of_ten(make_candidates, rank, rule_backend) -> None:
    candidates = make_candidates(25)
    backend = rule_backend(ratings({"d07": 9, "d24": 12.5, "d11": 10}))
    [(ranking, cost)] = rank(REBEL, backend, [candidates])
    notes = (("rubric", "Depth (0-5)."),)
    assert [request.ask for request in backend.asked] == [
        write("rebel_rubric"),
        *(Ask("rate", candidates.ids[start : start + 10], notes=notes) for start in (0, 10, 20)),
    ]
    assert (cost.asks, cost.rounds, cost.comparisons, cost.unparsed) == (4, 2, 3, 0)
    assert ranking.docs[:3] == ("d24", "d11", "d07")
    assert list(ranking.docs[3:]) == [doc for doc in candidates.ids if doc not in ranking.docs[:3]]
    assert ranking.scores is None


def test_one_turn_asks_about_the_groups_alone_with_five_criteria(make_candidates, rank, rule_backend) -> None:
    candidates = make_candidates(12)
    backend = rule_backend(ratings({}))
    [(_, cost)] = rank(ONE_TURN, backend, [candidates])
    assert [request.ask for request in backend.asked] == [
        Ask("rate", candidates.ids[:10]),
        Ask("rate", candidates.ids[10:]),
    ]
    assert (cost.asks, cost.rounds) == (2, 1)
    prompt = backend.asked[0].prompt
    assert prompt.name == "rebel_one_turn"
    [turn] = prompt.render(Ask("rate", ("a", "b")), "moons", ["Two.", "Mars."])
    criteria = (
        "Depth of Content",
        "Diversity of Perspectives",
        "Clarity and Specificity",
        "Authoritativeness",
        "Recency",
    )
    assert all(turn.content.count(f"0.5*({name})") == 1 for name in criteria)
    assert turn.content.endswith("\n\nDocument 1:\nTwo.\n\nDocument 2:\nMars.\n\nQuestion: moons\nAnswer:")


@given(st.integers(2, 60), st.integers(1, 12), st.sampled_from(["one", "two"]), st.sampled_from(["rel", "hash"]))
def test_there_are_as_many_prompts_as_groups_and_one_for_the_rubric(
    make_candidates, rank, n, group_size, turns, answers
) -> None:
    backend = simulated.open(simulated.Options(answers=answers), Setting())
    options = REBEL | {"group_size": group_size, "turns": turns}
    [(ranking, cost)] = rank(options, backend, [make_candidates(n)])
    groups, rubric = math.ceil(n / group_size), int(turns == "two")
    assert (cost.asks, cost.rounds, cost.comparisons) == (groups + rubric, 1 + rubric, groups)
    assert sorted(ranking.docs) == sorted(make_candidates(n).ids)


@pytest.mark.parametrize(("options", "asks"), [(REBEL, 11), (ONE_TURN, 10)])
def test_a_hundred_documents_cost_ten_prompts_and_the_rubric(make_candidates, rank, options, asks: int) -> None:
    backend = simulated.open(simulated.Options(answers="rel"), Setting())
    [(_, cost)] = rank(options, backend, [make_candidates(100)])
    assert cost.asks == asks


def test_documents_below_the_threshold_and_those_not_named_follow_in_first_stage_order(
    make_candidates, rank, rule_backend
) -> None:
    scores = {"d00": 2.9, "d02": 3, "d03": 8, "d04": 0, "d05": 8, "d11": 8.5}
    [(ranking, _)] = rank(ONE_TURN, rule_backend(ratings(scores)), [make_candidates(12)])
    assert ranking.docs[:4] == ("d11", "d03", "d05", "d02")
    assert ranking.docs[4:] == ("d00", "d01", "d04", "d06", "d07", "d08", "d09", "d10")
    [(ranking, _)] = rank(ONE_TURN | {"drop_below": 0.0}, rule_backend(ratings(scores)), [make_candidates(12)])
    assert ranking.docs[:6] == ("d11", "d03", "d05", "d02", "d00", "d04")


def test_a_group_whose_answer_cannot_be_read_is_counted_and_kept_in_order(make_candidates, rank, rule_backend) -> None:
    def reply(request) -> Reply:
        return Reply(text="" if request.ask.docs[0] == "d00" else "Doc: 2, Relevance: 5")

    [(ranking, cost)] = rank(ONE_TURN | {"group_size": 3}, rule_backend(reply), [make_candidates(6)])
    assert ranking.docs == ("d04", "d00", "d01", "d02", "d03", "d05")
    assert cost.unparsed == 1


def test_without_a_rubric_the_groups_are_still_rated(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(ratings({"d02": 7}, rubric=""))
    [(ranking, cost)] = rank(REBEL, backend, [make_candidates(3)])
    assert (ranking.docs[0], cost.asks, cost.unparsed) == ("d02", 2, 1)
    [turn] = prompts.load("rebel").render(backend.asked[1].ask, "moons", ["a", "b", "c"])
    assert "Assign Relevance to each document on a scale of 0-10" in turn.content


@pytest.mark.parametrize("n", [0, 1])
def test_a_single_document_needs_no_rating(make_candidates, rank, rule_backend, n: int) -> None:
    [(ranking, cost)] = rank(REBEL, rule_backend(ratings({})), [make_candidates(n)])
    assert (ranking.docs, cost.asks) == (make_candidates(n).ids, 0)


def test_a_perfect_judge_ranks_a_single_group_by_relevance(make_candidates, rank) -> None:
    grades = {"q1": {"d03": 3, "d01": 2, "d04": 1}}
    backend = simulated.open(simulated.Options(), Setting(grades=grades))
    [(ranking, _)] = rank(REBEL, backend, [make_candidates(6)])
    assert ranking.docs == ("d03", "d01", "d04", "d00", "d02", "d05")


def test_shuffled_groups_are_rated_several_times_and_ranked_by_their_mean(make_candidates, rank, rule_backend) -> None:
    candidates, grades = make_candidates(25), {f"d{i:02d}": i % 7 for i in range(25)}
    broken = {"d03", "d10"}

    def reply(request) -> Reply:
        rated = {f"[{i}]": grades[doc] for i, doc in enumerate(request.ask.docs, 1) if doc not in broken}
        fenced = f"<reason>[1]: 9</reason>\n<answer>\n```json\n{json.dumps(rated)}\n```\n</answer>"
        return Reply(text=fenced.replace('"[2]"', '"[2]]"'))  # a bracket too many, which their code mends

    backend = rule_backend(reply)
    [(ranking, cost)] = rank({"method": "groupwise.shuffled", "group_size": 10}, backend, [candidates])
    asks = [request.ask for request in backend.asked]
    assert [len(ask.docs) for ask in asks] == [10, 10, 5] * 2
    assert [ask.sample for ask in asks] == [0, 0, 0, 1, 1, 1]
    for passed in (asks[:3], asks[3:]):
        assert sorted(doc for ask in passed for doc in ask.docs) == sorted(candidates.ids)
    assert {ask.docs for ask in asks[:3]} != {ask.docs for ask in asks[3:]}
    assert (cost.asks, cost.rounds, cost.unparsed) == (6, 1, 0)
    order = sorted(candidates.ids, key=lambda doc: -(0 if doc in broken else grades[doc]))
    assert ranking.docs == tuple(order)


def test_a_group_that_cannot_be_read_is_rated_nought_in_that_pass(make_candidates, rank, rule_backend) -> None:
    def reply(request) -> Reply:
        text = json.dumps({str(i): 8 for i, _ in enumerate(request.ask.docs, 1)})
        return Reply(text=text if request.ask.sample else "I cannot say")

    options = {"method": "groupwise.shuffled", "group_size": 5}
    [(ranking, cost)] = rank(options, rule_backend(reply), [make_candidates(5)])
    assert (ranking.scores, cost.unparsed) == ((4.0,) * 5, 1)
