"""The words of ranking: what the constructors of asks say, and the two ways a method ends."""

import dataclasses

import pytest
from r2llm.rerankers import types
from r2llm.rerankers.types import Ask, Ranking


@pytest.mark.parametrize(
    ("made", "ask"),
    [
        (types.score("a"), Ask("score", ("a",))),
        (types.compare("b", "a"), Ask("compare", ("b", "a"))),
        (types.choose(["b", "a", "c"]), Ask("choose", ("b", "a", "c"))),
        (types.permute(["b", "a"]), Ask("permute", ("b", "a"))),
        (types.write("analysis"), Ask("write", (), template="analysis")),
        (
            types.write("judgement", ["a"], [("analysis", "of moons")]),
            Ask("write", ("a",), template="judgement", notes=(("analysis", "of moons"),)),
        ),
    ],
)
def test_the_constructors_of_asks(made: Ask, ask: Ask) -> None:
    assert made == ask
    assert hash(made) == hash(ask)


def test_the_order_of_presentation_and_the_sample_tell_asks_apart() -> None:
    assert types.choose(["a", "b"]) != types.choose(["b", "a"])
    assert Ask("choose", ("a", "b"), sample=1) != types.choose(["a", "b"])


def test_what_was_asked_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        types.score("a").docs = ("b",)  # type: ignore[misc]


def test_the_ranked_come_first_and_the_rest_keeps_first_stage_order(make_candidates) -> None:
    candidates = make_candidates(5)
    assert candidates.ids == ("d00", "d01", "d02", "d03", "d04")
    assert types.top_then_rest(["d03", "d01"], candidates) == Ranking(("d03", "d01", "d00", "d02", "d04"))
    assert types.top_then_rest([], candidates) == Ranking(candidates.ids)


def test_equal_scores_keep_first_stage_order(make_candidates) -> None:
    ranking = types.by_score(make_candidates(5), [0.5, 0.7, 0.5, 0.7, 0.6])
    assert ranking == Ranking(("d01", "d03", "d04", "d00", "d02"), (0.7, 0.7, 0.6, 0.5, 0.5))
    assert types.by_score(make_candidates(3), [0.0, -0.0, 0.0]).docs == ("d00", "d01", "d02")
    assert types.by_score(make_candidates(0), []) == Ranking((), ())
