"""One server or several replicas of it behind one client: requests go to the one with the fewest asks open.

An attempt is one HTTP request on a connection of its own; repeating it is its caller's business. The reply is checked
before it counts: it must be whole JSON of the form that was asked for, and not one that its connection has brought
before, since after a repeated reply every later one on that connection would be taken for the answer to the request
after its own. A replica that fails is left out until it answers again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
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
from .refusals import hidden_status

FAILURES = 3
"""After so many failures, none of its attempts having succeeded between, a replica is left out."""

HEALTH_FIRST, HEALTH_MOST, HEALTH_TIMEOUT = 1.0, 30.0, 5.0
"""Seconds until one that is left out is tried again, at first and at most, and how long that may take."""

LEAST_SECRET = 16
"""A key of fewer characters is no secret, but a word such as "EMPTY", which an answer may hold."""

IDS = 4096
"""So many of a replica's last replies are remembered by their ids."""

NOTHING = Spending()


class MalformedReplyError(httpx2.RemoteProtocolError):
    """A reply that is no answer."""


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
    malformed: str | None = None
    """What was wrong with the last reply, if it was none."""
    avoid: Replica | None = None
    """Where that was."""
    hidden: bool = False
    """Whether the last reply was an error although its status says success."""
    tokens: int = 0
    """What the answer cost."""


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
    resumes: float = 0.0
    """Until when it asked not to be asked."""
    ids: dict[object, Connection] = field(default_factory=dict)
    """The last replies, by id or else content, and the connections that brought them."""
    ids_repeat: bool = False
    """Whether different replies have the same id, so that it tells none from another."""

    def address(self, path: str) -> yarl.URL:
        """The URL of a path below the base URL."""
        if path not in self.addresses:
            self.addresses[path] = yarl.URL(self.url.rstrip("/") + path)
        return self.addresses[path]


class Replicas(httpx2.AsyncBaseTransport):
    """Sends each attempt to one of the replicas."""

    def __init__(self, urls: Sequence[str], timeout: float, budget: Budget, key: str | None = None) -> None:
        self._secret = key.encode() if key and len(key) >= LEAST_SECRET else None
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
        # After a reply that is none, a connection of its own: on a kept one another reply may be waiting.
        keeps = replica.idle and call.malformed is None
        connection = replica.idle.pop() if keeps else self._connection(replica)
        replica.asks += call.asks
        replica.used = self.attempts = self.attempts + 1
        sound = False
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    response = await connection.send(url, request)
            except TimeoutError:
                raise httpx2.ReadTimeout(f"no reply within {self.timeout:g} s") from None
            if self._secret and self._secret in response.content:  # what is shown or kept of it has no key in it
                response = _with(response, response.content.replace(self._secret, b"..."), response.status_code)
            hidden = None
            if response.is_success:
                body = _json(response.content)
                hidden = hidden_status(body)
                if hidden is None:
                    _read(call, connection, replica, response.content, body)
                    replica.failures = 0
                    sound = True
                    cost = _cost(body, call)
                    call.tokens = cost.tokens
                    return response, cost
                response = _with(response, response.content, hidden)
            # What is refused is not paid for.
            call.trouble, call.malformed, call.avoid = f"status {response.status_code}", None, replica
            call.hidden = hidden is not None
            if response.status_code >= 500:
                self._failed(call, replica, request)
            elif self.stopped:
                raise StoppedError("stopped")
            return response, NOTHING
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
        now = time.monotonic()
        ups = [replica for replica in left if replica.up and replica.resumes <= now] or left
        others = [replica for replica in ups if replica is not call.avoid] or ups
        return min(others, key=lambda replica: (replica.asks, replica.used))

    def _failed(self, call: Call, replica: Replica, request: httpx2.Request, error: Exception | None = None) -> None:
        if error is not None:
            call.trouble = str(error) or type(error).__name__
            call.malformed = call.trouble if isinstance(error, MalformedReplyError) else None
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


def _with(response: httpx2.Response, content: bytes, status: int) -> httpx2.Response:
    """The same response with another content and status."""
    return httpx2.Response(status, headers=response.headers, content=content, request=response.request)


def _json(content: bytes) -> Any:
    """A reply's JSON, without lone surrogates. Raises an error that is repeated on where it is none."""
    try:
        body = json.loads(content)
        if b"\\ud" in content or b"\\uD" in content:
            body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedReplyError(f"malformed reply ({type(error).__name__}: {error})") from None
    return body


def _read(call: Call, connection: Connection, replica: Replica, content: bytes, body: Any) -> None:
    """Give the call its result. Raises an error that is repeated on where the reply is no answer."""
    try:
        if repeats(connection, replica, content, body):
            raise MalformedError("a reply that was given before")
        call.result = call.read(body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, MalformedError) as error:
        what = str(error) if isinstance(error, MalformedError) else f"{type(error).__name__}: {error}"
        raise MalformedReplyError(f"malformed reply ({what})") from None


def repeats(connection: Connection, replica: Replica, content: bytes, body: Any) -> bool:
    """Whether its connection has brought this reply before: one of the same id, where it has one, and content.

    It is none where ids are the same in different replies, or one comes again on another connection.
    """
    name = body.get("id") if isinstance(body, Mapping) else None
    reply = (name if isinstance(name, str) else None, hash(content))
    known = replica.ids.get(reply[0] or reply)
    if known is not None and (known is not connection or reply not in connection.brought):
        replica.ids_repeat = True
    replica.ids[reply[0] or reply] = connection
    if len(replica.ids) > IDS:
        del replica.ids[next(iter(replica.ids))]
    repeated = reply in connection.brought and not replica.ids_repeat
    connection.brought.append(reply)
    return repeated


def _cost(body: Any, call: Call) -> Spending:
    """What a reply says that it cost; where it says nothing, the most that it can have cost."""
    prompt = usage(body, "prompt_tokens")
    prompt = usage(body, "total_tokens") if prompt is None else prompt
    if prompt is None:
        return call.most
    details = body["usage"].get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    cached = cached if type(cached) is int else 0
    return Spending(call.most.calls, prompt, usage(body, "completion_tokens") or 0, cached)
