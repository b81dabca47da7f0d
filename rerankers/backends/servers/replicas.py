"""One server or several replicas of it behind one client: requests go to the one with the fewest asks open.

An attempt is one HTTP request on a connection of its own; repeating it is the client's business. The reply is checked
before it counts: it must be whole JSON of the form that was asked for, and not one that its connection has brought
before, since after a repeated reply every later one on that connection would be taken for the answer to the request
after its own. A replica that fails is left out until it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2
import yarl

from ...errors import BackendError
from .budget import Budget, Spending
from .connections import Connection, proxy_of
from .forms import MalformedError, usage

FAILURES = 3
"""After so many failures, none of its attempts having succeeded between, a replica is left out."""

HEALTH_FIRST, HEALTH_MOST, HEALTH_TIMEOUT = 1.0, 30.0, 5.0
"""Seconds until one that is left out is tried again, at first and at most, and how long that may take."""

NOTHING = Spending()


class StoppedError(BackendError):
    """Another request has failed for good: this one is not repeated."""


@dataclass(eq=False, slots=True)
class Call:
    """A request, whichever attempt and replica answers it.

    `read` makes the `result` of a reply's JSON. `asks` is how many asks it carries, `most` what it can cost.
    """

    read: Callable[[Any], Any]
    asks: int = 0
    most: Spending = NOTHING
    result: Any = None
    trouble: str = ""
    """What went wrong in the last attempt."""
    avoid: Replica | None = None
    """Where that was."""


CALL: ContextVar[Call] = ContextVar("call")
"""The call of the task that is running: the client hands it to the transport in no other way."""


@dataclass(eq=False)
class Replica:
    """One base URL."""

    url: str
    proxy: str | None
    addresses: dict[str, yarl.URL] = field(default_factory=dict)
    idle: list[Connection] = field(default_factory=list)
    asks: int = 0
    used: int = 0
    failures: int = 0
    up: bool = True

    def address(self, path: str) -> yarl.URL:
        """The URL of a path below the base URL."""
        if path not in self.addresses:
            self.addresses[path] = yarl.URL(self.url.rstrip("/") + path)
        return self.addresses[path]


class Replicas(httpx2.AsyncBaseTransport):
    """Sends each attempt to one of the replicas."""

    def __init__(self, urls: Sequence[str], timeout: float, budget: Budget) -> None:
        self.replicas = [Replica(url, proxy_of(url)) for url in urls]
        self.timeout = timeout
        self.budget = budget
        self.stopped = False
        """Whether nothing is repeated any more."""
        self.attempting: set[asyncio.Task[Any] | None] = set()
        """The tasks that wait for a reply, and not for their next attempt."""
        self.attempts = 0
        self._checks: set[asyncio.Task[None]] = set()
        self._context = httpx2.create_ssl_context()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One attempt at the running task's call."""
        call = CALL.get()
        if self.stopped:
            raise StoppedError("stopped")
        await self.budget.reserve(call.most)
        cost = NOTHING
        task = asyncio.current_task()
        path = request.url.raw_path.decode()  # below the base URL
        self.attempting.add(task)
        try:
            tried: set[Replica] = set()
            while True:
                replica = self._choose(call, tried)
                try:
                    response, cost = await self._attempt(call, replica, replica.address(path), request)
                    return response
                except httpx2.ConnectError as error:
                    # Nothing was sent, so another may have it at once.
                    self._failed(call, replica, request, error)
                    self._leave_out(replica, request)
                    tried.add(replica)
                    if len(tried) == len(self.replicas):
                        raise
                except httpx2.RequestError as error:
                    cost = call.most  # it may have been answered, and paid for, all the same
                    self._failed(call, replica, request, error)
                    raise
        finally:
            self.attempting.discard(task)
            self.budget.settle(call.most, cost)

    async def _attempt(
        self, call: Call, replica: Replica, url: yarl.URL, request: httpx2.Request
    ) -> tuple[httpx2.Response, Spending]:
        """A replica's response, checked where it is one of success, and what it cost."""
        connection = replica.idle.pop() if replica.idle else self._connection(replica)
        replica.asks += call.asks
        replica.used = self.attempts = self.attempts + 1
        sound = False
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    response = await connection.send(url, request)
            except TimeoutError:
                raise httpx2.ReadTimeout(f"no reply within {self.timeout:g} s") from None
            if not response.is_success:
                # What is refused is not paid for.
                call.trouble = f"status {response.status_code}"
                if response.status_code >= 500:
                    self._failed(call, replica, request)
                elif self.stopped:
                    raise StoppedError("stopped")
                return response, NOTHING
            body = _checked(call, connection, response)
            replica.failures = 0
            sound = True
            return response, _cost(body, call)
        finally:
            replica.asks -= call.asks
            if sound:
                replica.idle.append(connection)
            else:
                await connection.close()

    def _connection(self, replica: Replica) -> Connection:
        return Connection(self._context, replica.proxy, self.timeout)

    def _choose(self, call: Call, tried: set[Replica]) -> Replica:
        """The replica with the fewest asks open, of those that answer, and not where the last attempt failed."""
        left = [replica for replica in self.replicas if replica not in tried]
        ups = [replica for replica in left if replica.up] or left
        others = [replica for replica in ups if replica is not call.avoid] or ups
        return min(others, key=lambda replica: (replica.asks, replica.used))

    def _failed(self, call: Call, replica: Replica, request: httpx2.Request, error: Exception | None = None) -> None:
        if error is not None:
            call.trouble = str(error) or type(error).__name__
        call.avoid = replica
        replica.failures += 1
        if replica.failures >= FAILURES:
            self._leave_out(replica, request)
        if self.stopped:
            raise StoppedError("stopped") from None

    def _leave_out(self, replica: Replica, request: httpx2.Request) -> None:
        if replica.up and len(self.replicas) > 1:
            replica.up = False
            check = asyncio.get_running_loop().create_task(self._until_up(replica, request))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)

    async def _until_up(self, replica: Replica, request: httpx2.Request) -> None:
        """Ask a replica that is left out, ever more seldom, whether it answers again."""
        pause = HEALTH_FIRST
        headers = {name: request.headers[name] for name in ("authorization",) if name in request.headers}
        while not replica.up:
            await asyncio.sleep(pause * random.uniform(0.75, 1))  # noqa: S311
            pause = min(2 * pause, HEALTH_MOST)
            connection = self._connection(replica)
            with contextlib.suppress(httpx2.RequestError, TimeoutError):
                async with asyncio.timeout(HEALTH_TIMEOUT):
                    question = httpx2.Request("GET", replica.url, headers=headers)
                    response = await connection.send(replica.address("/models"), question)
                replica.up = response.status_code < 500
            await connection.close()
        replica.failures = 0

    async def aclose(self) -> None:
        """Close all connections."""
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        for replica in self.replicas:
            for connection in replica.idle:
                await connection.close()
            replica.idle.clear()


def _checked(call: Call, connection: Connection, response: httpx2.Response) -> Any:
    """A reply's JSON; the call has its result. Raises an error that the client retries on where it is no answer."""
    try:
        body = json.loads(response.content)
        if connection.repeats(response.content, body):
            raise MalformedError("a reply that was given before")
        call.result = call.read(body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MalformedError) as error:
        what = str(error) if isinstance(error, MalformedError) else f"{type(error).__name__}: {error}"
        raise httpx2.RemoteProtocolError(f"malformed reply ({what})") from None
    return body


def _cost(body: Any, call: Call) -> Spending:
    """What a reply says that it cost; where it says nothing, the most that it can have cost."""
    prompt = usage(body, "prompt_tokens")
    prompt = usage(body, "total_tokens") if prompt is None else prompt
    if prompt is None:
        return call.most
    details = body["usage"].get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Spending(call.most.calls, prompt, usage(body, "completion_tokens") or 0, cached or 0)
