"""A server that speaks OpenAI's protocol: requests to it, their retries, and errors in words of the config.

What fails with 408, 409, 5xx, a timeout, a broken connection or a malformed or repeated reply is repeated: after half a
second, then twice as long each time up to 8 s, up to a quarter of it left out by chance, or after as long as the server
says. A server that is asked too much (429) is waited for, which is no failed attempt.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import openai

from ...errors import BackendError
from .budget import Budget, Spending
from .forms import DeclinedError, FailedError, RefusedError, usage
from .pace import SAID, Pace, named_wait, say_wait
from .refusals import Refusal, reason_declined, refusal
from .replicas import CALL, NOTHING, Call, Replicas

T = TypeVar("T")

MOST_TOLD = 300
"""So many characters of a server's own message are told."""

VALUES = 8
"""So many different values of a field that replies carry are kept."""

FIRST_PAUSE, MOST_PAUSE = 0.5, 8.0
"""Seconds before a failed request is repeated."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a server is reached: its URLs, the key and where it comes from, seconds a reply may take, and retries."""

    urls: Sequence[str]
    key: str | None
    key_name: str
    timeout: float
    retries: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def shown(self) -> str:
        """The base URLs, for messages."""
        return ", ".join(self.urls)

    def without_key(self, text: str) -> str:
        """A text in one line, with the key left out, shortened."""
        return " ".join((text.replace(self.key, "…") if self.key else text).split())[:MOST_TOLD]


class Server:
    """Requests to one server or its replicas; to be used in one event loop."""

    def __init__(self, access: Access, budget: Budget) -> None:
        self.access = access
        self.replicas = Replicas(access.urls, access.timeout, budget, access.key)
        self.pace = Pace(self.replicas.replicas, access.requests_per_minute, access.tokens_per_minute)
        self._answers = 0
        self._client = openai.AsyncOpenAI(
            base_url="http://replicas",
            api_key=access.key or "none",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=self.replicas),
        )
        self._headers: dict[str, Any] = {"Content-Type": "application/json"}
        if not access.key:
            self._headers["Authorization"] = openai.Omit()
        self.seen: dict[str, Counter[str]] = {"model": Counter(), "system_fingerprint": Counter()}
        """What the replies say of the model that gave them, and how often."""

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, asks: int = 0, most: Spending = NOTHING
    ) -> T:
        """What `read` makes of the reply; it raises `MalformedError` or any error of look-up where that is no answer.

        `asks` counts the asks that the request carries, `most` is what it can cost. Raises `RefusedError` where the
        server will not have the request, `DeclinedError` where its provider will not have the content, and
        `BackendError` where it has not answered after all retries.
        """
        declined: list[DeclinedError] = []

        def noting(reply: Any) -> T | None:
            self._note(reply)
            reason = reason_declined(reply)
            if reason is not None:
                counts = usage(reply, "prompt_tokens"), usage(reply, "completion_tokens")
                declined[:] = [DeclinedError(self.access.without_key(reason), *counts)]
                return None
            return read(reply)

        call = Call(noting, asks, most)
        content = json.dumps(body).encode()
        await self._answered(lambda: self._sent(path, content), call, self.access.retries, len(content) / 4)
        if declined:
            raise declined[0]
        result: T = call.result
        return result

    def _sent(self, path: str, content: bytes) -> Any:
        return self._client.post(path, cast_to=httpx2.Response, content=content, options={"headers": self._headers})

    async def get(self, path: str, most_retries: int) -> Any:
        """The JSON under a path, asked for with so many retries at most. Raises as `post` does."""
        call = Call(lambda reply: reply)
        await self._answered(
            lambda: self._client.get(path, cast_to=httpx2.Response, options={"headers": self._headers}),
            call,
            min(self.access.retries, most_retries),
        )
        return call.result

    async def _answered(self, send: Callable[[], Any], call: Call, retries: int, tokens: float = 0.0) -> None:
        """Send a request of about so many tokens until it is answered."""
        CALL.set(call)
        attempts = failures = 0
        answers_before = self._answers
        while True:
            await self.pace.enter(tokens)
            attempts += 1
            wait, said = None, None
            try:
                await send()
                self.pace.answered()
                self._answers += 1
                return
            except openai.APIStatusError as error:
                said = refusal(error.status_code, error.response.content, self.access.without_key)
                failure, wait = self._failure(said, attempts), named_wait(error.response.headers)
                if said.status == 429 and not said.lacks_credit and call.avoid is not None:
                    if self.pace.limited(call.avoid, wait, said.message):
                        continue
                    raise failure from None
                if not said.passes:
                    raise failure from None
            except openai.APIConnectionError:
                failure = self._no_answer(call, attempts)
            finally:
                self.pace.leave(call.tokens - tokens if call.tokens else 0.0)
            failures += 1
            if failures > retries:
                # A provider that reports a failure as success, while others are answered, fails at this prompt.
                if isinstance(failure, FailedError) and said and call.hidden and self._answers > answers_before:
                    raise DeclinedError(said.message)
                raise failure
            if wait is None:
                wait = min(FIRST_PAUSE * 2.0 ** (failures - 1), MOST_PAUSE) * random.uniform(0.75, 1)  # noqa: S311
            elif wait >= SAID:
                say_wait(self.access.shown, wait, call.trouble)
            await asyncio.sleep(wait)

    def _no_answer(self, call: Call, attempts: int) -> BackendError:
        access, trouble = self.access, self.access.without_key(call.trouble)
        what = "no answer" if call.malformed is None else "no usable answer"
        kind = BackendError if call.malformed is None else FailedError
        return kind(
            f"model.base_url: {what} from {access.shown} after {counted(attempts)} ({trouble}); see that the server "
            f"runs and keeps up (model.timeout is {access.timeout:g} s) and run again: all answers are kept"
        )

    def _failure(self, said: Refusal, attempts: int) -> Exception:
        """The error that a reply of no success is."""
        access, status, message = self.access, said.status, said.message
        if said.declines:
            return DeclinedError(message)
        if said.lacks_credit:
            return BackendError(
                f"model.base_url: the account at {access.shown} has no credit or quota left (status {status}: "
                f"{message}); top it up or name another key with model.api_key_env, and run again: all answers are kept"
            )
        if status in (401, 403):
            given = "was refused" if access.key else "is not set"
            why = f": {message}" if status == 403 else ""  # 401's may hold a part of the key
            return BackendError(
                f"{access.shown} lets nobody in without a valid key (status {status}{why}), and the one in the "
                f"environment variable {access.key_name} {given}; set it, or name another one with model.api_key_env"
            )
        if said.passes or status == 429 or status < 400:
            kind = FailedError if status >= 500 else BackendError
            remedy = "wait, or lower model.requests_per_minute," if status == 429 else "wait"
            return kind(
                f"model.base_url: {access.shown} answered with status {status} after {counted(attempts)} "
                f"({message}); {remedy} and run again: all answers are kept"
            )
        return RefusedError(status, message, said.field)

    def _note(self, reply: Any) -> None:
        if isinstance(reply, Mapping):
            for name, values in self.seen.items():
                value = reply.get(name)
                if isinstance(value, str) and (value in values or len(values) < VALUES):
                    values[value] += 1

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()


def counted(attempts: int) -> str:
    """So many attempts, in words."""
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
