"""The base of all ways of putting asks to a server: groups of asks, texts, and trials of what the server can do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from ...answers.reading import Reply
from ...prompts.template import Message
from .._tokens.control_tokens import disarmed
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .client import Client
from .refusals import DeclinedError, FailedError, MalformedError, RefusedError
from .spec import ServerSpec

T = TypeVar("T")

OVERHEAD = 512  # tokens: a chat template, and what a server puts into it, are taken to be no more


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


class Form(ABC):
    """A way of putting asks to a server; `neutral` are fields of generation that the server would else not set."""

    def __init__(
        self, client: Client, spec: ServerSpec, tokens: Tokens | None, neutral: Mapping[str, Any] | None = None
    ) -> None:
        self.client = client
        self.spec = spec
        self.tokens = tokens
        self.neutral = neutral or {}
        self.found: dict[str, Any] = {}
        """Capabilities of the server, for the manifest."""
        self._tasks: dict[str, asyncio.Future[Any]] = {}

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Return the requests in groups, with all that is to be computed before they are sent."""
        groups = []
        for (way, *_), run in groupby(requests, self._alike):
            alike = tuple(run)
            size = self._group_size(way, len(alike))
            for part in (alike[start : start + size] for start in range(0, len(alike), size)):
                groups.append(Group(way, part, tuple(self._prepared(request, way) for request in part)))
        return groups

    @abstractmethod
    async def answer(self, group: Group) -> list[Reply]:
        """Return the replies to a group, in order. Raises `InputError` where the server cannot answer such asks."""

    @abstractmethod
    def _alike(self, request: Request) -> tuple[Any, ...]:
        """Return the way in which an ask is put, and whatever else requests have in common that share one."""

    @abstractmethod
    def _prepared(self, request: Request, way: str) -> Any: ...

    def _group_size(self, way: str, waiting: int) -> int:  # noqa: ARG002
        return self.spec.share(waiting)

    async def _once(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of work that is done once however many wait for it."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(work())
        result: T = await self._tasks[name]
        return result

    async def _trial(
        self, path: str, body: Mapping[str, Any], shows: Callable[[Any], T], most: Spending, *, needed: bool = False
    ) -> tuple[T | None, str]:
        """Return what a trial's reply shows, or None and the server's words if it cannot do what the trial asks for.

        It cannot where it refuses and names one of the body's fields, or twice refuses or shows nothing true, or where
        it fails after all attempts. A reply that is no completion at all is repeated as any ask's is. Raises
        `RefusedError` where there is no such path or model, and `FailedError` where it fails in what is `needed`.
        """

        def read(reply: Any) -> T | None:
            if "choices" in reply and not {"message", "text"} & set(reply["choices"][0]):
                raise MalformedError("neither a text nor a message")
            try:
                return shows(reply)
            except (LookupError, TypeError, ValueError, AttributeError, MalformedError):
                if "choices" in reply:
                    return None
                raise

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
                reason = error.reason
            except FailedError as error:
                if needed:
                    remedy = "where it gives no log-probabilities, set ranker.scoring: generation"
                    raise FailedError(f"{error}; {remedy}") from None
                return None, str(error)
        return None, reason

    def _rendered(self, request: Request) -> tuple[Message, ...]:
        """Return the conversation that puts an ask to a server that tokenises it, whole unless there is a tokenizer."""
        tokens = self.tokens
        return request.rendered(lambda text, length: disarmed(tokens.cut(text, length) if tokens else text))


def at_most_tokens(text: str) -> int:
    """Return a count that a text's tokens do not exceed, where no tokenizer counts them."""
    return len(text.encode("utf-8", "surrogatepass")) + OVERHEAD
