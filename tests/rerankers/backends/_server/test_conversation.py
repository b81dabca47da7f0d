"""Asks on their way to a server and back: how many are open, and what is handed over when one fails."""

import asyncio
import time
from typing import Any

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends._server.conversation import Dispatch
from r2llm.rerankers.backends._server.forms import Group
from r2llm.rerankers.errors import InputError


class Conversation:
    """Answers each ask alone after a moment, and fails at one of them; an ask is a number."""

    def __init__(self, failing: int) -> None:
        self.failing = failing
        self.open = self.most_open = 0

    async def begin(self) -> None:
        pass

    def prepare(self, requests: list[Any]) -> list[Group]:
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

    def halt(self) -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    async def end(self) -> None:
        pass


def collected(dispatch: Any) -> list[Any]:
    answered: list[Any] = []
    while some := dispatch.collect():
        answered += some
    return answered


def test_all_asks_are_answered_and_no_more_are_open_than_allowed() -> None:
    conversation = Conversation(failing=-1)
    dispatch: Any = Dispatch(conversation, 5)  # type: ignore[arg-type]
    dispatch.submit(range(100))
    assert sorted(number for number, _ in collected(dispatch)) == list(range(100))
    dispatch.close()
    dispatch.close()
    assert conversation.most_open == 5


@pytest.mark.parametrize("failing", [0, 30])
def test_a_failure_is_raised_again_and_again_though_other_asks_never_began(failing: int) -> None:
    dispatch: Any = Dispatch(Conversation(failing), 64)  # type: ignore[arg-type]
    dispatch.submit(range(100))
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(InputError, match="refused"):
            collected(dispatch)
    dispatch.close()
    assert time.monotonic() - started < 10
