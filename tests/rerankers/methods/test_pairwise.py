"""The pairwise methods: what they ask, in which rounds, what it costs, and what they make of the answers."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.accounting import comparisons
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.methods.pairwise import probabilities
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import Answer, Ask, Candidates, Doc, Query, compare

EXACT = ["pairwise.allpair", "pairwise.bubblesort", "pairwise.heapsort", "pairwise.quicksort", "pairwise.sliding"]
PIVOTS = ["middle", "first", "last", "random", "median_of_three"]
ORDERS = ["both", "one"]
Judge = Callable[[int, int], bool]


def sort(
    name: str, n: int, first_wins: Judge, tie: Judge = lambda a, b: False, **params: Any
) -> tuple[list[int], list[list[Ask]]]:
    """Run a method over documents 0 … n-1: the ranking and the rounds; in a tie the one presented first is named."""

    def answer(ask: Ask) -> Answer:
        a, b = map(int, ask.docs)
        return Answer(choice=0 if tie(a, b) or first_wins(a, b) else 1)

    method = catalog.method(name)
    candidates = Candidates(
        Query("q", ""), tuple(Doc(str(i), "") for i in range(n)), tuple(-float(i) for i in range(n))
    )
    steps, rounds = method.run(candidates, method.params(**params)), list[list[Ask]]()
    try:
        rounds.append(next(steps))
        while True:
            rounds.append(steps.send([answer(ask) for ask in rounds[-1]]))
    except StopIteration as stop:
        return [int(doc) for doc in stop.value.docs], [asks for asks in rounds if asks]


def judged(relevance: Sequence[float], name: str, **params: Any) -> tuple[list[int], list[list[Ask]]]:
    """The same with a judge that is always right, and names the one presented first of equals."""
    return sort(
        name,
        len(relevance),
        lambda a, b: relevance[a] > relevance[b],
        lambda a, b: relevance[a] == relevance[b],
        **params,
    )


def compared(rounds: list[list[Ask]]) -> int:
    return sum(map(comparisons, rounds))


def asked(rounds: list[list[Ask]]) -> list[tuple[int, ...]]:
    return [tuple(map(int, ask.docs)) for asks in rounds for ask in asks]


def in_order(a: int, b: int) -> bool:
    return a < b


def reversed_order(a: int, b: int) -> bool:
    return a > b


GRADES = st.lists(st.integers(0, 3), min_size=0, max_size=25)


@pytest.mark.parametrize("name", EXACT)
@given(grades=GRADES, k=st.integers(1, 30))
def test_with_a_judge_that_is_always_right_the_best_k_are_found(name: str, grades: list[int], k: int) -> None:
    ranking, _ = judged(grades, name, k=k)
    assert sorted(ranking) == list(range(len(grades)))
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]
    assert ranking[k:] == sorted(ranking[k:])


@pytest.mark.parametrize("name", EXACT)
def test_every_order_of_five_documents_is_sorted(name: str) -> None:
    for relevance in itertools.permutations(range(5)):
        ranking, _ = judged(relevance, name, k=5)
        assert [relevance[doc] for doc in ranking] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", ["pairwise.allpair", "pairwise.bubblesort", "pairwise.heapsort", "pairwise.sliding"])
@given(n=st.integers(0, 12), k=st.integers(1, 15), chance=st.randoms())
def test_both_orders_of_a_pair_are_asked_together(name: str, n: int, k: int, chance) -> None:
    _, rounds = sort(name, n, lambda a, b: chance.random() < 0.5, k=k)
    for asks in rounds:
        assert [ask.docs for ask in asks[::2]] == [ask.docs[::-1] for ask in asks[1::2]]
        assert len(asks) == 2 * comparisons(asks)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_allpair_asks_about_every_pair_in_both_orders_in_one_round(n: int) -> None:
    _, rounds = sort("pairwise.allpair", n, in_order)
    assert sorted(asked(rounds)) == list(itertools.permutations(range(n), 2))
    assert len(rounds) == (n > 1)


@given(n=st.integers(0, 20), k=st.integers(1, 25), chance=st.randoms())
def test_sliding_compares_every_neighbour_in_every_pass_whatever_is_answered(n: int, k: int, chance) -> None:
    _, rounds = sort("pairwise.sliding", n, lambda a, b: chance.random() < 0.5, k=k)
    assert compared(rounds) == len(rounds) == sum(n - 1 - rank for rank in range(min(k, n)))


def test_sliding_costs_1890_prompts_for_the_top_10_of_100() -> None:
    _, rounds = sort("pairwise.sliding", 100, in_order, k=10)
    assert (compared(rounds), len(asked(rounds))) == (945, 1890)


@given(n=st.integers(0, 25), k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_bubblesort_ranks_as_sliding_does_and_asks_the_same_but_for_what_it_leaves_out(
    n: int, k: int, seed: int
) -> None:
    # Whatever is answered, as long as a pair that comes again is answered the same.
    def first_wins(a: int, b: int) -> bool:
        return random.Random(f"{seed} {a} {b}").random() < 0.5

    plain, passes = sort("pairwise.sliding", n, first_wins, k=k)
    quick, skipping = sort("pairwise.bubblesort", n, first_wins, k=k)
    assert quick == plain
    rest = iter(asked(passes))
    assert all(pair in rest for pair in asked(skipping))


def test_bubblesort_of_documents_in_the_right_order_is_one_pass() -> None:
    _, rounds = sort("pairwise.bubblesort", 100, in_order, k=10)
    assert asked(rounds)[::2] == [(i, i - 1) for i in range(99, 0, -1)]


def test_bubblesort_of_documents_in_the_wrong_order_leaves_nothing_out() -> None:
    _, rounds = sort("pairwise.bubblesort", 100, reversed_order, k=10)
    assert compared(rounds) == 945


@given(n=st.integers(0, 40), k=st.integers(1, 45), chance=st.randoms())
def test_heapsort_costs_two_comparisons_a_level_at_most(n: int, k: int, chance) -> None:
    def depth(node: int) -> int:
        return 0 if 2 * node + 1 >= n else 1 + depth(2 * node + 1)

    _, rounds = sort("pairwise.heapsort", n, lambda a, b: chance.random() < 0.5, k=k)
    extracting = max(0, min(k, n) - 1) * depth(0) if n else 0
    assert compared(rounds) <= 2 * (sum(depth(node) for node in range(n)) + extracting)


def like_bm25(queries: int = 30) -> Iterator[list[float]]:
    """Relevances of a hundred documents in an order that says as much about them as BM25's, for several queries."""
    chance = random.Random(7)
    return ([chance.gauss(-rank, 25) for rank in range(100)] for _ in range(queries))


def test_what_the_top_10_of_100_in_an_order_like_bm25s_cost() -> None:
    # Published, on DL19 and DL20: 226.8 to 244.3 and 778.5 to 886.9 comparisons, with models, which tie now and then.
    assert fmean(compared(judged(one, "pairwise.heapsort")[1]) for one in like_bm25()) == pytest.approx(244, abs=3)
    assert fmean(compared(judged(one, "pairwise.bubblesort")[1]) for one in like_bm25()) == pytest.approx(931, abs=10)


def batches(rounds: list[list[Ask]], size: int) -> int:
    return sum(math.ceil(len(asks) / size) for asks in rounds)


def test_quicksort_from_the_last_costs_about_497_comparisons_and_21_batches_of_128() -> None:
    sorts = [judged(one, "pairwise.quicksort", pivot="last", cache=False)[1] for one in like_bm25(100)]
    assert fmean(map(compared, sorts)) == pytest.approx(497, rel=0.03)
    assert fmean(batches(rounds, 128) for rounds in sorts) == pytest.approx(21, abs=1)
    sorts = [judged(one, "pairwise.quicksort")[1] for one in like_bm25(100)]
    assert fmean(map(compared, sorts)) == pytest.approx(220, rel=0.05)
    assert fmean(batches(rounds, 128) for rounds in sorts) == pytest.approx(12, abs=1)


def test_quicksort_of_documents_in_the_right_order() -> None:
    def cost(pivot: str, **params: Any) -> int:
        return compared(sort("pairwise.quicksort", 100, in_order, pivot=pivot, **params)[1])

    # The last: quickselect partitions 100, 99, … 10 documents, then quicksort 10, 9, … 2; its first ask the pairs of
    # quickselect's last again.
    assert cost("last", cache=False) == sum(range(9, 100)) + sum(range(1, 10)) == 4959
    assert cost("last") == 4950
    assert cost("middle", cache=False) == 204
    assert cost("first", cache=False) == sum(range(90, 100)) + sum(range(1, 10))


def test_quicksort_partitions_in_one_round_and_keeps_the_order_on_both_sides() -> None:
    ranking, rounds = sort("pairwise.quicksort", 7, lambda a, b: a % 2 > b % 2, lambda a, b: a % 2 == b % 2, k=7)
    # All but 3 against 3: none is better, 1 and 5 are ties and go right.
    assert asked(rounds[:1])[::2] == [(i, 3) for i in (0, 1, 2, 4, 5, 6)]
    assert len(rounds[0]) == 12
    # All but 2, then, of which 1 and 5 beat it.
    assert asked(rounds[1:2])[::2] == [(i, 2) for i in (0, 1, 4, 5, 6)]
    assert ranking[:3] == [3, 1, 5]


@pytest.mark.parametrize("pivot", PIVOTS)
@pytest.mark.parametrize("orders", ORDERS)
@given(grades=GRADES, k=st.integers(1, 30), seed=st.integers(0, 3), cache=st.booleans())
def test_quicksort_finds_the_best_k_from_every_pivot(
    pivot: str, orders: str, grades: list[int], k: int, seed: int, cache: bool
) -> None:
    params = {"k": k, "pivot": pivot, "orders": orders, "seed": seed, "cache": cache}
    ranking, rounds = judged(grades, "pairwise.quicksort", **params)
    assert [grades[doc] for doc in ranking[:k]] == sorted(grades, reverse=True)[:k]
    if cache:
        assert len(set(asked(rounds))) == len(asked(rounds))


@pytest.mark.parametrize("pivot", PIVOTS)
@pytest.mark.parametrize("orders", ORDERS)
@given(n=st.integers(0, 25), k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_quicksort_with_and_without_a_cache_ranks_the_same_whatever_is_answered(
    pivot: str, orders: str, n: int, k: int, seed: int
) -> None:
    def first_wins(a: int, b: int) -> bool:
        return random.Random(f"{seed} {a} {b}").random() < 0.5

    params = {"k": k, "pivot": pivot, "orders": orders, "seed": seed}
    remembered, fewer = sort("pairwise.quicksort", n, first_wins, **params)
    repeated, more = sort("pairwise.quicksort", n, first_wins, cache=False, **params)
    assert remembered == repeated
    assert set(asked(fewer)) == set(asked(more))
    # No pair comes again while selecting, nor while sorting; every partition fixes one document at least.
    top, three = min(n, k), 3 * 2 * n if pivot == "median_of_three" else 0
    assert compared(more) <= n * (n - 1) // 2 + top * (top - 1) // 2 + three


def test_quicksort_in_one_order_asks_half() -> None:
    _, both = sort("pairwise.quicksort", 50, in_order, cache=False)
    _, one = sort("pairwise.quicksort", 50, in_order, cache=False, orders="one")
    assert asked(one) == asked(both)[::2]


def test_the_median_of_three_is_found_in_a_round_of_three_comparisons_that_are_not_asked_again() -> None:
    for relevance in itertools.permutations(range(3)):
        _, rounds = judged(relevance, "pairwise.quicksort", pivot="median_of_three", k=3)
        assert [len(asks) for asks in rounds] == [6]
    _, rounds = judged([5, 1, 2, 3, 4, 0, 6], "pairwise.quicksort", pivot="median_of_three", k=1)
    assert asked(rounds[:1])[::2] == [(0, 3), (0, 6), (3, 6)]
    assert asked(rounds[1:2])[::2] == [(doc, 0) for doc in (1, 2, 4, 5)]


def test_where_all_are_ties_the_median_of_three_is_the_middle() -> None:
    _, rounds = sort("pairwise.quicksort", 7, in_order, lambda a, b: True, pivot="median_of_three", k=1)
    assert {pair[1] for pair in asked(rounds[1:2])[::2]} == {3}


def test_the_seed_is_part_of_a_quicksort_with_random_pivots_and_of_no_other() -> None:
    def identity(seed: int, pivot: str) -> dict[str, object]:
        return Ranker.create({"method": "pairwise.quicksort", "pivot": pivot}, seed).identity

    assert identity(1, "middle") == identity(2, "middle")
    assert identity(1, "random") != identity(2, "random")
    _, one = sort("pairwise.quicksort", 30, in_order, pivot="random", seed=1)
    _, other = sort("pairwise.quicksort", 30, in_order, pivot="random", seed=2)
    assert one != other


def instupr(n: int, make_candidates, rank, scoring: str, **params: Any) -> Any:
    backend = simulated.open(simulated.Options(answers="rel"), Setting(seed=3))
    options = {"method": "pairwise.instupr", "scoring": scoring}
    [result] = rank(options | params, backend, [make_candidates(n)])
    return result


@pytest.mark.parametrize("scoring", ["likelihood", "generation"])
def test_instupr_costs_100_and_870_prompts_in_two_rounds(scoring: str, make_candidates, rank) -> None:
    _, cost = instupr(100, make_candidates, rank, scoring)
    assert (cost.asks, cost.rounds, cost.comparisons) == (100 + 870, 2, 435)
    _, cost = instupr(8, make_candidates, rank, scoring)
    assert (cost.asks, cost.rounds, cost.comparisons) == (8 + 56, 2, 28)
    _, cost = instupr(8, make_candidates, rank, scoring, m=0)
    assert (cost.asks, cost.rounds, cost.comparisons) == (8, 1, 0)


def test_instupr_with_a_judge_that_is_always_right_ranks_all(make_candidates, rank) -> None:
    ranking, _ = instupr(40, make_candidates, rank, "likelihood")
    [(exact, _)] = rank(
        {"method": "pairwise.allpair", "k": 40},
        simulated.open(simulated.Options(answers="rel"), Setting(seed=3)),
        [make_candidates(40)],
    )
    assert ranking.docs == exact.docs


def instupr_of(
    scores: Sequence[float], pair: Callable[[int, int], Answer], m: int
) -> tuple[list[int], list[list[Ask]]]:
    """The ranking that scores and answers to pairs make, and the rounds."""
    method = catalog.method("pairwise.instupr")
    docs = tuple(Doc(str(i), "") for i in range(len(scores)))
    steps = method.run(Candidates(Query("q", ""), docs, (0.0,) * len(docs)), method.params(m=m))
    rounds = [next(steps)]
    rounds.append(steps.send([Answer(scores=(score,)) for score in scores]))
    with pytest.raises(StopIteration) as stop:
        steps.send([pair(*map(int, ask.docs)) for ask in rounds[1]])
    return [int(doc) for doc in stop.value.value.docs], rounds


def test_instupr_compares_the_best_by_score_and_leaves_the_rest_in_the_scores_order() -> None:
    scores = [1.5, 4.0, 2.0, 4.5, 2.0]
    ranking, rounds = instupr_of(scores, lambda a, b: Answer(choice=int(b < a)), m=3)
    assert [(ask.kind, ask.template) for ask in rounds[0]] == [("score", "instupr_score")] * 5
    assert asked(rounds[1:]) == list(itertools.permutations([3, 1, 2], 2))
    assert ranking == [1, 2, 3, 4, 0]


def test_instupr_of_equal_sums_ranks_the_better_scored_first() -> None:
    assert instupr_of([1.0, 2.0, 3.0], lambda a, b: Answer(choice=0), m=3)[0] == [2, 1, 0]
    assert instupr_of([1.0, 2.0, 3.0], lambda a, b: Answer(parsed=False), m=3)[0] == [2, 1, 0]


def test_instupr_adds_probabilities_not_wins() -> None:
    # 0 wins clearly against 2 and loses narrowly to 1, which wins narrowly twice.
    sure, hardly = 0.99, 0.51
    first = {(0, 1): 1 - hardly, (0, 2): sure, (1, 2): hardly}

    def pair(a: int, b: int) -> Answer:
        share = first[a, b] if a < b else 1 - first[b, a]
        return Answer(choice=int(share < 0.5), scores=(math.log(share), math.log(1 - share)))

    assert instupr_of([1.0, 1.0, 1.0], pair, m=3)[0] == [0, 1, 2]
    assert instupr_of([1.0, 1.0, 1.0], lambda a, b: Answer(choice=pair(a, b).choice), m=3)[0] == [1, 0, 2]


def test_the_probabilities_of_a_pair_are_made_to_sum_to_one() -> None:
    assert probabilities(Answer(choice=1)) == (0.0, 1.0)
    assert probabilities(Answer(parsed=False)) == (0.0, 0.0)
    assert probabilities(Answer(scores=(math.log(0.06), math.log(0.02)))) == pytest.approx((0.75, 0.25))
    assert probabilities(Answer(scores=(0.0, -1000.0))) == (1.0, 0.0)
    assert probabilities(Answer(scores=(-1000.0, 0.0))) == (0.0, 1.0)


@pytest.mark.parametrize(("pairs", "asks"), [("ordered", 20), ("once", 10)])
def test_sums_of_probabilities_over_pairs(pairs: str, asks: int, make_candidates, rank, rule_backend) -> None:
    """As duoT5: s[a] += p and s[b] += 1 - p, over ordered pairs (pygaggle) or those of the first stage's order."""
    chance = random.Random(0)
    logits = {pair: (chance.uniform(-3, 0), chance.uniform(-3, 0)) for pair in itertools.permutations(range(5), 2)}

    def pair_of(ask: Ask) -> tuple[int, ...]:
        return tuple(int(doc[1:]) for doc in ask.docs)

    backend = rule_backend(lambda request: Reply(scores=logits[pair_of(request.ask)]))
    options = {"method": "pairwise.probability", "prompt": "duot5", "pairs": pairs}
    [(ranking, cost)] = rank(options, backend, [make_candidates(5)])
    assert (cost.asks, cost.rounds) == (asks, 1)
    points = dict.fromkeys(range(5), 0.0)
    for a, b in map(pair_of, (request.ask for request in backend.asked)):
        yes, no = map(math.exp, logits[a, b])
        points[a] += yes / (yes + no)
        points[b] += no / (yes + no)
    expected = sorted(points, key=lambda doc: -points[doc])
    assert [int(doc[1:]) for doc in ranking.docs] == expected
    assert ranking.scores == pytest.approx([points[doc] for doc in expected])


def test_a_pair_as_duot5_reads_it() -> None:
    """castorini/pygaggle at 08339dd, T5DuoBatchTokenizer; RankLLM's template ends in a blank, which T5 drops."""
    [turn] = prompts.load("duot5").render(compare("a", "b"), "q", ["one", "two"], "encoder_decoder")
    assert turn.content == "Query: q Document0: one Document1: two Relevant:"
