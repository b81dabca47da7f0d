"""The base of all ways of putting asks to a server: groups of asks, texts, and trials of what the server can do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ...answers.reading import Reply
from ...prompts.template import Message
from .._tokens.control_tokens import disarmed
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .refusals import DeclinedError, FailedError, MalformedError, RefusedError
from .spec import ServerSpec

T = TypeVar("T")

OVERHEAD = 512
"""Tokens: a chat template, and what a server puts into it, are taken to be no more."""


@dataclass(frozen=True, slots=True)
class Group:
    """Asks that share a request, each with what was prepared for it; `way` is how they are put."""

    way: str
    requests: tuple[Request, ...]
    prepared: tuple[Any, ...]

    def split(self) -> list[Group]:
        """Return each ask alone."""
        pairs = zip(self.requests, self.prepared, strict=True)
        return [Group(self.way, (request,), (prepared,)) for request, prepared in pairs]


class Poster(Protocol):
    """Requests to a server, with their retries; see `Client.post`."""

    async def post(
        self, path: str, body: Mapping[str, Any], read: Callable[[Any], T], *, asks: int = 0, most: Spending = ...
    ) -> T: ...


class Form:
    """A way of putting asks to a server, and what its trials found out about the server."""

    def __init__(self, client: Poster, spec: ServerSpec, tokens: Tokens | None) -> None:
        self.client = client
        self.spec = spec
        self.tokens = tokens
        self.found: dict[str, object] = {}
        """Capabilities of the server, for the manifest."""
        self._tasks: dict[str, asyncio.Future[Any]] = {}

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Return the requests in groups, with all that is to be computed before they are sent."""
        raise NotImplementedError

    async def check(self, way: str) -> None:
        """Raise `InputError` where the server cannot answer asks that are put that way."""
        raise NotImplementedError

    async def answer(self, group: Group) -> list[Reply]:
        """Return the replies to a group, in order."""
        raise NotImplementedError

    async def once(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of work that is done once however many wait for it."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(work())
        result: T = await self._tasks[name]
        return result

    async def trial(
        self, path: str, body: Mapping[str, Any], shows: Callable[[Any], T], most: Spending, *, needed: bool = False
    ) -> tuple[T | None, str]:
        """Return what a trial's reply shows, or None and the server's words if it cannot do what the trial asks for.

        It cannot where it refuses and names one of the body's fields, or twice refuses or shows nothing true, or where
        it fails after all attempts. A reply that is no completion at all is repeated as any ask's is. Raises
        `RefusedError` where there is no such path or model, and `FailedError` where it fails in what is `needed`.
        """

        def read(reply: Any) -> T | None:
            if "choices" not in reply:
                return shows(reply)
            if not {"message", "text"} & set(reply["choices"][0]):
                raise MalformedError("neither a text nor a message")
            try:
                return shows(reply)
            except (LookupError, TypeError, ValueError, AttributeError, MalformedError):
                return None

        reason = ""
        for _ in range(2):
            try:
                value = await self.client.post(path, body, read, most=most)
                if value:
                    return value, ""
            except RefusedError as error:
                reason = error.message
                if error.status == 404:
                    raise
                if error.blamed in body or any(
                    name in reason for name in body.keys() - {"model", "prompt", "messages"}
                ):
                    break
            except DeclinedError as error:
                reason = str(error)
            except FailedError as error:
                if needed:
                    remedy = "where it gives no log-probabilities, set ranker.scoring: generation"
                    raise FailedError(f"{error}; {remedy}") from None
                return None, str(error)
        return None, reason

    def rendered(self, request: Request) -> tuple[Message, ...]:
        """Return the conversation that puts an ask to a server that tokenises it, without control tokens in its texts.

        Cut to length where there is a tokenizer, whole where there is none.
        """
        terms = request.terms

        def shown(text: str, length: int | None) -> str:
            return disarmed(self.tokens.cut(text, length) if self.tokens else text)

        lengths = {name: terms.passage_tokens if cut == "cut" else None for name, cut in terms.prompt.notes.items()}
        return terms.prompt.render(
            request.ask,
            shown(request.query.text, terms.query_tokens),
            [shown(text, terms.passage_tokens) for text in request.passages],
            "decoder_only",
            {name: shown(note, lengths.get(name)) for name, note in request.ask.notes},
        )

    def answer_tokens(self, request: Request) -> int:
        """Return the most tokens that an answer may have; a token is a byte at least."""
        if self.tokens:
            return self.tokens.answer_tokens(request)
        most = request.terms.decoding.max_new_tokens
        return len(request.ideal.encode()) + 1 if most is None else most


def at_most_tokens(text: str) -> int:
    """Return a count that a text's tokens do not exceed, where no tokenizer counts them."""
    return len(text.encode("utf-8", "surrogatepass")) + OVERHEAD
