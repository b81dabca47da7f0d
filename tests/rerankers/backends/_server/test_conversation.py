"""Asks on their way to a server and back: how many are open, and what is handed over when one fails."""

import asyncio
import time
from typing import Any

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends._server import conversation
from r2llm.rerankers.backends._server.forms import Group
from r2llm.rerankers.backends._server.spec import Options, ServerSpec
from r2llm.rerankers.errors import InputError


class Conversation(conversation.Conversation):
    """Answers each ask alone after a moment, and fails at one of them; an ask is a number."""

    def __init__(self, failing: int, max_open: int) -> None:
        super().__init__(ServerSpec(Options(name="stub", max_concurrency=max_open)), lambda: None)
        self.failing = failing
        self.open = self.most_open = 0

    async def begin(self) -> None:
        pass

    def prepare(self, requests: Any) -> list[Group]:
        return [Group("text", (request,), (None,)) for request in requests]

    async def answer(self, group: Group) -> list[Reply]:
        [number] = group.requests
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        if number == self.failing:  # type: ignore[comparison-overlap]
            raise InputError("refused")
        await asyncio.sleep(0.01)
        self.open -= 1
        return [Reply(text=str(number))]


def collected(stub: Conversation, waiting: Any) -> list[Any]:
    answered: list[Any] = []
    while some := stub.collect(waiting):
        answered += some
    return answered


def test_all_asks_are_answered_and_no_more_are_open_than_allowed() -> None:
    stub = Conversation(failing=-1, max_open=5)
    assert sorted(number for number, _ in collected(stub, list(range(100)))) == list(range(100))
    stub.close()
    stub.close()
    assert stub.most_open == 5


@pytest.mark.parametrize("failing", [0, 30])
def test_a_failure_is_raised_again_and_again_though_other_asks_never_began(failing: int) -> None:
    stub, waiting = Conversation(failing, max_open=64), list(range(100))
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(InputError, match="refused"):
            collected(stub, waiting)
    stub.close()
    assert time.monotonic() - started < 10
