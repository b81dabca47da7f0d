"""Requests to a server or several replicas of it, each repeated until it is answered or there is no hope of it.

What fails with 408, 409, 425, 5xx, a timeout, a broken connection or a malformed or repeated reply is repeated: after
half a second, then twice as long each time up to 8 s. A server that is asked too much (429) or names a wait is waited
for, which is no failed attempt. One of several replicas that fails again and again rests, and then gets one request at
a time until it answers.

Each connection is a client of its own, which carries another request only after its reply was found sound. A server
that once repeats a reply would else answer each later request on that connection with the reply to the one before.
"""

import asyncio
import json
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx2

from ...errors import InputError
from .limits import Limiter, Spending, backoff, named_wait, spending
from .refusals import REPEATED, AttemptError, MalformedError, final, hidden_status, reason_declined, refusal
from .spec import ServerSpec

T = TypeVar("T")

FIRST_PAUSE, MAX_PAUSE = 0.5, 8.0  # seconds before a failed request is repeated
MAX_FIRST_RETRIES = 3  # at the first question, which has no body: that a server is not there is to be known soon
MAX_FAILURES = 3  # in a row, after which a replica rests
FIRST_REST, MAX_REST = 1.0, 30.0  # seconds for which it rests, doubled each time
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 4.0  # an idle connection lives so long: servers close theirs after five, some within a request
MAX_BYTES = 1 << 28  # of a reply, unpacked: 64 prompts of 8,000 tokens with log-probabilities take a tenth of it
MAX_TOKENS = 1 << 40  # any larger count of tokens is nonsense
REMEMBERED = 4096  # replies of a replica that are remembered
MAX_VALUES = 8  # different values that are kept of a field that replies carry
NOTHING = spending()
# Exceptions of reading a reply that is not of the form that was asked for.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, MalformedError)


class Replica:
    """One base URL with its idle connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.idle: list[aiohttp.ClientSession] = []
        self.asks = 0  # open there
        self.used = 0  # the number of its last attempt
        self.resumes = 0.0  # until then it is not asked: it said so, or it rests
        self.failures = 0
        self._proxy = proxy_of(url)
        self._context = certificates() if url.startswith("https:") else True
        self._replies: dict[int, aiohttp.ClientSession] = {}
        self._repeats_honestly = False

    def usable(self, now: float) -> bool:
        """Return whether it is to be asked: one that failed often is, once it has rested, by one request at a time."""
        return self.resumes <= now and (self.failures < MAX_FAILURES or not self.asks)

    def failed(self) -> None:
        """Count a failure, unless the request went out before the replica began to rest."""
        now = time.monotonic()
        if now >= self.resumes:
            self.failures += 1
            if self.failures >= MAX_FAILURES:
                self.resumes = now + backoff(self.failures - MAX_FAILURES, FIRST_REST, MAX_REST)

    def connection(self, *, new: bool) -> aiohttp.ClientSession:
        if self.idle and not new:
            return self.idle.pop()
        one = aiohttp.TCPConnector(limit=1, keepalive_timeout=IDLE_SECONDS, ssl=self._context)
        return aiohttp.ClientSession(connector=one, cookie_jar=aiohttp.DummyCookieJar(), proxy=self._proxy)

    def repeats(self, connection: aiohttp.ClientSession, text: str) -> bool:
        """Return whether the connection brought this reply, id and all, before.

        A server of which equal replies came on two connections does that honestly: from then on none is a repeat.
        """
        known = self._replies.get(hash(text))
        self._repeats_honestly |= known not in (None, connection)
        self._replies[hash(text)] = connection
        if len(self._replies) > REMEMBERED:
            del self._replies[next(iter(self._replies))]
        return known is connection and not self._repeats_honestly


@cache
def certificates() -> ssl.SSLContext:
    """Return this system's certificates, which are read once: it takes a while."""
    return httpx2.create_ssl_context()


class Client:
    """Requests to one server or its replicas; used in one event loop."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.replicas = [Replica(url.rstrip("/")) for url in spec.urls]
        self.limiter = Limiter(self.replicas, spec)
        self.stopped = False  # whether nothing is sent any more
        self.under_way: set[asyncio.Task[Any] | None] = set()  # the tasks that a reply is on its way to
        self.seen: dict[str, set[str]] = {"model": set(), "system_fingerprint": set()}  # of the replies
        self._attempts = self._answers = 0
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._headers |= {"Authorization": f"Bearer {spec.key}"} if spec.key else {}

    async def send(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], T], most: Spending = NOTHING
    ) -> T:
        """Return what `read` makes of the reply; it raises `MalformedError` or any look-up error if that is no answer.

        Without a body the path is only asked for. `most` is what the request can cost, and counts the asks it carries.
        Raises `AttemptError` where the server will not have the request or its provider the content, and `BackendError`
        where it has not answered after all retries.
        """
        content = b"" if body is None else json.dumps(body).encode()
        retries = self.spec.options.retries if content else min(self.spec.options.retries, MAX_FIRST_RETRIES)
        attempts, failures, answers_before = 0, 0, self._answers
        last: AttemptError | None = None
        while not self.stopped:
            attempts += 1
            try:
                return await self._attempt(path, content, read, most, last)
            except AttemptError as failure:
                last = failure
            if last.kind == "too many" and self.limiter.limited(last.replica, last.wait, last.reason):
                continue
            others = (replica for replica in self.replicas if replica is not last.replica)
            if last.kind == "unsent" and any(replica.usable(time.monotonic()) for replica in others):
                continue
            failures += 1
            if last.kind not in REPEATED or failures > retries:
                raise final(last, self.spec, attempts, others_answered=self._answers > answers_before)
            await asyncio.sleep(backoff(failures - 1, FIRST_PAUSE, MAX_PAUSE))
        raise asyncio.CancelledError

    async def _attempt(
        self, path: str, content: bytes, read: Callable[[Any], T], most: Spending, last: AttemptError | None
    ) -> T:
        """Return the answer of one request to a replica. Raises `AttemptError` if there is no answer."""
        tokens = len(content) / 4
        await self.limiter.enter(most, tokens)
        replica = self._choose(last.replica if last else None)
        # After a malformed reply, a new connection: another reply may be waiting on a kept one.
        connection = replica.connection(new=last is not None and last.kind == "malformed")
        replica.asks += most["calls"]
        self._attempts = replica.used = self._attempts + 1
        task, cost, sound = asyncio.current_task(), NOTHING, False
        self.under_way.add(task)
        try:
            body = await self._body(connection, replica, path, content)
            cost = _cost(body, most)
            if declined := reason_declined(body):
                tokens_told = usage(body, "prompt_tokens"), usage(body, "completion_tokens")
                raise AttemptError("declined", declined, tokens=tokens_told)
            answer = read(body)
            sound = True
            return answer
        except (AttemptError, *UNREADABLE) as error:
            failure = error
            if not isinstance(failure, AttemptError):
                problem = error if isinstance(error, MalformedError) else f"{type(error).__name__}: {error}"
                failure = AttemptError("malformed", f"malformed reply ({problem})")
            failure.replica, failure.reason = replica, self.spec.shown(failure.reason)
            sound = failure.kind == "declined" and not failure.status  # in a reply of success
            if failure.kind in ("silent", "malformed"):
                cost = most  # it may have been answered, and paid for, all the same
            if len(self.replicas) > 1 and failure.kind in REPEATED:
                replica.failed()
            raise failure from None
        finally:
            self.under_way.discard(task)
            self.limiter.leave(most, cost, tokens, answered=sound)
            replica.asks -= most["calls"]
            if sound:
                replica.failures, self._answers = 0, self._answers + 1
                replica.idle.append(connection)
            else:
                await connection.close()

    def _choose(self, avoid: Replica | None) -> Replica:
        """Return the usable replica with the fewest asks open, and not the one where the last attempt failed."""
        now = time.monotonic()
        usable = [replica for replica in self.replicas if replica.usable(now)] or self.replicas
        others = [replica for replica in usable if replica is not avoid] or usable
        return min(others, key=lambda replica: (replica.asks, replica.used))

    async def _body(self, connection: aiohttp.ClientSession, replica: Replica, path: str, content: bytes) -> Any:
        """Return the JSON of a reply of success. Raises `AttemptError` for any other reply, and for none."""
        seconds, received = self.spec.options.timeout, bytearray()
        more: dict[str, Any] = {"headers": self._headers, "data": content or None, "allow_redirects": False}
        more["timeout"] = aiohttp.ClientTimeout(total=None, sock_connect=min(seconds, CONNECT_SECONDS))
        try:
            async with (
                asyncio.timeout(seconds),
                connection.request("POST" if content else "GET", replica.url + path, **more) as response,
            ):
                async for chunk in response.content.iter_any():
                    received += chunk
                    if len(received) > MAX_BYTES:
                        raise aiohttp.ClientPayloadError(f"a reply of more than {MAX_BYTES >> 20} MiB")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise AttemptError("unsent", str(error) or type(error).__name__) from None
        except (aiohttp.ClientError, OSError) as error:
            late = isinstance(error, TimeoutError)
            reason = f"no reply within {seconds:g} s" if late else str(error) or type(error).__name__
            raise AttemptError("silent", reason) from None
        status = 0 if 200 <= response.status < 300 else response.status
        text = self.spec.without_secret(received.decode("utf-8", "replace" if status else "strict"))
        try:
            body = json.loads(text)
            if "\\ud" in text or "\\uD" in text:  # lone surrogates are replaced
                body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
        except UNREADABLE:
            if not status:
                raise
            body = text
        hidden = None if status else hidden_status(body)
        if status := status or hidden or 0:
            raise refusal(status, body, self.spec.shown, named_wait(response.headers), hidden=hidden is not None)
        if replica.repeats(connection, text):
            raise MalformedError("a reply that came before")
        for name, values in self.seen.items() if isinstance(body, Mapping) else ():
            if isinstance(value := body.get(name), str) and len(values) < MAX_VALUES:
                values.add(value)
        return body

    async def close(self) -> None:
        for connection in [connection for replica in self.replicas for connection in replica.idle]:
            await connection.close()


def usage(body: Any, name: str) -> int | None:
    """Return a count from a reply's `usage`, or None if it does not say."""
    counts = body.get("usage") if isinstance(body, Mapping) else None
    count = counts.get(name) if isinstance(counts, Mapping) else None
    return count if type(count) is int and 0 <= count < MAX_TOKENS else None


def _cost(body: Any, most: Spending) -> Spending:
    """Return what a reply says that it cost, or the most that it can have cost if it says nothing."""
    prompt = usage(body, "prompt_tokens")
    prompt = usage(body, "total_tokens") if prompt is None else prompt
    if prompt is None:
        return most
    return spending(most["calls"], prompt, usage(body, "completion_tokens") or 0)


def proxy_of(url: str) -> str | None:
    """Return the HTTP proxy that the environment names for a URL, or None; this machine needs none.

    Raises `InputError` where it is of another kind.
    """
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    local = host in ("localhost", "::1") or host.startswith("127.")
    proxy = None if local or urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
    if proxy and not proxy.startswith("http"):
        raise InputError(f"{scheme}_proxy in the environment is no HTTP proxy; set it to one, or no_proxy to {host}")
    return proxy
