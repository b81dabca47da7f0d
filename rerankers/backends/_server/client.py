"""Requests to a server or several replicas of it, each repeated until it is answered or there is no hope of it.

What fails with 408, 409, 425, 5xx, a timeout, a broken connection or a malformed or repeated reply is repeated: after
half a second, then twice as long each time up to 8 s, or after as long as the server says. A server that is asked too
much (429) is waited for, which is no failed attempt. A replica that fails again and again rests, and then gets one
request at a time until it answers.

Each connection is a client of its own, which carries another request only after its reply was found sound. A server
that once repeats a reply would else answer each later request on that connection with the reply to the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import httpx2
import openai

from ...errors import BackendError, InputError
from .limits import Budget, Pace, Spending, backoff, log_wait, named_wait, spending
from .refusals import DeclinedError, FailedError, MalformedError, Refusal, RefusedError, hidden_status, reason_declined
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


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request: `read` makes the answer of a reply's JSON; it costs `most` at most."""

    path: str
    content: bytes
    read: Callable[[Any], T]
    most: Spending


@dataclass(eq=False)
class AttemptError(Exception):
    """An attempt without an answer: the reason, and what the server said if it sent an error."""

    reason: str
    refusal: Refusal | None = None
    sent: bool = True
    malformed: bool = False
    replica: Replica = field(init=False)


class Replica:
    """One base URL with its idle connections."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.idle: list[httpx2.AsyncClient] = []
        self.asks = 0  # open there
        self.used = 0  # the number of its last attempt
        self.resumes = 0.0  # until then it asked not to be asked
        self.failures = 0
        self._rests_until = 0.0
        self._proxy = proxy_of(url)
        self._replies: dict[int, httpx2.AsyncClient] = {}
        self._repeats_honestly = False

    def usable(self, now: float) -> bool:
        """Return whether it is to be asked: one that failed often is, once it has rested, by one request at a time."""
        rested = self.failures < MAX_FAILURES or (self._rests_until <= now and not self.asks)
        return rested and self.resumes <= now

    def failed(self, *, sent: bool) -> None:
        """Count a failure, unless the request went out before the replica began to rest."""
        now = time.monotonic()
        if now >= self._rests_until:
            self.failures = self.failures + 1 if sent else max(self.failures + 1, MAX_FAILURES)
            if self.failures >= MAX_FAILURES:
                self._rests_until = now + backoff(self.failures - MAX_FAILURES, FIRST_REST, MAX_REST)

    def connect(self, context: Any) -> httpx2.AsyncClient:
        one = httpx2.Limits(max_connections=1, keepalive_expiry=IDLE_SECONDS)
        return openai.DefaultAioHttpClient(
            verify=context, limits=one, proxy=self._proxy, trust_env=False, follow_redirects=False
        )

    def repeats(self, connection: httpx2.AsyncClient, text: str) -> bool:
        """Return whether the connection brought this reply, id and all, before.

        A server of which equal replies came on two connections does that honestly: from then on none is a repeat.
        """
        known = self._replies.get(hash(text))
        self._repeats_honestly |= known not in (None, connection)
        self._replies[hash(text)] = connection
        if len(self._replies) > REMEMBERED:
            del self._replies[next(iter(self._replies))]
        return known is connection and not self._repeats_honestly


class Client:
    """Requests to one server or its replicas; used in one event loop."""

    def __init__(self, spec: ServerSpec, budget: Budget) -> None:
        self.spec, self.budget = spec, budget
        self.replicas = [Replica(url.rstrip("/")) for url in spec.urls]
        self.pace = Pace(self.replicas, spec.options.requests_per_minute, spec.options.tokens_per_minute)
        self.stopped = False  # whether nothing is repeated any more
        self.under_way: set[asyncio.Task[Any] | None] = set()  # the tasks that a reply is on its way to
        self.seen: dict[str, set[str]] = {"model": set(), "system_fingerprint": set()}  # of the replies
        self._attempts = self._answers = 0
        self._context = httpx2.create_ssl_context()
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate"}
        self._headers |= {"Authorization": f"Bearer {spec.key}"} if spec.key else {}

    async def send(
        self, path: str, body: Mapping[str, Any] | None, read: Callable[[Any], T], most: Spending = NOTHING
    ) -> T:
        """Return what `read` makes of the reply; it raises `MalformedError` or any look-up error if that is no answer.

        Without a body the path is only asked for. `most` is what the request can cost, and counts the asks it carries.
        Raises `RefusedError` where the server will not have the request, `DeclinedError` where its provider will not
        have the content, and `BackendError` where it has not answered after all retries.
        """
        content = b"" if body is None else json.dumps(body).encode()
        retries = self.spec.options.retries if content else min(self.spec.options.retries, MAX_FIRST_RETRIES)
        tokens, answers_before, last = len(content) / 4, self._answers, None
        attempts = failures = 0

        def reading(reply: Any) -> T | DeclinedError:
            for name, values in self.seen.items() if isinstance(reply, Mapping) else ():
                if isinstance(value := reply.get(name), str) and len(values) < MAX_VALUES:
                    values.add(value)
            if (reason := reason_declined(reply)) is None:
                return read(reply)
            counts = usage(reply, "prompt_tokens"), usage(reply, "completion_tokens")
            return DeclinedError(self.spec.shown(reason), *counts)

        call = Call(path, content, reading, most)
        while True:
            await self.pace.enter(tokens)
            attempts, used = attempts + 1, 0
            try:
                answer, cost = await self._attempt(call, last)
                used = cost["prompt_tokens"] + cost["completion_tokens"]
                self.pace.answered()
                self._answers += 1
                if isinstance(answer, DeclinedError):
                    raise answer
                return answer
            except AttemptError as error:
                last = error
            finally:
                self.pace.leave(used - tokens if used else 0.0)
            if self.stopped:
                raise asyncio.CancelledError
            said, failure = last.refusal, self._failure(last, attempts)
            if said and said.kind == "too many" and self.pace.limited(last.replica, said.wait, said.message):
                continue
            if said and said.kind != "passing":
                raise failure
            if not last.sent and any(replica.usable(time.monotonic()) for replica in self.replicas):
                continue
            failures += 1
            if failures > retries:
                # A provider that reports a failure as success, while others are answered, fails at this prompt.
                if said and said.hidden and isinstance(failure, FailedError) and self._answers > answers_before:
                    raise DeclinedError(said.message)
                raise failure
            wait = said.wait if said else None
            if wait is not None:
                log_wait(self.spec.where, wait, last.reason)
            await asyncio.sleep(backoff(failures - 1, FIRST_PAUSE, MAX_PAUSE) if wait is None else wait)

    async def _attempt(self, call: Call[T], last: AttemptError | None) -> tuple[T, Spending]:
        """Return the answer of one request to a replica and its cost. Raises `AttemptError` if there is no answer."""
        if self.stopped:
            raise asyncio.CancelledError
        await self.budget.reserve(call.most)
        replica = self._choose(last.replica if last else None)
        # After a malformed reply, a new connection: another reply may be waiting on a kept one.
        keeps = replica.idle and not (last and last.malformed)
        connection = replica.idle.pop() if keeps else replica.connect(self._context)
        replica.asks += call.most["calls"]
        self._attempts = replica.used = self._attempts + 1
        task, cost, sound = asyncio.current_task(), NOTHING, False
        self.under_way.add(task)
        try:
            answer, cost = await self._reply(call, replica, connection)
            replica.failures, sound = 0, True
            return answer, cost
        except AttemptError as error:
            error.replica = replica
            if error.refusal is None and error.sent:
                cost = call.most  # it may have been answered, and paid for, all the same
            if error.refusal is None or error.refusal.status >= 500:
                replica.failed(sent=error.sent)
            raise
        finally:
            self.under_way.discard(task)
            self.budget.settle(call.most, cost)
            replica.asks -= call.most["calls"]
            if sound:
                replica.idle.append(connection)
            else:
                await connection.aclose()

    def _choose(self, avoid: Replica | None) -> Replica:
        """Return the usable replica with the fewest asks open, and not the one where the last attempt failed."""
        now = time.monotonic()
        usable = [replica for replica in self.replicas if replica.usable(now)] or self.replicas
        others = [replica for replica in usable if replica is not avoid] or usable
        return min(others, key=lambda replica: (replica.asks, replica.used))

    async def _reply(self, call: Call[T], replica: Replica, connection: httpx2.AsyncClient) -> tuple[T, Spending]:
        seconds, content = self.spec.options.timeout, bytearray()
        method, url = "POST" if call.content else "GET", replica.url + call.path
        more = {"timeout": {"connect": min(seconds, CONNECT_SECONDS)}}
        request = httpx2.Request(method, url, headers=self._headers, content=call.content, extensions=more)
        try:
            async with asyncio.timeout(seconds):
                response = await connection.send(request, stream=True)
                async with contextlib.aclosing(response):
                    async for chunk in response.aiter_bytes():
                        content += chunk
                        if len(content) > MAX_BYTES:
                            raise httpx2.DecodingError(f"a reply of more than {MAX_BYTES >> 20} MiB")
        except TimeoutError:
            raise AttemptError(f"no reply within {seconds:g} s") from None
        except (httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            cause = error.__cause__ or error
            unsent = isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            raise AttemptError(str(error) or type(cause).__name__, sent=not unsent) from None
        text, status, hidden = "", None if response.is_success else response.status_code, response.is_success
        try:
            text = self.spec.without_secret(content.decode("utf-8", "replace" if status else "strict"))
            body = _json(text)
            status = status or hidden_status(body)
            if status is None:
                if replica.repeats(connection, text):
                    raise MalformedError("a reply that came before")
                return call.read(body), _cost(body, call.most)
        except UNREADABLE as error:
            if status is None:
                reason = str(error) if isinstance(error, MalformedError) else f"{type(error).__name__}: {error}"
                raise AttemptError(f"malformed reply ({reason})", malformed=True) from None
            body = text
        said = Refusal.of(status, body, self.spec.shown, named_wait(response.headers), hidden=hidden)
        raise AttemptError(f"status {status}", said)

    def _failure(self, error: AttemptError, attempts: int) -> Exception:
        """Return the error that an attempt without an answer is if it was the last one."""
        where, options, said = self.spec.where, self.spec.options, error.refusal
        after = "after 1 attempt" if attempts == 1 else f"after {attempts} attempts"
        if said is None:
            kind, lack = (FailedError, "no usable answer") if error.malformed else (BackendError, "no answer")
            return kind(
                f"model.base_url: {lack} from {where} {after} ({self.spec.shown(error.reason)}); see that the server "
                f"runs and keeps up (model.timeout is {options.timeout:g} s) and run again: all answers are kept"
            )
        status, message, kept = said.status, said.message, "and run again: all answers are kept"
        match said.kind:
            case "declined":
                return DeclinedError(message)
            case "wrong":
                return RefusedError(status, message, said.field)
            case "no credit":
                return BackendError(
                    f"model.base_url: the account at {where} has no credit or quota left (status {status}: {message}); "
                    f"top it up or name another key with model.api_key_env, {kept}"
                )
            case "no entry":
                state = "was refused" if self.spec.key else "is not set"
                why = f": {message}" if status == 403 else ""  # 401's may hold a part of the key
                return BackendError(
                    f"{where} lets nobody in without a valid key (status {status}{why}), and the one in the "
                    f"environment variable {options.api_key_env} {state}; set it, or name another one with "
                    "model.api_key_env"
                )
        remedy = "wait, or lower model.requests_per_minute," if status == 429 else "wait"
        return (FailedError if status >= 500 else BackendError)(
            f"model.base_url: {where} answered with status {status} {after} ({message}); {remedy} {kept}"
        )

    async def close(self) -> None:
        for connection in [connection for replica in self.replicas for connection in replica.idle]:
            await connection.aclose()


def _json(text: str) -> Any:
    """Return a reply's JSON, its lone surrogates replaced."""
    body = json.loads(text)
    if "\\ud" in text.lower():
        body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
    return body


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
    details = body["usage"].get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return spending(most["calls"], prompt, usage(body, "completion_tokens") or 0, cached if type(cached) is int else 0)


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL, or None; this machine needs none.

    Raises `InputError` where it is of a kind that cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in ("localhost", "::1") or host.startswith("127.") or urllib.request.proxy_bypass(host):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise InputError(
            f"the proxy for {parts.scheme} in the environment is no HTTP proxy; set {parts.scheme}_proxy to one, or "
            f"no_proxy to {host}"
        )
    return proxy
