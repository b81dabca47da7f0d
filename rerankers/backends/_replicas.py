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
import ssl
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx2

from ..errors import BackendError
from ._budget import Budget, Spending
from ._forms import MalformedError, usage

FAILURES = 3
"""After so many failures, none of its attempts having succeeded between, a replica is left out."""

HEALTH_FIRST, HEALTH_MOST, HEALTH_TIMEOUT = 1.0, 30.0, 5.0
"""Seconds until one that is left out is tried again, at first and at most, and how long that may take."""

REMEMBERED = 16
"""So many of a connection's replies are remembered."""

NOTHING = Spending()

LIMITS = httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=4.0)


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


class Line:
    """A connection, and the last replies that it brought."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None) -> None:
        self.transport = httpx2.AsyncHTTPTransport(verify=context, limits=LIMITS, proxy=proxy)
        self._brought: deque[object] = deque(maxlen=REMEMBERED)

    def repeats(self, content: bytes, body: Any) -> bool:
        """Whether it has brought this reply before: one of the same id or, where it has none, of the same content."""
        reply = (body.get("id") if isinstance(body, Mapping) else None) or hash(content)
        repeated = reply in self._brought
        self._brought.append(reply)
        return repeated


@dataclass(eq=False)
class Replica:
    """One base URL."""

    url: httpx2.URL
    proxy: str | None
    addresses: dict[str, httpx2.URL] = field(default_factory=dict)
    idle: list[Line] = field(default_factory=list)
    asks: int = 0
    used: int = 0
    failures: int = 0
    up: bool = True

    def address(self, path: str) -> httpx2.URL:
        """The URL of a path below the base URL."""
        if path not in self.addresses:
            self.addresses[path] = self.url.copy_with(raw_path=self.url.raw_path.rstrip(b"/") + path.encode())
        return self.addresses[path]

    @property
    def host(self) -> str:
        """The header that names it."""
        return self.url.netloc.decode()


class Replicas(httpx2.AsyncBaseTransport):
    """Sends each attempt to one of the replicas."""

    def __init__(self, urls: Sequence[str], timeout: float, budget: Budget) -> None:
        self.replicas = [Replica(httpx2.URL(url), _proxy(httpx2.URL(url))) for url in urls]
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
                request.url, request.headers["Host"] = replica.address(path), replica.host
                try:
                    response, cost = await self._attempt(call, replica, request)
                    return response
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                    # Nothing was sent, so another may have it at once.
                    self._failed(call, replica, request, error)
                    self._leave_out(replica, request)
                    tried.add(replica)
                    if len(tried) == len(self.replicas):
                        raise
                except (httpx2.RequestError, ssl.SSLError) as error:
                    cost = call.most  # it may have been answered, and paid for, all the same
                    self._failed(call, replica, request, error)
                    raise
        finally:
            self.attempting.discard(task)
            self.budget.settle(call.most, cost)

    async def _attempt(self, call: Call, replica: Replica, request: httpx2.Request) -> tuple[httpx2.Response, Spending]:
        """A replica's response, checked where it is one of success, and what it cost."""
        line = replica.idle.pop() if replica.idle else Line(self._context, replica.proxy)
        replica.asks += call.asks
        replica.used = self.attempts = self.attempts + 1
        sound = False
        try:
            try:
                async with asyncio.timeout(self.timeout):
                    response = await line.transport.handle_async_request(request)
                    await response.aread()
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
            body = _checked(call, line, response)
            replica.failures = 0
            sound = True
            return response, _cost(body, call)
        finally:
            replica.asks -= call.asks
            if sound:
                replica.idle.append(line)
            else:
                await line.transport.aclose()

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
            line = Line(self._context, replica.proxy)
            with contextlib.suppress(httpx2.RequestError, ssl.SSLError, TimeoutError):
                async with asyncio.timeout(HEALTH_TIMEOUT):
                    question = httpx2.Request("GET", replica.address("/models"), headers=headers)
                    response = await line.transport.handle_async_request(question)
                    await response.aread()
                replica.up = response.status_code < 500
            await line.transport.aclose()
        replica.failures = 0

    async def aclose(self) -> None:
        """Close all connections."""
        for check in self._checks:
            check.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        for replica in self.replicas:
            for line in replica.idle:
                await line.transport.aclose()
            replica.idle.clear()


def _checked(call: Call, line: Line, response: httpx2.Response) -> Any:
    """A reply's JSON; the call has its result. Raises an error that the client retries on where it is no answer."""
    try:
        body = json.loads(response.content)
        if line.repeats(response.content, body):
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


def _proxy(url: httpx2.URL) -> str | None:
    """The proxy that the environment names for a URL; none for this machine."""
    if is_loopback(url.host) or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")
