"""Long documents: how they are split, how passages' scores become documents' scores, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import r2llm
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from r2llm.rerankers import passages
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends.base import Backend, Request
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.passages import Passages
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import Candidates, Cost, Doc, Query, Ranking

Rank = Callable[..., list[tuple[Ranking, Cost]]]

SMALL = {"words": 3, "overlap": 1}


def text(words: int, before: str = "w") -> str:
    return " ".join(f"{before}{i}" for i in range(words))


def candidates(**texts: str) -> Candidates:
    docs = tuple(Doc(name, each) for name, each in texts.items())
    return Candidates(Query("q", "tides"), docs, tuple(float(-i) for i in range(len(docs))))


def judge(request: Request) -> Reply:
    """A passage is as relevant as the greatest number in it says: 100 is certain."""
    number = max([int(word) for word in request.passages[0].split() if word.isdecimal()], default=0)
    yes = min(max(number / 100, 1e-6), 1 - 1e-6)
    labels = request.prompt.labels
    assert isinstance(labels, dict)
    best = max(labels, key=labels.__getitem__)
    return Reply(scores=tuple(math.log(yes if label == best else 1 - yes) for label in labels))


def ranked(rank: Rank, backend: Backend, found: Candidates, **options: Any) -> tuple[Ranking, Cost]:
    [result] = rank({"method": "pointwise.yes_no", "passages": SMALL | options}, backend, [found])
    return result


# Splitting


@pytest.mark.parametrize(
    ("words", "count"),
    [(0, 1), (1, 1), (50, 1), (150, 1), (151, 2), (250, 2), (251, 3), (350, 3), (351, 4), (1000, 10), (2000, 20)],
)
def test_parades_windows(words: int, count: int) -> None:
    found = passages.pieces(text(words), Passages())
    assert len(found) == count
    assert all(len(piece.split()) == 150 for piece in found[:-1])
    assert len(found[-1].split()) > 50 or count == 1


def test_a_final_window_no_longer_than_the_overlap_is_dropped() -> None:
    options = Passages(words=3, overlap=1)
    assert passages.pieces("a b c", options) == ["a b c"]
    assert passages.pieces("a b c d", options) == ["a b c", "c d"]
    assert passages.pieces("a b c d e", options) == ["a b c", "c d e"]


def test_a_text_of_one_window_is_left_as_it_is() -> None:
    assert passages.pieces("  two\n\n words ", Passages()) == ["  two\n\n words "]
    assert passages.pieces("", Passages()) == [""]


@given(st.integers(0, 400), st.integers(1, 40), st.integers(0, 39))
def test_windows_cover_the_text(words: int, size: int, overlap: int) -> None:
    if overlap >= size:
        with pytest.raises(ValidationError, match="overlap must be smaller than words"):
            Passages(words=size, overlap=overlap)
        return
    found = [piece.split() for piece in passages.pieces(text(words), Passages(words=size, overlap=overlap))]
    assert {word for piece in found for word in piece} == set(text(words).split())
    for before, after in pairwise(found):
        assert after[:overlap] == before[len(before) - overlap :]


def test_of_too_many_the_first_the_last_and_others_in_order() -> None:
    options = Passages(most=16, seed=118)
    whole = passages.pieces(text(5000), options)
    found = passages.shown(Doc("d", text(5000)), options)
    assert len(whole) == 50
    assert (len(found), found[0], found[-1]) == (16, whole[0], whole[-1])
    places = [whole.index(piece) for piece in found]
    assert places == sorted(set(places))
    assert passages.shown(Doc("d", text(5000)), options) == found
    assert passages.shown(Doc("e", text(5000)), options) != found
    assert passages.shown(Doc("d", text(5000)), Passages(most=16, seed=119)) != found
    assert passages.shown(Doc("d", text(5000)), Passages(most=1)) == whole[:1]
    assert passages.shown(Doc("d", text(5000)), Passages(aggregate="first")) == whole[:1]


def test_passage_ids_are_no_documents() -> None:
    found = passages.split(candidates(a=text(7), **{"a#2": "one", "b": "two"}), Passages(**SMALL))
    assert found.ids == ("a", "a##2", "a##3", "a#2", "b")
    assert found.scores == (0.0, 0.0, 0.0, -1.0, -2.0)
    assert passages.split(candidates(a=text(5), b="x"), Passages(**SMALL)).ids == ("a", "a#2", "b")


# Aggregating


@pytest.mark.parametrize(
    ("aggregate", "order", "scores"),
    [
        ("max", ("late", "high", "even"), (0.9, 0.8, 0.5)),
        ("first", ("high", "even", "late"), (0.8, 0.5, 0.1)),
        ("sum", ("even", "late", "high"), (1.5, 1.0, 0.8)),
        ("mean", ("high", "even", "late"), (0.8, 0.5, 0.5)),
    ],
)
def test_a_document_scores_what_its_passages_do(
    rank: Rank, rule_backend, aggregate: str, order: tuple[str, ...], scores: tuple[float, ...]
) -> None:
    found = candidates(even="50 a 50 b 50 c 50", late="10 a b c 90", high="80")
    ranking, cost = ranked(rank, rule_backend(judge), found, aggregate=aggregate)
    assert (ranking.docs, ranking.scores) == (order, pytest.approx(scores))
    assert cost.asks == (3 if aggregate == "first" else 6)
    assert (cost.rounds, cost.comparisons) == (1, 0)


def test_first_passages_share_their_answers_with_all_passages(rank: Rank, rule_backend) -> None:
    from r2llm.rerankers.ledger import Ledger

    ledger, backend, found = Ledger(None), rule_backend(judge), candidates(a="1 2 3 4 5", b="6")
    for aggregate, calls in (("max", 3), ("first", 0), ("mean", 0)):
        options = {"method": "pointwise.yes_no", "passages": SMALL | {"aggregate": aggregate}}
        [(_, cost)] = rank(options, backend, [found], ledger=ledger)
        assert cost.calls == calls
    ledger.close()


@given(st.lists(st.lists(st.integers(0, 99), max_size=12), min_size=1, max_size=6))
def test_any_documents_are_permuted_and_cost_an_ask_a_passage(rank: Rank, rule_backend, numbers) -> None:
    found = candidates(**{f"d{i}": " ".join(map(str, each)) for i, each in enumerate(numbers)})
    ranking, cost = ranked(rank, rule_backend(judge), found)
    assert sorted(ranking.docs) == sorted(found.ids)
    assert cost.asks == sum(max(1, len(range(0, max(len(each) - 1, 1), 2))) for each in numbers)
    greatest = [max(numbers[int(doc[1:])], default=0) for doc in ranking.docs]
    assert greatest == sorted(greatest, reverse=True)


@pytest.mark.parametrize("method", ["pointwise.yes_no", "pointwise.qlm"])
def test_short_documents_are_ranked_as_whole_ones(rank: Rank, method: str, make_candidates) -> None:
    found, model = make_candidates(8), r2llm.open_model({"backend": "simulated", "answers": "rel"})
    [(whole, before)] = rank({"method": method}, model, [found])
    [(split, after)] = rank({"method": method, "passages": {}}, model, [found])
    assert (split.docs, split.scores, after.asks) == (whole.docs, whole.scores, before.asks)


def test_the_best_passage_of_each_document_is_known(rank: Rank, rule_backend) -> None:
    ranking, _ = ranked(rank, rule_backend(judge), candidates(a="1 x y 2 z 40", b="30"))
    assert dict(zip(ranking.docs, ranking.passages, strict=True)) == {"a": "z 40", "b": "30"}


# Which rankers can


@pytest.mark.parametrize("method", ["setwise.heapsort", "pairwise.allpair", "listwise.sliding"])
def test_a_method_without_scores_is_refused(method: str) -> None:
    with pytest.raises(InputError, match=rf"{method} gives documents no scores, .* choose a pointwise method"):
        Ranker.create({"method": method, "passages": {}})


def test_the_split_is_part_of_what_a_ranker_is() -> None:
    identities = [
        Ranker.create({"method": "pointwise.qlm", "passages": given}, seed=seed).identity
        for given, seed in ((None, 0), ({}, 0), ({"words": 100}, 0), ({"aggregate": "sum"}, 0), ({}, 1))
    ]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert identities[0] == Ranker.create({"method": "pointwise.qlm"}).identity


def test_from_python() -> None:
    model = r2llm.open_model({"backend": "simulated"}, grades={"q": {"b": 1}})
    found = r2llm.rerank(
        {"q": "tides"},
        {"q": {"a": text(300), "b": text(200)}},
        ranker={"method": "pointwise.yes_no", "passages": {"words": 100, "overlap": 20}},
        model=model,
    )
    assert found["q"].docs == ("b", "a")
    assert found["q"].cost.asks == 4 + 3
