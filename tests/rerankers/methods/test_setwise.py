"""Setwise heapsort and bubblesort: what they ask, in which order, and what they make of the answers."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.types import Answer, Candidates, Doc, Query

SORTS = [name for name in catalog.methods() if name.startswith("setwise.")]


def sort(
    name: str, n: int, choose: Callable[[tuple[int, ...]], int], **params: int
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Run a sort over documents 0 … n-1: the ranking, and the windows that were shown, one ask a round."""
    method = catalog.method(name)
    candidates = Candidates(
        Query("q", ""), tuple(Doc(str(i), "") for i in range(n)), tuple(-float(i) for i in range(n))
    )
    steps = method.run(candidates, method.params(**params))
    windows = []
    try:
        [ask] = next(steps)
        while True:
            assert ask.kind == "choose"
            windows.append(tuple(map(int, ask.docs)))
            [ask] = steps.send([Answer(choice=choose(windows[-1]))])
    except StopIteration as stop:
        return [int(doc) for doc in stop.value.docs], windows


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


def judge(grades: list[int]) -> Callable[[tuple[int, ...]], int]:
    """A judge that is always right; of equal grades the one presented first is taken."""
    return lambda window: max(range(len(window)), key=lambda i: grades[window[i]])


@given(grades=GRADES, k=st.integers(1, 40), num_child=st.integers(1, 9))
def test_heapsort_with_a_judge_that_is_always_right_finds_the_best_k(grades: list[int], k: int, num_child: int) -> None:
    ranking, _ = sort("setwise.heapsort", len(grades), judge(grades), k=k, num_child=num_child)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


@given(grades=GRADES, k=st.integers(1, 40))
def test_bubblesort_in_pairs_with_a_judge_that_is_always_right_finds_the_best_k(grades: list[int], k: int) -> None:
    ranking, _ = sort("setwise.bubblesort", len(grades), judge(grades), k=k, num_child=1)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]


@given(grades=GRADES, num_child=st.integers(1, 9))
def test_bubblesort_with_a_judge_that_is_always_right_finds_the_best(grades: list[int], num_child: int) -> None:
    ranking, _ = sort("setwise.bubblesort", len(grades), judge(grades), k=3, num_child=num_child)
    assert grades[ranking[0]] == max(grades)


def test_bubblesort_can_miss_the_second_best_as_the_authors_code_does() -> None:
    # The pass's first change is in the window that is cut short at the top; the next pass starts so much higher that
    # it never compares document 3 with those that document 1 leaves behind.
    ranking, windows = sort("setwise.bubblesort", 4, judge([1, 3, 0, 2]), k=2, num_child=2)
    assert windows == [(1, 2, 3), (0, 1), (0, 2)]
    assert ranking == [1, 0, 2, 3]


def test_what_a_hundred_documents_in_the_right_order_cost() -> None:
    assert len(sort("setwise.heapsort", 100, lowest, k=10, num_child=2)[1]) == 102
    assert len(sort("setwise.heapsort", 100, lowest, k=10, num_child=3)[1]) == 69
    assert len(sort("setwise.bubblesort", 100, lowest, k=10, num_child=2)[1]) == 50
    assert len(sort("setwise.bubblesort", 100, lowest, k=10, num_child=3)[1]) == 35
