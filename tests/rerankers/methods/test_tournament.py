"""TourRank: its groups, its points and its costs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reading, Reply, read
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import Answer, Ask, Candidates, Doc, Query, Ranking


def run(grades: Sequence[int], **params: Any) -> tuple[Ranking, list[list[Ask]]]:
    """TourRank over documents 0 … n-1 with a judge that is always right: the ranking, and the rounds of asks."""
    method = catalog.method("tournament.tourrank")
    n = len(grades)
    candidates = Candidates(Query("q", ""), tuple(Doc(str(i), "") for i in range(n)), (0.0,) * n)
    steps = method.run(candidates, method.params(**params))
    rounds: list[list[Ask]] = []
    try:
        rounds.append(next(steps))
        while True:
            answers = []
            for ask in rounds[-1]:
                order = sorted(range(len(ask.docs)), key=lambda i: -grades[int(ask.docs[i])])
                answers.append(Answer(order=tuple(order[: ask.limit])))
            rounds.append(steps.send(answers))
    except StopIteration as stop:
        ranking: Ranking = stop.value
        return ranking, rounds


def shape(asks: Sequence[Ask]) -> Counter[tuple[int, int]]:
    """How many groups of each (size, promoted) there are in a round."""
    return Counter((len(ask.docs), ask.limit) for ask in asks)


@pytest.mark.parametrize("repeats", [1, 2, 10])
def test_a_tournament_of_a_hundred_is_thirteen_asks_in_five_rounds(repeats: int) -> None:
    _, rounds = run(range(100), repeats=repeats)
    published = [{(20, 10): 5}, {(10, 4): 5}, {(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]
    assert [shape(asks) for asks in rounds] == [
        Counter({size: groups * repeats for size, groups in stage.items()}) for stage in published
    ]


def test_group_i_holds_every_fifth_document_from_i_on_in_random_order() -> None:
    _, rounds = run(range(100), seed=3)
    shown = [[int(doc) for doc in ask.docs] for ask in rounds[0]]
    assert [sorted(group) for group in shown] == [list(range(i, 100, 5)) for i in range(5)]
    assert all(group != sorted(group) for group in shown)
    assert run(range(100), seed=3)[1] == rounds
    assert run(range(100), seed=4)[1] != rounds


def test_the_documents_left_are_dealt_out_in_first_stage_order() -> None:
    _, rounds = run(list(range(100, 0, -1)))
    assert [sorted(int(doc) for doc in ask.docs) for ask in rounds[1]] == [list(range(i, 50, 5)) for i in range(5)]


def test_every_stage_a_document_gets_through_is_a_point() -> None:
    ranking, _ = run(list(range(100, 0, -1)))
    assert ranking.docs == tuple(map(str, range(100)))
    assert Counter(ranking.scores) == {5: 2, 4: 3, 3: 5, 2: 10, 1: 30, 0: 50}
    twice, _ = run(list(range(100, 0, -1)), repeats=2)
    assert twice.docs == ranking.docs
    assert Counter(twice.scores) == {10: 2, 8: 3, 6: 5, 4: 10, 2: 30, 0: 50}


@given(grades=st.permutations(range(100)), repeats=st.integers(1, 3))
def test_a_judge_that_is_always_right_puts_the_best_two_first(grades: list[int], repeats: int) -> None:
    ranking, _ = run(grades, repeats=repeats)
    found = [grades[int(doc)] for doc in ranking.docs]
    assert set(found[:2]) == {99, 98}
    # A group of the second stage keeps four: no more than these are sure to be among the last five.
    assert {99, 98, 97, 96} < set(found[:5])
    assert ranking.scores is not None
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (2, []),
        (5, [{(5, 2): 1}]),
        (10, [{(10, 5): 1}, {(5, 2): 1}]),
        (20, [{(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]),
        (30, [{(10, 7): 2, (10, 6): 1}, {(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]),
        (50, [{(10, 4): 5}, {(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]),
        (60, [{(20, 17): 2, (20, 16): 1}, {(10, 4): 5}, {(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]),
        (200, [{(20, 5): 10}, {(10, 4): 5}, {(20, 10): 1}, {(10, 5): 1}, {(5, 2): 1}]),
    ],
)
def test_other_numbers_of_documents_leave_stages_out_or_make_more_groups(n: int, expected: list[Any]) -> None:
    _, rounds = run(range(n))
    assert [dict(shape(asks)) for asks in rounds] == expected


@given(
    n=st.integers(0, 130),
    repeats=st.integers(1, 3),
    stages=st.lists(
        st.tuples(st.integers(1, 60), st.integers(2, 20)), min_size=1, max_size=5, unique_by=lambda s: s[0]
    ),
)
def test_whatever_the_stages_groups_keep_to_their_size_and_nothing_is_lost(n: int, repeats: int, stages) -> None:
    stages = sorted(stages, reverse=True)
    table = [{"keep": keep, "size": size} for keep, size in stages]
    ranking, rounds = run(range(n), repeats=repeats, stages=table)
    assert sorted(map(int, ranking.docs)) == list(range(n))
    for asks in rounds:
        assert max(len(ask.docs) for ask in asks) <= max(size for _, size in stages)
        for number in range(repeats):
            shown = [doc for ask in asks if ask.sample == number for doc in ask.docs]
            assert len(set(shown)) == len(shown)


@pytest.mark.parametrize("scoring", ["generation", "likelihood"])
def test_costs_are_those_of_the_paper_whatever_answers(scoring: str, make_candidates, rank) -> None:
    for rule in ("rel", "hash"):
        backend = simulated.open(simulated.Options(answers=rule), Setting(seed=1))
        options = {"method": "tournament.tourrank", "repeats": 2, "scoring": scoring}
        [(ranking, cost)] = rank(options, backend, [make_candidates(100)])
        assert (cost.asks, cost.rounds, cost.comparisons, cost.unparsed) == (26, 5, 26, 0)
        assert ranking.scores is not None


def test_the_prompt_is_the_authors_conversation_or_the_setwise_question() -> None:
    written = Ranker.create({"method": "tournament.tourrank"})
    assert (written.prompt.name, written.scoring) == ("tourrank", "generation")
    scored = Ranker.create({"method": "tournament.tourrank", "scoring": "likelihood"})
    other = {"name", "source", "asks"}
    assert scored.prompt.model_dump(exclude=other) == prompts.load("setwise").model_dump(exclude=other)


def test_the_conversation_receives_document_after_document() -> None:
    turns = prompts.load("tourrank").render(Ask("select", ("a", "b", "c"), limit=2), "moons", ["one", "two", "three"])
    assert [turn.role for turn in turns] == ["system", "user", "assistant", *["user", "assistant"] * 3, "user"]
    assert turns[1].content.endswith("select the 2 documents that are most relevant to the given query: moons.")
    assert [turn.content for turn in turns[5:7]] == ["Document 2: two", "Received Document 2."]
    assert turns[-1].content.endswith("\nDocument 3, ..., Document 1")
    answer = read(
        Ask("select", ("a", "b", "c"), limit=2),
        prompts.load("tourrank"),
        Reply(text="Document 3, Document 1"),
        Reading(),
    )
    assert answer.order == (2, 0)
