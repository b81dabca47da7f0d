"""Setwise heapsort, bubblesort and insertion: what they ask, in which order, and what they make of the answers."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from r2llm.rerankers import catalog
from r2llm.rerankers.backends import replay, simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.methods.setwise import Params, best_of
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import Answer, Ask, Candidates, Doc, Query

SORTS = [name for name in catalog.names("method") if name.startswith("setwise.")]
Chooser = Callable[[tuple[int, ...]], int]


def sort(name: str, n: int, choose: Chooser, **params: Any) -> tuple[list[int], list[tuple[int, ...]]]:
    """Run a sort over documents 0 … n-1: the ranking, and the windows that were shown, all asks of a round as one."""
    method = catalog.method(name)
    candidates = Candidates(
        Query("q", ""), tuple(Doc(str(i), "") for i in range(n)), tuple(-float(i) for i in range(n))
    )
    steps = method.run(candidates, method.params(**params))
    windows = []
    try:
        asks = next(steps)
        while True:
            assert len(asks) == params.get("num_permutation", 1)
            shown = [tuple(map(int, ask.docs)) for ask in asks]
            windows.append(shown[0])
            asks = steps.send([answer(ask, window, choose) for ask, window in zip(asks, shown, strict=True)])
    except StopIteration as stop:
        return [int(doc) for doc in stop.value.docs], windows


def answer(ask: Ask, window: tuple[int, ...], choose: Chooser) -> Answer:
    """The answer to one ask: an order is made by choosing again and again."""
    if ask.kind == "choose":
        return Answer(choice=choose(window))
    assert ask.kind == "permute"
    order: list[int] = []
    while len(order) < len(window):
        left = [i for i in range(len(window)) if i not in order]
        order.append(left[choose(tuple(window[i] for i in left))])
    return Answer(order=tuple(order), scores=(0.0,) * len(window))


def first(window: tuple[int, ...]) -> int:
    return 0


def lowest(window: tuple[int, ...]) -> int:
    return window.index(min(window))


def highest(window: tuple[int, ...]) -> int:
    return window.index(max(window))


def test_heapsort_builds_the_heap_from_its_last_parent_then_sifts_what_was_the_last() -> None:
    ranking, windows = sort("setwise.heapsort", 7, first, k=1, num_child=2)
    assert ranking == [0, 1, 2, 3, 4, 5, 6]
    assert windows == [(2, 5, 6), (1, 3, 4), (0, 1, 2)]
    ranking, windows = sort("setwise.heapsort", 7, lowest, k=3, num_child=2)
    assert ranking == [0, 1, 2, 3, 4, 5, 6]
    assert windows == [(2, 5, 6), (1, 3, 4), (0, 1, 2), (6, 1, 2), (6, 3, 4), (5, 3, 2)]


def test_heapsort_follows_a_document_down_as_long_as_it_sinks() -> None:
    ranking, windows = sort("setwise.heapsort", 6, highest, k=1, num_child=2)
    # Parents 3 (no child), 2 and 1, then the root, which sinks below 5's old place.
    assert windows == [(2, 5), (1, 3, 4), (0, 4, 5), (0, 2)]
    assert ranking == [5, 0, 1, 2, 3, 4]


def test_heapsort_of_one_child_a_node() -> None:
    ranking, windows = sort("setwise.heapsort", 3, highest, k=3, num_child=1)
    assert windows == [(1, 2), (0, 2), (0, 1), (0, 1)]
    assert ranking == [2, 1, 0]


def test_bubblesort_moves_windows_up_by_num_child() -> None:
    ranking, windows = sort("setwise.bubblesort", 5, first, k=2, num_child=2)
    # The first pass changes nothing, so the second starts where the first ended.
    assert windows == [(2, 3, 4), (0, 1, 2), (1, 2)]
    assert ranking == [0, 1, 2, 3, 4]


def test_bubblesort_brings_the_last_document_to_the_front() -> None:
    ranking, windows = sort("setwise.bubblesort", 5, highest, k=2, num_child=2)
    assert windows == [(2, 3, 4), (0, 1, 4), (0, 3, 2), (1, 3)]
    assert ranking == [4, 3, 0, 1, 2]


def test_bubblesort_starts_the_next_pass_where_the_last_one_first_changed_something() -> None:
    best_first = [0, 1, 7]

    def choose(window: tuple[int, ...]) -> int:
        return min(range(len(window)), key=lambda i: best_first.index(window[i]) if window[i] in best_first else 9)

    ranking, windows = sort("setwise.bubblesort", 11, choose, k=3, num_child=2)
    assert ranking == [0, 1, 7, 2, 3, 4, 5, 6, 8, 9, 10]
    assert windows[:5] == [(8, 9, 10), (6, 7, 8), (4, 5, 7), (2, 3, 7), (0, 1, 7)]


@pytest.mark.parametrize("name", SORTS)
@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("num_child", [1, 2, 9])
def test_fewer_than_two_documents_are_not_asked_about(name: str, n: int, num_child: int) -> None:
    assert sort(name, n, first, k=10, num_child=num_child) == (list(range(n)), [])


@pytest.mark.parametrize("name", SORTS)
@given(n=st.integers(2, 30), k=st.integers(1, 40), num_child=st.integers(1, 9), chance=st.randoms())
def test_whatever_is_answered_every_window_shows_two_to_num_child_plus_one_documents_once(
    name: str, n: int, k: int, num_child: int, chance
) -> None:
    ranking, windows = sort(name, n, lambda window: chance.randrange(len(window)), k=k, num_child=num_child)
    assert sorted(ranking) == list(range(n))
    assert ranking[k:] == sorted(ranking[k:])
    assert all(2 <= len(window) <= num_child + 1 for window in windows)
    assert all(len(set(window)) == len(window) for window in windows)


GRADES = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def judge(grades: Sequence[float]) -> Chooser:
    """A judge that is always right; of equal grades the one presented first is taken."""
    return lambda window: max(range(len(window)), key=lambda i: grades[window[i]])


@given(grades=GRADES, k=st.integers(1, 40), num_child=st.integers(1, 9))
def test_heapsort_with_a_judge_that_is_always_right_finds_the_best_k(grades: list[int], k: int, num_child: int) -> None:
    ranking, _ = sort("setwise.heapsort", len(grades), judge(grades), k=k, num_child=num_child)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


@given(grades=GRADES, k=st.integers(1, 40), num_child=st.integers(1, 9))
def test_bubblesort_with_a_judge_that_is_always_right_finds_the_best_k(
    grades: list[int], k: int, num_child: int
) -> None:
    ranking, _ = sort("setwise.bubblesort", len(grades), judge(grades), k=k, num_child=num_child)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


@pytest.mark.parametrize("num_child", [1, 2, 3, 4, 5])
def test_bubblesort_sorts_every_order_of_six_documents(num_child: int) -> None:
    for relevance in itertools.permutations(range(6)):
        ranking, _ = sort("setwise.bubblesort", 6, judge(relevance), k=6, num_child=num_child)
        assert [relevance[doc] for doc in ranking] == [5, 4, 3, 2, 1, 0]


@given(grades=GRADES, k=st.integers(1, 40))
def test_bubblesort_in_pairs_leaves_out_what_the_authors_code_leaves_out(grades: list[int], k: int) -> None:
    exact = sort("setwise.bubblesort", len(grades), judge(grades), k=k, num_child=1)
    assert exact == sort("setwise.bubblesort", len(grades), judge(grades), k=k, num_child=1, skip="reference")


@given(grades=GRADES, num_child=st.integers(1, 9), skip=st.sampled_from(["exact", "reference"]))
def test_bubblesort_with_a_judge_that_is_always_right_finds_the_best(
    grades: list[int], num_child: int, skip: str
) -> None:
    ranking, _ = sort("setwise.bubblesort", len(grades), judge(grades), k=3, num_child=num_child, skip=skip)
    assert grades[ranking[0]] == max(grades)


def test_bubblesort_after_a_change_in_a_window_cut_short_sees_the_window_below_again() -> None:
    ranking, windows = sort("setwise.bubblesort", 4, judge([1, 3, 0, 2]), k=2, num_child=2)
    assert windows == [(1, 2, 3), (0, 1), (0, 2, 3)]
    assert ranking == [1, 3, 0, 2]
    # The authors' code starts a document higher, and never compares document 3 with what document 1 leaves behind.
    ranking, windows = sort("setwise.bubblesort", 4, judge([1, 3, 0, 2]), k=2, num_child=2, skip="reference")
    assert windows == [(1, 2, 3), (0, 1), (0, 2)]
    assert ranking == [1, 0, 2, 3]


def test_bubblesort_sees_a_window_again_once_the_ranks_have_passed_its_head() -> None:
    ranking, windows = sort("setwise.bubblesort", 4, judge([3, 2, 0, 1]), k=4, num_child=2)
    assert windows == [(1, 2, 3), (0, 1), (2, 3)]
    assert ranking == [0, 1, 3, 2]
    ranking, windows = sort("setwise.bubblesort", 4, judge([3, 2, 0, 1]), k=4, num_child=2, skip="reference")
    assert windows == [(1, 2, 3), (0, 1)]
    assert ranking == [0, 1, 2, 3]


def test_compat_skips_as_the_authors_code_does() -> None:
    assert Ranker.create({"method": "setwise.bubblesort"}).params.skip == "exact"
    assert Ranker.create({"method": "setwise.bubblesort", "compat": "llm-rankers"}).params.skip == "reference"


@pytest.mark.parametrize("compat", [None, "llm-rankers"])
def test_a_label_outside_a_window_moves_up_the_document_that_far_below_in_compat_alone(
    rank, tmp_path: Path, compat: str | None
) -> None:
    # Windows 2-5, then 0-2, cut short at the top: D is 3 there. Beyond the list's end (2-5: F, 7) there is no document.
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"query_id": "q", "text": text}) + "\n" for text in ("F", "D")))
    docs = tuple(Doc(str(i), str(i)) for i in range(6))
    options = {"method": "setwise.bubblesort", "k": 1, "num_child": 3, "scoring": "generation"}
    options |= {"compat": compat, "parse": "digits"}
    backend = replay.open(replay.Options(answers=str(answers)), Setting())
    [(ranking, cost)] = rank(options, backend, [Candidates(Query("q", "q"), docs, tuple(-float(i) for i in range(6)))])
    assert ranking.docs == (("3", "0", "1", "2", "4", "5") if compat else ("0", "1", "2", "3", "4", "5"))
    assert cost.unparsed == 2


def test_what_came_later_changes_no_fingerprint_of_before() -> None:
    params = {name: Ranker.create({"method": name}).identity["params"] for name in catalog.names("method")}
    assert "outside" not in params["setwise.bubblesort"]
    swapped = Ranker.create({"method": "setwise.bubblesort", "outside": "swap"})
    assert swapped.identity["params"] == params["setwise.bubblesort"] | {"outside": "swap"}


def test_insertion_shows_the_rest_after_the_last_of_the_top_k() -> None:
    ranking, windows = sort("setwise.insertion", 9, lowest, k=3, num_child=2)
    assert windows == [(0, 1, 2), (2, 1), (2, 3, 4), (2, 5, 6), (2, 7, 8)]
    assert ranking == list(range(9))


def test_insertion_by_maxima_shows_again_what_has_not_won() -> None:
    relevance = [8, 7, 6, 9, 7.5]
    ranking, windows = sort("setwise.insertion", 5, judge(relevance), k=3, num_child=2)
    # 3 replaces 2 and moves to the top; 4, which was shown beside it, is shown again with the new last one.
    assert windows == [(0, 1, 2), (2, 1), (2, 3, 4), (0, 1, 3), (1, 4), (3, 0, 4)]
    assert ranking == [3, 0, 4, 1, 2]


def test_insertion_by_orders_shows_again_only_what_was_better_than_the_last() -> None:
    ranking, windows = sort("setwise.insertion", 6, judge([8, 7, 6, 1, 9, 2]), k=3, num_child=3, compare="sort")
    assert windows == [(0, 1, 2), (2, 1), (2, 3, 4, 5), (0, 1, 4)]
    # 3 and 5 came after 2.
    assert ranking == [4, 0, 1, 2, 3, 5]


@pytest.mark.parametrize("n", [1, 10])
def test_insertion_of_no_more_than_k_documents_is_heapsort(n: int) -> None:
    inserted = sort("setwise.insertion", n, highest, k=10, num_child=2)
    assert inserted == sort("setwise.heapsort", n, highest, k=10, num_child=2)


@given(grades=GRADES, k=st.integers(1, 40), num_child=st.integers(1, 9))
def test_insertion_by_orders_with_a_judge_that_is_always_right_finds_the_best_k(
    grades: list[int], k: int, num_child: int
) -> None:
    ranking, _ = sort("setwise.insertion", len(grades), judge(grades), k=k, num_child=num_child, compare="sort")
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


@given(grades=GRADES, k=st.integers(1, 40), num_child=st.integers(1, 9))
def test_insertion_by_maxima_is_sure_of_the_first_and_in_pairs_of_all(
    grades: list[int], k: int, num_child: int
) -> None:
    ranking, _ = sort("setwise.insertion", len(grades), judge(grades), k=k, num_child=num_child)
    assert grades[ranking[0]] == max(grades)
    ranking, _ = sort("setwise.insertion", len(grades), judge(grades), k=k, num_child=1)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


def test_insertion_by_maxima_can_miss_the_third_best() -> None:
    # Document 3 stops at the end of the window that 0 wins, below the lesser 1; 4 then loses to it, not to 1.
    relevance = [10, 8, 5, 9.5, 9]
    ranking, _ = sort("setwise.insertion", 5, judge(relevance), k=3, num_child=2)
    assert ranking[:3] == [0, 1, 3]
    ranking, _ = sort("setwise.insertion", 5, judge(relevance), k=3, num_child=2, compare="sort")
    assert ranking[:3] == [0, 3, 4]


def test_insertion_by_orders_needs_probabilities() -> None:
    options = {"method": "setwise.insertion", "compare": "sort"}
    assert Ranker.create(options).scoring == "likelihood"
    with pytest.raises(InputError, match="with these parameters needs scoring: likelihood"):
        Ranker.create(options | {"scoring": "generation"})
    with pytest.raises(ValidationError, match="leave out num_permutation"):
        Ranker.create(options | {"num_permutation": 3})


def test_insertion_by_orders_is_exact(rank, make_candidates) -> None:
    backend = simulated.open(simulated.Options(answers="rel"), Setting())
    [(ranking, _)] = rank({"method": "setwise.insertion", "compare": "sort"}, backend, [make_candidates(20)])
    [(sorted_ranking, _)] = rank({"method": "setwise.heapsort"}, backend, [make_candidates(20)])
    assert ranking == sorted_ranking


def like_bm25(queries: int = 30) -> list[list[float]]:
    """Relevances of a hundred documents in an order that says as much about them as BM25's, for several queries."""
    chance = random.Random(7)
    return [[chance.gauss(-rank, 30) for rank in range(100)] for _ in range(queries)]


def mean_asks(name: str, **params: Any) -> float:
    return fmean(len(sort(name, 100, judge(one), k=10, num_child=2, **params)[1]) for one in like_bm25())


def test_what_a_hundred_documents_in_an_order_like_bm25s_cost() -> None:
    # Published with models: 125.4 and 124.3 asks for heapsort, 460.5 and 457.4 for bubblesort, on DL19 and DL20.
    assert mean_asks("setwise.heapsort") == pytest.approx(125, abs=2)
    assert mean_asks("setwise.bubblesort") == pytest.approx(458, abs=5)
    assert mean_asks("setwise.insertion") == pytest.approx(98, abs=3)
    assert mean_asks("setwise.insertion", compare="sort") == pytest.approx(96, abs=3)


def test_what_a_hundred_documents_in_the_right_order_cost() -> None:
    def cost(name: str, num_child: int = 2, **params: Any) -> int:
        return len(sort(name, 100, lowest, k=10, num_child=num_child, **params)[1])

    assert (cost("setwise.heapsort"), cost("setwise.heapsort", 3)) == (102, 69)
    assert (cost("setwise.bubblesort"), cost("setwise.bubblesort", 3)) == (54, 39)
    assert cost("setwise.bubblesort", skip="reference") == 50
    assert cost("setwise.bubblesort", 3, skip="reference") == 35
    assert (cost("setwise.insertion"), cost("setwise.insertion", compare="sort")) == (64, 64)


def depth(node: int, n: int, num_child: int) -> int:
    """How many levels of a heap of n nodes lie below a node."""
    levels = 0
    while (node := num_child * node + 1) < n:
        levels += 1
    return levels


@given(n=st.integers(0, 60), k=st.integers(1, 70), num_child=st.integers(1, 9), chance=st.randoms())
def test_what_the_sorts_cost_at_most_whatever_is_answered(n: int, k: int, num_child: int, chance) -> None:
    def asks(name: str, n: int, k: int) -> int:
        return len(sort(name, n, lambda window: chance.randrange(len(window)), k=k, num_child=num_child)[1])

    def most(n: int) -> int:
        building = sum(depth(node, n, num_child) for node in range(n))
        return building + max(0, min(k, n) - 1) * depth(0, n, num_child)

    windows_a_pass = -(-max(0, n - 1) // num_child)
    assert asks("setwise.heapsort", n, k) <= most(n)
    assert windows_a_pass <= asks("setwise.bubblesort", n, k) <= k * windows_a_pass
    # Every one that is not among the first k can cost an ask to find it, and the asks that move it up.
    upwards = -(-(k - 1) // num_child)
    assert asks("setwise.insertion", n, k) <= most(min(n, k)) + max(0, n - k) * (1 + upwards)


def vote(choices: Sequence[int | None], seed: int = 0) -> int:
    """What three documents' votes come to: indices of documents, None for an answer that cannot be read."""
    docs = ["a", "b", "c"]
    steps = best_of(docs, Params(num_permutation=len(choices)), random.Random(seed))
    asks = next(steps)
    answers = [
        Answer(parsed=False) if doc is None else Answer(choice=ask.docs.index(docs[doc]))
        for ask, doc in zip(asks, choices, strict=True)
    ]
    with pytest.raises(StopIteration) as stop:
        steps.send(answers)
    return stop.value.value


def test_the_document_with_the_most_votes_wins() -> None:
    assert vote([2, 0, 2]) == 2
    assert vote([1, 1, 0, 2, 1]) == 1


def test_an_answer_that_cannot_be_read_is_no_vote() -> None:
    assert vote([None, None, 2]) == 2
    assert vote([None, None, None]) == 0


def test_of_several_with_the_most_votes_one_wins_by_seeded_chance() -> None:
    winners = [vote([1, 2, 1, 2, 0], seed) for seed in range(40)]
    assert set(winners) == {1, 2}
    assert winners == [vote([1, 2, 1, 2, 0], seed) for seed in range(40)]


def test_documents_and_labels_are_shuffled_each_on_their_own() -> None:
    asks = next(best_of(["a", "b", "c"], Params(num_permutation=200), random.Random(0)))
    assert {ask.docs for ask in asks} == set(itertools.permutations("abc"))
    assert {ask.labels for ask in asks} == set(itertools.permutations(range(3)))
    assert len({(ask.docs, ask.labels) for ask in asks}) == 36
    assert {(ask.kind, ask.sample) for ask in asks} == {("choose", 0)}


@pytest.mark.parametrize("name", SORTS)
@given(
    n=st.integers(0, 20),
    k=st.integers(1, 25),
    num_child=st.integers(1, 5),
    votes=st.integers(2, 5),
    seed=st.integers(0, 3),
)
def test_a_judge_that_is_always_right_is_right_by_majority(
    name: str, n: int, k: int, num_child: int, votes: int, seed: int
) -> None:
    one, windows = sort(name, n, lowest, k=k, num_child=num_child)
    many, shuffled = sort(name, n, lowest, k=k, num_child=num_child, num_permutation=votes, seed=seed)
    assert many == one
    assert [sorted(window) for window in shuffled] == [sorted(window) for window in windows]


@pytest.mark.parametrize("name", SORTS)
@pytest.mark.parametrize("scoring", ["generation", "likelihood"])
def test_votes_are_rounds_of_comparisons_of_which_equal_ones_are_answered_once(
    name: str, scoring: str, rank, make_candidates
) -> None:
    def ranked(**more: Any) -> Any:
        backend = simulated.open(simulated.Options(answers="rel"), Setting(seed=1))
        options = {"method": name, "scoring": scoring, "num_child": 1, "k": 3}
        [result] = rank(options | more, backend, [make_candidates(8)])
        return result

    (ranking, cost), (voted, votes) = ranked(), ranked(num_permutation=9)
    assert voted == ranking
    assert votes.rounds == cost.rounds
    assert votes.comparisons == votes.asks == 9 * cost.asks
    assert votes.calls <= 4 * cost.asks  # two documents, two labels


def test_the_seed_is_part_of_a_ranker_that_votes_and_of_no_other() -> None:
    def identity(seed: int, votes: int) -> dict[str, object]:
        return Ranker.create({"method": "setwise.heapsort", "num_permutation": votes}, seed).identity

    assert identity(1, 1) == identity(2, 1)
    assert identity(1, 2) != identity(2, 2)


def test_another_seed_shuffles_otherwise() -> None:
    def windows(seed: int) -> list[tuple[int, ...]]:
        return sort("setwise.heapsort", 20, lowest, k=5, num_permutation=3, seed=seed)[1]

    assert windows(1) == windows(1) != windows(2)


def test_documents_are_shuffled_in_every_ask_and_labels_stay_in_order() -> None:
    docs, dice = [str(i) for i in range(20)], random.Random(0)
    params, orders = Params(num_child=19, shuffle=True), set()
    for _ in range(10):
        steps = best_of(docs, params, dice)
        [ask] = next(steps)
        orders.add(ask.docs)
        assert (sorted(ask.docs), ask.labels) == (sorted(docs), ())
        with pytest.raises(StopIteration) as stopped:
            steps.send([Answer(choice=3)])
        assert docs[stopped.value.value] == ask.docs[3]
    assert len(orders) == 10
    unread = best_of(docs, params, dice)
    next(unread)
    with pytest.raises(StopIteration) as stopped:
        unread.send([Answer(parsed=False)])
    assert stopped.value.value == 0  # the parent stays, wherever it was shown
