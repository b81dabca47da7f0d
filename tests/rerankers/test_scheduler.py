"""Driving methods: what is asked once, what costs mean, unread answers, and a backend that dies half way."""

import random
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import accounting, scheduler
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Backend, Request, Setting
from r2llm.rerankers.errors import BackendError, R2llmError
from r2llm.rerankers.flops import Shape, of_answer
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.prices import Price
from r2llm.rerankers.ranker import RETRIES
from r2llm.rerankers.types import Ask, choose, compare, permute, score, write

HEAPSORT = {"method": "setwise.heapsort", "k": 3, "num_child": 2, "scoring": "generation"}
YES_NO = {"method": "pointwise.yes_no", "scoring": "generation"}
EXECUTION = {"calls", "cached", "seconds"}


def hashed(seed: int = 1):
    return simulated.open(simulated.Options(answers="hash"), Setting(seed=seed))


def told(reply: Reply | str):
    made = Reply(text=reply) if isinstance(reply, str) else reply
    return lambda request: made


def experiment(results) -> list:
    """Rankings, and the part of the costs that describes the experiment, by query."""
    costs = [{k: v for k, v in asdict(cost).items() if k not in EXECUTION} for _, cost in results]
    return sorted(zip([ranking.docs for ranking, _ in results], costs, strict=True), key=lambda one: one[1]["query_id"])


# Order of answers


@given(seed=st.integers(0, 1000), queries=st.integers(1, 4), data=st.data())
def test_answers_in_any_order_and_in_portions_give_the_same_rankings(
    make_candidates, rank, rule_backend, seed, queries, data
) -> None:
    inner = hashed()
    dice = random.Random(seed)

    def reply(request: Request) -> Reply:
        inner.submit([request])
        [(_, answer)] = inner.collect()
        return answer

    def some(waiting: list[Request]) -> list[Request]:
        return dice.sample(waiting, dice.randint(0, len(waiting)))

    candidates = [make_candidates(data.draw(st.integers(0, 12)), query_id=f"q{i}") for i in range(queries)]
    for options in (HEAPSORT, YES_NO):
        straight = rank(options, rule_backend(reply), candidates)
        scrambled = rank(options, rule_backend(reply, take=some), candidates)
        assert experiment(scrambled) == experiment(straight)
        assert experiment(rank(options, rule_backend(reply, take=some), candidates, pooled=False)) == experiment(
            straight
        )


def test_queries_that_are_done_together_are_handed_over_in_the_order_given(make_candidates, rank) -> None:
    queries = [make_candidates(4, query_id=f"q{i}") for i in (3, 1, 2)]
    assert [cost.query_id for _, cost in rank(YES_NO, hashed(), queries)] == ["q3", "q1", "q2"]
    assert [cost.query_id for _, cost in rank(HEAPSORT, hashed(), queries, pooled=False)] == ["q3", "q1", "q2"]


def test_a_bounded_number_of_queries_is_in_flight_and_all_are_ranked(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(told("Yes"))
    seen: list[int] = []

    def queries():
        for i in range(scheduler.IN_FLIGHT + 44):
            seen.append(len(backend.asked))
            yield make_candidates([f"passage {i}"], query_id=f"q{i}")

    results = rank(YES_NO, backend, queries())
    assert [cost.query_id for _, cost in results] == [f"q{i}" for i in range(300)]
    assert seen[scheduler.IN_FLIGHT - 1] == 0
    assert seen[scheduler.IN_FLIGHT] == scheduler.IN_FLIGHT


def test_one_query_at_a_time_is_ranked_to_its_end_before_the_next_is_looked_at(
    make_candidates, rank, rule_backend
) -> None:
    backend = rule_backend(told("A"))
    rank(HEAPSORT, backend, [make_candidates(9, query_id=f"q{i}") for i in range(3)], pooled=False)
    order = [request.query.id for request in backend.answered]
    assert order == sorted(order)
    assert set(order) == {"q0", "q1", "q2"}


# What is asked once


def test_equal_asks_are_answered_once_and_counted_as_cached(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(told(Reply(text="Yes", prompt_tokens=10, completion_tokens=1)))
    backend.simulated = False  # a model: two documents of one text are the same to it
    [(_, cost)] = rank(YES_NO, backend, [make_candidates(["x", "y", "x", "x"])])
    assert [request.ask for request in backend.asked] == [score("d00"), score("d01")]
    assert (cost.asks, cost.calls, cost.cached, cost.rounds) == (4, 2, 2, 1)
    assert (cost.prompt_tokens, cost.completion_tokens) == (40, 4)
    assert cost.seconds is not None  # an ask that is repeated within a query is part of its time


def test_equal_asks_of_two_queries_are_answered_once(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(told(Reply(text="Yes", prompt_tokens=10, completion_tokens=1)))
    backend.simulated = False
    costs = [cost for _, cost in rank(YES_NO, backend, [make_candidates(3, query_id=q) for q in ("q1", "q2")])]
    assert [(cost.asks, cost.calls, cost.cached, cost.prompt_tokens) for cost in costs] == [
        (3, 3, 0, 30),
        (3, 0, 3, 30),
    ]
    assert None not in [cost.seconds for cost in costs]


def test_one_at_a_time_nothing_is_shared_or_looked_up(make_candidates, rank, rule_backend) -> None:
    ledger = Ledger(None)
    backend = rule_backend(told(Reply(text="Yes", prompt_tokens=10, completion_tokens=1)))
    backend.simulated = False
    queries = [make_candidates(["x", "y", "x"], query_id=q) for q in ("q1", "q2")]
    for _ in range(2):  # the second time, all answers are in the ledger
        for _, cost in rank(YES_NO, backend, queries, ledger=ledger, pooled=False):
            assert (cost.asks, cost.calls, cost.cached, cost.prompt_tokens) == (3, 3, 0, 30)
            assert cost.seconds is not None
            assert cost.seconds > 0
    assert len(backend.answered) == 12
    assert len(ledger) == 2
    ledger.close()


def test_what_is_in_the_ledger_is_not_asked_again(make_candidates, rank, rule_backend, tmp_path: Path) -> None:
    candidates = [make_candidates(8, query_id=f"q{i}") for i in range(3)]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first = rank(HEAPSORT, hashed(), candidates, ledger=ledger)
    ledger.close()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    again = rank(HEAPSORT, hashed(), candidates, ledger=ledger)
    assert experiment(again) == experiment(first)
    assert all((cost.calls, cost.cached, cost.seconds) == (0, cost.asks, None) for _, cost in again)
    assert len(ledger) == sum(cost.calls for _, cost in first)
    assert ledger.models() == [{"answers": "hash", "backend": "simulated", "seed": 1}]
    other = rank(HEAPSORT, hashed(seed=2), candidates, ledger=ledger)
    assert all(cost.cached == 0 for _, cost in other)
    ledger.close()


# Costs


@pytest.mark.parametrize(
    ("asks", "count"),
    [
        ([], 0),
        ([score("a"), score("b"), Ask("likelihood", ("a",))], 0),
        ([compare("a", "b"), compare("b", "a"), compare("a", "c")], 2),
        ([choose(["a", "b", "c"]), choose(["a", "b"])], 2),
        ([permute(["a", "b", "c"])], 1),
        ([Ask("select", ("a", "b", "c"), limit=2), Ask("rate", ("a", "b"))], 2),
        ([write("analysis")], 0),
    ],
)
def test_comparisons_are_counted_as_the_papers_do(asks: list[Ask], count: int) -> None:
    assert accounting.comparisons(asks) == count


def test_rounds_and_comparisons_of_a_sort_are_its_asks(make_candidates, rank) -> None:
    [(_, cost)] = rank(HEAPSORT, simulated.open(simulated.Options(), Setting(grades={})), [make_candidates(7)])
    # Nothing is relevant, so the first shown always wins: three asks build the heap, and what was the last is kept
    # at the root twice.
    assert (cost.asks, cost.rounds, cost.comparisons) == (5, 5, 5)
    assert (cost.prompt_tokens, cost.completion_tokens) == (None, None)


def test_tokens_are_null_where_one_answer_did_not_count_them(make_candidates, rank, rule_backend) -> None:
    def reply(request: Request) -> Reply:
        return Reply(text="Yes", prompt_tokens=None if request.ask.docs == ("d01",) else 7, completion_tokens=2)

    [(_, cost)] = rank(YES_NO, rule_backend(reply), [make_candidates(3)])
    assert (cost.prompt_tokens, cost.completion_tokens) == (None, 6)


# Operations and prices


def priced(rule_backend, tokens: tuple[int | None, int | None] = (100, 2)):
    """A backend with a tiny model's config and prices, whose replies have so many tokens."""
    backend = rule_backend(lambda request: Reply("Yes", None, *tokens))
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    backend.config = SimpleNamespace(num_hidden_layers=2, hidden_size=8, intermediate_size=16, **heads)
    backend.price = Price(prompt=1.0, completion=4.0)
    return backend


def test_operations_and_prices_of_each_answer_are_summed(make_candidates, rank, rule_backend) -> None:
    backend = priced(rule_backend)
    [(_, cost)] = rank(YES_NO, backend, [make_candidates(["x", "y", "z"])])
    assert cost.flops == 3 * of_answer(Shape.of(backend.config), 100, 2)
    assert cost.usd == pytest.approx((300 * 1.0 + 6 * 4.0) / 1e6)


@pytest.mark.parametrize("tokens", [(None, 2), (100, None)])
def test_both_are_null_where_tokens_are_not_counted(make_candidates, rank, rule_backend, tokens) -> None:
    [(_, cost)] = rank(YES_NO, priced(rule_backend, tokens), [make_candidates(2)])
    assert (cost.flops, cost.usd) == (None, None)


def test_both_are_null_where_shape_and_prices_are_not_known(make_candidates, rank, rule_backend) -> None:
    [(_, cost)] = rank(YES_NO, rule_backend(told(Reply("Yes", None, 100, 2))), [make_candidates(2)])
    assert (cost.prompt_tokens, cost.flops, cost.usd) == (200, None, None)


def test_operations_and_prices_are_the_same_out_of_the_ledger(make_candidates, rank, rule_backend) -> None:
    ledger = Ledger(None)
    queries = [make_candidates(9, query_id=f"q{i}") for i in range(3)]

    def lengths(request: Request) -> Reply:
        return Reply("AB"[len(request.query.id + request.ask.docs[0]) % 2], None, 7 * int(request.ask.docs[0][1:]), 3)

    backend = priced(rule_backend)
    backend.reply = lengths
    first = rank(HEAPSORT, backend, queries, ledger=ledger)
    again = rank(HEAPSORT, backend, queries, ledger=ledger)
    assert all(cost.calls == 0 and cost.flops for _, cost in again)
    assert experiment(again) == experiment(first)
    ledger.close()


# Answers that cannot be read


def test_keep_order_takes_the_first_and_counts(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(told(Reply(text="hm", prompt_tokens=5, completion_tokens=1)))
    [(ranking, cost)] = rank({"method": "setwise.bubblesort", "scoring": "generation"}, backend, [make_candidates(9)])
    assert ranking.docs == make_candidates(9).ids
    assert cost.unparsed == cost.asks == cost.calls == cost.comparisons > 0
    assert all(request.terms.decoding.temperature == 0.0 for request in backend.asked)


def test_retry_asks_up_to_three_times_more_at_temperature_then_keeps_the_order(
    make_candidates, rank, rule_backend
) -> None:
    assert RETRIES == 3
    backend = rule_backend(told(Reply(text="hm", prompt_tokens=5, completion_tokens=1)))
    [(ranking, cost)] = rank(YES_NO | {"on_unparsed": "retry"}, backend, [make_candidates(["one", "two"])])
    assert ranking.docs == ("d00", "d01")
    first = [request for request in backend.asked if request.ask == score("d00")]
    assert [request.terms.decoding.temperature for request in first] == [0.0, 1.0, 1.0, 1.0]
    assert len({request.key for request in first}) == 4
    assert (cost.asks, cost.calls, cost.cached, cost.unparsed, cost.rounds) == (8, 8, 0, 8, 1)
    assert (cost.prompt_tokens, cost.completion_tokens) == (40, 8)


def test_retry_takes_the_first_answer_that_can_be_read(make_candidates, rank, rule_backend) -> None:
    def reply(request: Request) -> Reply:
        return Reply(text="Yes" if request.ask.docs == ("d01",) and request.terms.decoding.temperature else "hm")

    backend = rule_backend(reply)
    [(ranking, cost)] = rank(YES_NO | {"on_unparsed": "retry"}, backend, [make_candidates(2)])
    assert ranking.docs == ("d01", "d00")
    assert (cost.asks, cost.unparsed) == (4 + 2, 4 + 1)


def test_retries_are_shared_and_kept_as_first_tries_are(make_candidates, rank, rule_backend) -> None:
    options = YES_NO | {"on_unparsed": "retry"}
    ledger = Ledger(None)
    backend = rule_backend(told("hm"))
    backend.simulated = False
    results = rank(options, backend, [make_candidates(["same", "same"])], ledger=ledger)
    assert len(backend.asked) == len(ledger) == 4
    again = rank(options, backend, [make_candidates(["same", "same"])], ledger=ledger)
    assert len(backend.asked) == 4
    assert experiment(again) == experiment(results)
    assert results[0][1].unparsed == results[0][1].asks == 8
    ledger.close()


def test_fail_names_the_query_the_documents_and_the_answer(make_candidates, rank, rule_backend) -> None:
    options = HEAPSORT | {"on_unparsed": "fail"}
    with pytest.raises(BackendError) as raised:
        rank(options, rule_backend(told("I am\nnot sure")), [make_candidates(4, query_id="q17")])
    assert str(raised.value) == (
        "query q17: the answer 'I am\\nnot sure' about d01, d03 cannot be read; "
        "on_unparsed: keep_order or retry would go on"
    )
    assert rank(options, rule_backend(told("A")), [make_candidates(4)])[0][1].unparsed == 0


# A backend that dies


class Mortal(Backend):
    """Answers so many requests, a few at a time, then fails."""

    simulated = True

    def __init__(self, life: int) -> None:
        super().__init__()
        self.inner = hashed()
        self.identity = self.inner.identity
        self.life = life
        self.answered = 0

    def collect(self) -> list[tuple[Request, Reply]]:
        portion = self.take(min(3, self.life - self.answered))
        if not portion:
            raise BackendError("the server went away")
        self.answered += len(portion)
        self.inner.submit(portion)
        return self.inner.collect()


@pytest.mark.parametrize("life", [0, 1, 10, 25])
@pytest.mark.parametrize("options", [HEAPSORT, YES_NO])
def test_what_was_answered_before_the_end_is_kept_and_only_the_rest_is_asked(
    make_candidates, rank, options, life: int, tmp_path: Path
) -> None:
    queries = [make_candidates(10, query_id=f"q{i}") for i in range(3)]
    whole = rank(options, hashed(), queries)
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with pytest.raises(BackendError, match="the server went away"):
        rank(options, Mortal(life), queries, ledger=ledger)
    assert len(ledger) == life
    ledger.close()
    ledger = Ledger(path)
    healthy = Mortal(1_000_000)
    resumed = rank(options, healthy, queries, ledger=ledger)
    assert experiment(resumed) == experiment(whole)
    assert healthy.answered == sum(cost.calls for _, cost in whole) - life == sum(cost.calls for _, cost in resumed)
    assert sum(cost.cached for _, cost in resumed) == life + sum(cost.cached for _, cost in whole)
    assert all((cost.seconds is None) == (cost.cached > 0) for _, cost in resumed)
    ledger.close()


def test_a_method_that_loses_a_document_is_stopped(make_candidates, rank, rule_backend, monkeypatch) -> None:
    from r2llm.rerankers import catalog
    from r2llm.rerankers.methods.setwise import heapsort
    from r2llm.rerankers.types import Ranking

    def careless(candidates, params):
        yield [choose(candidates.ids)]
        return Ranking(candidates.ids[1:])

    assert catalog.method("setwise.heapsort").run is heapsort.heapsort
    monkeypatch.setattr(heapsort, "heapsort", careless)
    with pytest.raises(R2llmError, match=r"query q1: setwise\.heapsort lost or invented documents"):
        rank(HEAPSORT, rule_backend(told("A")), [make_candidates(3)])
