"""Asks on their way to a server and back: how many are open, and what is handed over when one fails."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import openai
from r2llm.rerankers.errors import InputError


class Stub(openai.OpenAI):
    """Answers each ask alone after a moment, and fails at one of them; an ask is a number."""

    def __init__(self, failing: int, max_open: int) -> None:
        super().__init__(openai.Options(name="stub", max_concurrency=max_open), 0)
        self.failing = failing
        self.open = self.most_open = self.begun = 0

    async def _models(self, client: Any) -> list[str]:
        return []

    def _form_name(self, request: Any) -> str:
        return "chat"

    def _form(self, client: Any, name: str) -> Any:
        return self

    def groups(self, requests: Sequence[Any]) -> list[Sequence[Any]]:
        return [[request] for request in requests]

    async def answer(self, requests: Sequence[Any]) -> list[Reply]:
        [number] = requests
        self.open += 1
        self.begun += 1
        self.most_open = max(self.open, self.most_open)
        if number == self.failing:
            raise InputError("refused")
        await asyncio.sleep(0.01)
        self.open -= 1
        return [Reply(text=str(number))]


def collected(stub: Stub) -> list[Any]:
    answered: list[Any] = []
    while some := stub.collect():
        answered += some
    return answered


def test_all_asks_are_answered_and_no_more_are_open_than_allowed() -> None:
    stub = Stub(failing=-1, max_open=5)
    stub.submit(list(range(100)))  # type: ignore[arg-type]
    assert sorted(number for number, _ in collected(stub)) == list(range(100))
    stub.close()
    stub.close()
    assert stub.most_open == 5


def test_a_process_that_is_killed_while_it_writes_replies_loses_no_more_asks_than_may_be_open() -> None:
    stub = Stub(failing=-1, max_open=5)
    stub.submit(list(range(40)))  # type: ignore[arg-type]
    written = 0
    while some := stub.collect():
        time.sleep(0.03)  # writing takes so long that all that are open are answered
        assert stub.begun - written <= 5
        written += len(some)
    stub.close()
    assert written == 40


@pytest.mark.parametrize("failing", [0, 30])
def test_a_failure_is_raised_again_and_again_though_other_asks_never_began(failing: int) -> None:
    stub = Stub(failing, max_open=64)
    stub.submit(list(range(100)))  # type: ignore[arg-type]
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(InputError, match="refused"):
            collected(stub)
    stub.close()
    assert time.monotonic() - started < 10
