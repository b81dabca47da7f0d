"""The bases of all ways of putting asks to a server: groups of asks, texts, trials, and how labels are scored."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar, TypeVar

from ...answers.reading import Reply
from ...errors import InputError
from ...prompts.template import Message
from .._tokens.control_tokens import disarmed
from .._tokens.tokens import Tokens
from ..base import Request
from .client import Client
from .labels import Listing, Rows, are_log_probabilities, log_probability
from .limits import Spending, spending
from .refusals import DeclinedError, FailedError, MalformedError, RefusedError
from .spec import ServerSpec

T = TypeVar("T")

FEWER_LOGPROBS = 5  # are tried where a server does not list as many as are asked for
NEWER = "max_completion_tokens"  # OpenAI's reasoning models take the length of an answer under this name alone
TRIAL_COST = spending(0, 600, 8)  # the most that a trial costs
OVERHEAD = 512  # tokens: a chat template, and what a server puts into it, are taken to be no more

# A way in which a server may list tokens: its name, the fields that ask for it, and how many are listed or which.
# Of those named the trial allows only the first, which is yet not certain over the whole vocabulary.
LabelTrial = tuple[str, Mapping[str, Any], int | None, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Group:
    """Asks that share a request, each with what was prepared for it; `way` is how they are put."""

    way: str
    requests: tuple[Request, ...]
    prepared: tuple[Any, ...]

    def split(self) -> list[Group]:
        return [
            Group(self.way, (request,), (ready,)) for request, ready in zip(self.requests, self.prepared, strict=True)
        ]


class Form(ABC):
    """A way of putting asks to a server; `neutral` are fields of generation that the server would else not set."""

    def __init__(
        self, client: Client, spec: ServerSpec, tokens: Tokens | None, neutral: Mapping[str, Any] = {}
    ) -> None:
        self.client, self.spec, self.tokens, self.neutral = client, spec, tokens, neutral
        self.found: dict[str, Any] = {}  # capabilities of the server, for the manifest
        self._tasks: dict[str, asyncio.Future[Any]] = {}

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
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
        task: asyncio.Future[T] = self._tasks.get(name) or self._tasks.setdefault(name, asyncio.ensure_future(work()))
        return await task

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

        reason, fields = "", body.keys() - {"model", "prompt", "messages"}
        for _ in range(2):
            try:
                if value := await self.client.send(path, body, read, most):
                    return value, ""
            except RefusedError as error:
                reason = error.message
                if error.status == 404:
                    raise
                if error.blamed in body or any(name in reason for name in fields):
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


class LanguageModel(Form):
    """The part that chat and completions share, above all how labels are scored.

    Labels are found in the list of most probable first tokens that a server gives with its answer. One that is not
    listed is asked for in another way where the server has one, and else counts as probable as it can be.
    """

    path: ClassVar[str]
    prompt_field: ClassVar[str]
    short_prompt: Any  # of trials
    _length_field = "max_tokens"
    _list_fields: Mapping[str, Any] = {}
    _least = 0.0  # fewer tokens listed are asked for once more: vLLM 0.32 lists two where others ask for token ids then

    @abstractmethod
    def _label_trials(self) -> Iterator[LabelTrial]:
        """Yield the ways in which tokens may be listed, the best first."""

    @abstractmethod
    def _rows(self, choice: Any) -> Rows: ...

    @abstractmethod
    async def _listings(self, prompts: Sequence[Any], calls: int) -> list[Listing]: ...

    @abstractmethod
    async def _score_missing(self, listing: Listing, prompt: Any) -> None: ...

    async def _ask(self, prompt: Any, length: int, read: Callable[[Any], T], most: Spending, **fields: Any) -> T:
        """Return what `read` makes of the reply to a prompt, of so many tokens at most."""
        while True:
            name = self._length_field
            try:
                return await self.client.send(self.path, self._body(prompt, length, fields), read, most)
            except RefusedError as error:
                if NEWER not in error.message or name == NEWER:
                    raise
                self._length_field = NEWER

    async def _try(
        self, prompt: Any, shows: Callable[[Any], T], *, needed: bool = False, **fields: Any
    ) -> tuple[T | None, str]:
        """Return what the reply to a trial shows; see `Form._trial`."""
        for name in dict.fromkeys((self._length_field, NEWER)):
            self._length_field = name
            body = self._body(prompt, 1, fields)
            value, reason = await self._trial(self.path, body, shows, TRIAL_COST, needed=needed)
            if NEWER not in reason:
                break
        return value, reason

    def _body(self, prompt: Any, length: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        common = {self.prompt_field: prompt, self._length_field: length, "temperature": 0.0}
        return self.spec.body(**{**common, **fields})

    def _answer_tokens(self, request: Request) -> int:
        """Return the most tokens that an answer may have; a token is a byte at least."""
        if self.tokens:
            return self.tokens.answer_tokens(request)
        most = request.terms.decoding.max_new_tokens
        return len(request.ideal.encode()) + 1 if most is None else most

    async def _find_labels_way(self) -> None:
        """Find out how the server lists tokens. Raises `InputError` where it lists none or no log-probabilities."""
        trials, reason = list(self._label_trials()), ""
        for name, fields, count, wanted in trials:

            def rows_of(reply: Any, wanted: Sequence[str] = wanted) -> dict[str, Any] | None:
                rows = dict(self._rows(reply["choices"][0]))
                return rows if all(token in rows for token in wanted) else None

            for _ in range(2):  # one odd reply shows nothing
                rows, reason = await self._try(self.short_prompt, rows_of, needed=fields is trials[-1][1], **fields)
                forced = log_probability(rows[wanted[0]]) if rows and wanted else None
                sound = rows and are_log_probabilities(rows) and (forced is None or forced <= -1e-9)
                if not rows or sound:
                    break
            if rows and not sound:
                raise InputError(
                    "the server's log-probabilities are not those of the whole vocabulary; start vLLM with "
                    "--logprobs-mode raw_logprobs (its default)"
                )
            if rows:
                self._list_fields = fields
                self._least = min(count, len(rows)) / 2 if count else math.inf
                self.found |= {"label_scores": name, "log_probabilities": "whole vocabulary"}
                self.found |= {"top_logprobs": count} if count else {}
                return
        raise InputError(
            f"the server gives no log-probabilities for {self.spec.options.name} "
            f"({reason or 'it lists none with its answers'}); set ranker.scoring: generation"
        )

    async def _label_scores(self, prompts: Sequence[Any]) -> list[Reply]:
        """Return the replies to prompts whose labels are scored."""
        listings = await self._listings(prompts, len(prompts))
        if any(None in listing.scores and len(listing.listed) < self._least for listing in listings):
            pairs = zip(listings, await self._listings(prompts, 0), strict=True)
            listings = [max(pair, key=lambda listing: len(listing.listed)) for pair in pairs]
        for listing, prompt in zip(listings, prompts, strict=True):
            if None in listing.scores:
                await self._score_missing(listing, prompt)
                if missing := listing.scores.count(None):
                    self.found["labels_not_listed"] = self.found.get("labels_not_listed", 0) + missing
        return [listing.reply for listing in listings]


def at_most_tokens(text: str) -> int:
    """Return a count that a text's tokens do not exceed, where no tokenizer counts them."""
    return len(text.encode("utf-8", "surrogatepass")) + OVERHEAD
