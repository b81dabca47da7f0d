"""Asking a model for a while, with a clock of the test's own."""

from __future__ import annotations

import pytest
from r2llm.pipeline import request_sizes
from r2llm.pipeline.request_sizes import ask
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends.base import Backend, Request
from r2llm.rerankers.ranker import Ranker, Requests


class Clocked(Backend):
    """Loads for 30 s; takes 1 s a batch of up to four requests, and a tenth of a second a request."""

    def __init__(self) -> None:
        super().__init__()
        self.identity = {"backend": "clocked"}
        self.now = 0.0
        self.loaded = False
        self.portions: list[int] = []

    def submit(self, requests) -> None:
        self.portions.append(len(requests))
        super().submit(requests)

    def collect(self) -> list[tuple[Request, Reply]]:
        batch = self.take(4)
        self.now += 1.0 + 0.1 * len(batch) + 30.0 * (not self.loaded)
        self.loaded = True
        return [(request, Reply("Yes", None, 50, 2)) for request in batch]


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Clocked:
    model = Clocked()
    monkeypatch.setattr(request_sizes.time, "perf_counter", lambda: model.now)
    return model


@pytest.fixture
def sample(make_candidates, clocked: Clocked) -> list[Request]:
    candidates = make_candidates(100)
    requests = Requests(Ranker.create({"method": "pointwise.yes_no"}), clocked, candidates)
    return [requests.request(asked) for asked in next(requests.ranker.steps(candidates))]


def quiet(done: int, detail: str = "") -> None:
    """Hear of it."""


def test_time_is_that_of_as_many_as_are_asked_together_and_loading_is_kept_apart(clocked: Clocked, sample) -> None:
    found = ask(clocked, sample, 16, 12.0, quiet)
    assert clocked.portions == [1, 1, 2, 4, 8, 16]
    assert found.loading == pytest.approx(31.1)
    assert found.seconds == pytest.approx(1 / 4 + 0.1)
    assert len(found.replies) == 32
    assert found.completion_tokens == 2


def test_one_at_a_time_is_slower(clocked: Clocked, sample) -> None:
    assert ask(clocked, sample, 1, 10.0, quiet).seconds == pytest.approx(1.1)
    assert clocked.portions == [1] * 11


def test_a_model_that_is_slow_is_asked_twice(clocked: Clocked, sample) -> None:
    assert len(ask(clocked, sample, 16, 0.1, quiet).replies) == 2


@pytest.mark.parametrize("length", [1, 2, 9])
def test_no_more_is_asked_than_there_is(clocked: Clocked, sample, length: int) -> None:
    found = ask(clocked, sample[:length], 16, 1e9, quiet)
    assert len(found.replies) == max(length, 2)
    assert found.seconds > 0


def test_what_replies_do_not_say_is_not_known(clocked: Clocked, sample) -> None:
    clocked.collect = lambda: [(request, Reply("Yes")) for request in clocked.take()]  # type: ignore[method-assign]
    found = ask(clocked, sample[:9], 4, 1.0, quiet)
    assert found.completion_tokens is None
    assert request_sizes.sizes(sample, clocked, found) is None


def test_without_a_tokenizer_sizes_are_those_of_the_replies(clocked: Clocked, sample) -> None:
    answered = ask(clocked, sample, 4, 5.0, quiet)
    found = request_sizes.sizes(sample, clocked, answered)
    assert found is not None
    assert found.requests == len(answered.replies)
    assert (found.prompt_tokens, found.completion_tokens, found.flops, found.bounded) == (50, 2, None, False)
    assert request_sizes.sizes(sample, clocked, None) is None
