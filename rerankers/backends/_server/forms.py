"""What the ways of putting asks to a server have in common: fields of requests, texts, probes, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ...answers.reading import Reply
from ...errors import BackendError
from ...prompts.template import Message
from .._tokens.control_tokens import disarmed
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .dispatch import Group

T = TypeVar("T")

FEWER_LOGPROBS = 5
"""So many are tried where a server does not list as many as are asked for."""

MOST_TOKENS = 1 << 40
"""A count of tokens is less: what is more is none."""

OVERHEAD = 512
"""Tokens: a chat template, and what a server puts into it, are taken to be no more."""

NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
"""vLLM and SGLang take these from the model's generation config unless told, and then text is no longer greedy."""


class RefusedError(Exception):
    """The server says that a request is wrong (4xx): its status, its message in one line, and the field it blames."""

    def __init__(self, status: int, message: str, blamed: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.blamed = blamed


class DeclinedError(Exception):
    """The provider will not have this prompt's content: an outcome of one ask, with its reason and what it cost."""

    def __init__(self, reason: str, prompt_tokens: int | None = 0, completion_tokens: int | None = 0) -> None:
        super().__init__(reason)
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class FailedError(BackendError):
    """All attempts at a request ended in an error of the server's own (5xx) or in replies that are none."""


class MalformedError(Exception):
    """A reply is not what was asked for; the request is repeated."""


class Server(Protocol):
    """Requests to a server, with their retries."""

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, asks: int = 0, most: Spending = ...
    ) -> T:
        """What `read` makes of the reply; `asks` are carried, and it costs `most` at most.

        Raises `RefusedError` where the server will not have the request, `DeclinedError` where its provider will not
        have the content, and `BackendError` where it fails.
        """


class Form(Protocol):
    """One of the ways to put asks to a server."""

    found: dict[str, object]
    """What its probes found, for the manifest."""

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Requests in groups, with all that is to be computed before they are sent."""

    async def check(self, way: str) -> None:
        """Raise `InputError` where the server cannot answer asks that are put that way."""

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""


@dataclass(frozen=True, slots=True)
class Fields:
    """What every request carries, and how requests are made."""

    name: str
    extra_body: Mapping[str, Any]
    omit: frozenset[str]
    top_logprobs: int
    """How many of the most probable tokens are asked for."""
    group_size: int
    """So many asks share a request at most."""
    replicas: int
    seed: int

    def share(self, waiting: int) -> int:
        """How many of so many waiting asks share a request: no replica is to be left without one."""
        return min(self.group_size, -(-waiting // self.replicas))

    def body(self, **fields: Any) -> dict[str, Any]:
        """A request's body."""
        body = {"model": self.name, **fields, **self.extra_body}
        return {name: value for name, value in body.items() if name not in self.omit}

    def sampling(self, request: Request) -> dict[str, Any]:
        """How an ask's text is drawn, greedily or by a seed of its own, and where it ends."""
        decoding = request.terms.decoding
        stop = {"stop": list(decoding.stop)} if decoding.stop else {}
        if not decoding.temperature:
            return {"temperature": 0.0, **stop}
        # 31 bits, which every server's type for seeds holds.
        seed = (int.from_bytes(request.key[:8]) ^ self.seed) & 0x7FFFFFFF
        return {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": seed, **stop}


@dataclass
class Probes:
    """Questions about what a server can do, each asked once however many wait for the answer."""

    _asked: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def once(self, name: str, probe: Callable[[], Awaitable[T]]) -> T:
        """What the probe of that name found."""

        async def ask() -> T:
            return await probe()

        if name not in self._asked:
            self._asked[name] = asyncio.create_task(ask())
        found: T = await self._asked[name]
        return found


async def tried(
    server: Server,
    path: str,
    body: Mapping[str, Any],
    extract: Callable[[Any], T],
    most: Spending,
    *,
    needed: bool = False,
) -> tuple[T | None, str]:
    """What a trial's reply shows of a server, or None where it cannot do what the trial asks for, and its words then.

    It cannot where it refuses and names one of the body's fields, or twice refuses or shows nothing true, or where it
    fails after all attempts. A reply that is no completion at all is repeated as any ask's is. Raises `RefusedError`
    where there is no such path or model, and `FailedError` where it fails in what is `needed`.
    """

    def read(reply: Any) -> T | None:
        if "choices" not in reply:
            return extract(reply)
        if not {"message", "text"} & set(reply["choices"][0]):
            raise MalformedError("neither a text nor a message")
        try:
            return extract(reply)
        except (LookupError, TypeError, ValueError, AttributeError, MalformedError):
            return None

    reason = ""
    for _ in range(2):
        try:
            value = await server.post(path, body, read, most=most)
            if value:
                return value, ""
        except RefusedError as error:
            reason = error.message
            if error.status == 404:
                raise
            if error.blamed in body or any(name in reason for name in body.keys() - {"model", "prompt", "messages"}):
                break
        except DeclinedError as error:
            reason = str(error)
        except FailedError as error:
            if needed:
                remedy = "where it gives no log-probabilities, set ranker.scoring: generation"
                raise FailedError(f"{error}; {remedy}") from None
            return None, str(error)
    return None, reason


def rendered(request: Request, tokens: Tokens | None) -> tuple[Message, ...]:
    """The conversation that puts an ask to a server that tokenises it.

    Cut to length where there is a tokenizer, whole where there is none, and without control tokens in its texts.
    """
    terms = request.terms

    def shown(text: str, length: int | None) -> str:
        return disarmed(tokens.cut(text, length) if tokens else text)

    lengths = {name: terms.passage_tokens if cut == "cut" else None for name, cut in terms.prompt.notes.items()}
    return terms.prompt.render(
        request.ask,
        shown(request.query.text, terms.query_tokens),
        [shown(text, terms.passage_tokens) for text in request.passages],
        "decoder_only",
        {name: shown(note, lengths.get(name)) for name, note in request.ask.notes},
    )


def answer_tokens(request: Request, tokens: Tokens | None) -> int:
    """The most tokens that an answer may have; a token is a byte at least."""
    if tokens:
        return tokens.answer_tokens(request)
    most = request.terms.decoding.max_new_tokens
    return len(request.ideal.encode()) + 1 if most is None else most


def at_most_tokens(text: str) -> int:
    """No fewer than a text's tokens, where no tokenizer counts them."""
    return len(text.encode("utf-8", "surrogatepass")) + OVERHEAD


def usage(body: Any, name: str) -> int | None:
    """A count out of a reply's `usage`; None where it does not say."""
    counts = body.get("usage") if isinstance(body, Mapping) else None
    count = counts.get(name) if isinstance(counts, Mapping) else None
    return count if type(count) is int and 0 <= count < MOST_TOKENS else None
