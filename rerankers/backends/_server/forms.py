"""The bases of all ways of putting asks to a server: groups of asks, trials, labels' scores out of listed tokens."""

from __future__ import annotations

import asyncio
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar, TypeVar

from ...answers.reading import NO_PROBABILITY, Reply, no_answer
from ...answers.thinking import TAG
from ...errors import InputError
from ...prompts.template import Message
from .._tokens.tokens import Tokens
from ..base import Request
from .client import UNREADABLE, Client, usage
from .limits import Spending, spending
from .refusals import AttemptError, FailedError, MalformedError
from .spec import ServerSpec

T = TypeVar("T")
Read = Callable[[Any], T]  # makes of a reply's JSON what it is asked for

FEWER_LOGPROBS = 5  # are tried where a server does not list as many as are asked for
AS_IDS = {"return_tokens_as_token_ids": True}
NEWER = "max_completion_tokens"  # OpenAI's reasoning models take the length of an answer under this name alone
TRIAL_COST = spending(0, 600, 8)  # the most that a trial costs
OVERHEAD = 512  # tokens: a chat template, and what a server puts into it, are taken to be no more

IMPOSSIBLE = -9999.0  # vLLM and OpenAI write this, or less, for the logarithm of nothing
ROUNDING = 1e-4  # a logarithm so little above 0 is one of 1 that was rounded
Rows = Sequence[tuple[str, Any]]  # listed tokens as text, the most probable first, with what the server says of each
Listed = Sequence[tuple[str, float]]  # those that have a log-probability

# A way in which a server may list tokens: the field that says how many, or which, and all fields that ask for it. Of
# those named the trial allows only the first, which is yet not certain over the whole vocabulary.
LabelTrial = tuple[str, Mapping[str, Any]]

# Control tokens: which ones a server has is unknown, so all common forms are broken up in texts.
CONTROL = re.compile(
    r"<[|\uff5c][^<>\n]{1,60}[|\uff5c]>"  # <|eot_id|> (Llama 3), <|im_end|> (Qwen), <\uff5cUser\uff5c> (DeepSeek)
    r"|</?(?:s|bos|eos|pad|unk|mask|sep|cls|think|start_of_turn|end_of_turn|start_of_image|sop|eop)>"
    r"|<<?/?SYS>>?|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|PAD|UNK|MASK)\]"
    r"|<(?:extra_id_|unused|reserved_special_token_)[0-9]{1,4}>",
    re.IGNORECASE,
)


class Form(ABC):
    """A way of putting asks to a server; `neutral` are fields of generation that the server would else not set."""

    def __init__(
        self, client: Client, spec: ServerSpec, tokens: Tokens | None, neutral: Mapping[str, Any] = {}
    ) -> None:
        self.client, self.spec, self.tokens, self.neutral = client, spec, tokens, neutral
        self.capabilities: dict[str, Any] = {}  # capabilities of the server, for the manifest
        self._tasks: dict[str, asyncio.Future[Any]] = {}

    def groups(self, requests: Sequence[Request]) -> Iterator[tuple[Request, ...]]:
        """Yield the asks that share a request, in order."""
        for _, run in groupby(requests, self._alike):
            alike = tuple(run)
            size = self.spec.share(len(alike))
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    @abstractmethod
    async def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to a group, in order. Raises `InputError` where the server cannot answer such asks."""

    @abstractmethod
    def _alike(self, request: Request) -> tuple[Any, ...]:
        """Return the way in which an ask is put, and whatever else asks have in common that may share a request."""

    async def _once(self, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of work that is done once however many wait for it."""
        task: asyncio.Future[T] = self._tasks.get(name) or self._tasks.setdefault(name, asyncio.ensure_future(work()))
        return await task

    def _count(self, name: str, more: int) -> None:
        self.capabilities[name] = self.capabilities.get(name, 0) + more

    async def _trial(
        self, send: Callable[[Read[T | None]], Awaitable[T | None]], fields: Iterable[str], shows: Read[T]
    ) -> tuple[T | None, Exception | None]:
        """Return what the reply to a trial shows, or None and the error if the server cannot do what it asks for.

        It cannot where it refuses and names one of the fields, or twice refuses or shows nothing true, or where it
        fails after all attempts. A reply that is no completion at all is repeated as any ask's is. Raises
        `AttemptError` where there is no such path or model.
        """

        def read(reply: Any) -> T | None:
            if "choices" not in reply:
                return shows(reply)
            if not {"message", "text"} & set(reply["choices"][0]):
                raise MalformedError("neither a text nor a message")
            with suppress(*UNREADABLE):
                return shows(reply)
            return None

        problem: Exception | None = None
        for _ in range(2):
            try:
                if value := await send(read):
                    return value, None
            except FailedError as error:
                return None, error
            except AttemptError as error:
                if error.status == 404:
                    raise
                problem = error
                if error.kind == "wrong" and any(name in f"{error.blamed} {error}" for name in fields):
                    break
        return None, problem

    def _rendered(self, request: Request) -> tuple[Message, ...]:
        """Return the conversation that puts an ask to a server that tokenises it, whole unless there is a tokenizer.

        Raises `InputError` without one where the prompt is to fit a context.
        """
        tokens = self.tokens
        if tokens is None:
            if request.terms.decoding.context_tokens:
                raise InputError("ranker.context_tokens are counted by a tokenizer: set model.tokenizer to the model's")
            return request.rendered(lambda text, _: disarmed(text))

        def shown(words: int | None) -> tuple[Message, ...]:
            return request.rendered(lambda text, length: disarmed(tokens.cut(text, length)), words=words)

        def size(turns: tuple[Message, ...]) -> int:
            return sum(len(tokens.tokenizer(f"{turn.role}: {turn.content}\n")["input_ids"]) for turn in turns)

        return tokens.fitted(request, shown, size)


@dataclass(slots=True)
class Put:
    """An ask as it is put: messages, token ids or a text, of so many tokens at most, and fields of its own.

    `counted` is the number of its tokens, or None if only the server can count them. A label is written after the `gap`
    and is one of the `targets`, tokens whose probability is asked for. The chat template may have begun a `thought`.
    """

    request: Request
    content: Any
    tokens: int
    counted: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    gap: str = ""
    targets: Sequence[Sequence[int]] = ()
    thought: str = ""


class LanguageModel(Form):
    """The part that chat and completions share: labels are found among the most probable first tokens of an answer.

    One that is not listed is asked for in another way where the server has one, else counts as probable as it can be.
    """

    path: ClassVar[str]
    prompt_field: ClassVar[str]
    short_prompt: Any  # of trials
    shares: ClassVar[bool]  # whether prompts may share a request, whose count of tokens is then of all
    _length_field = "max_tokens"
    _list_fields: Mapping[str, Any] = {}
    _least = 0.0  # fewer tokens listed are asked for once more: vLLM 0.32 lists two where others ask for token ids then

    def _alike(self, request: Request) -> tuple[Any, ...]:
        whole = request.scoring != "generation" and request.prompt.answer.scored == "whole"
        if request.prompt.target or whole:
            return "likelihood", request.terms
        if request.scoring == "generation":
            return "text", id(request)
        return "labels", request.terms if self.shares else id(request)

    async def answer(self, requests: Sequence[Request]) -> list[Reply]:
        way, _ = self._alike(requests[0])
        if len(requests) > 1 and not await self._once("several", self._takes_several):
            return [reply for request in requests for reply in await self.answer([request])]
        if way == "likelihood":
            return await self._likelihoods(requests)
        puts = [await self._put(request) for request in requests]
        if way == "text":
            return await self._text(puts[0])
        await self._once("labels", self._find_labels_way)
        return await self._label_scores(puts)

    async def _likelihoods(self, requests: Sequence[Request]) -> list[Reply]:
        """Return the replies to asks for the probability of texts of several tokens."""
        need = "the probability of a text of several tokens, which takes /completions and the model's tokenizer"
        remedy = "set model.tokenizer to its own folder or hub id and model.api: completions"
        raise InputError(f"prompt '{requests[0].prompt.name}' asks for {need}; {remedy}")

    async def _takes_several(self) -> bool:
        """Find out whether a request may hold several prompts."""
        if not self.shares or self.spec.share(1 << 20) == 1:
            return False
        several, _ = await self._try([self.short_prompt] * 2, lambda reply: len(reply["choices"]) == 2)
        self.capabilities["several_prompts_a_request"] = bool(several)
        return bool(several)

    @abstractmethod
    async def _put(self, request: Request) -> Put: ...

    @abstractmethod
    def _label_trials(self) -> Iterator[LabelTrial]:
        """Yield the ways in which tokens may be listed, the best first."""

    @abstractmethod
    def _rows(self, choice: Any) -> Rows: ...

    @abstractmethod
    def _said(self, choice: Any) -> tuple[str, str]:
        """Return the text of a choice, and the thoughts beside it."""

    @abstractmethod
    async def _score_missing(self, listing: Listing, put: Put) -> None: ...

    async def _ask(self, prompt: Any, length: int, read: Read[T], most: Spending, **fields: Any) -> T:
        """Return what `read` makes of the reply to a prompt, of so many tokens at most."""
        while True:
            name = self._length_field
            body = self.spec.body(**{self.prompt_field: prompt, name: length, "temperature": 0.0} | fields)
            try:
                return await self.client.send(self.path, body, read, most)
            except AttemptError as error:
                if NEWER not in error.reason or name == NEWER:
                    raise
                self._length_field = NEWER

    async def _try(self, prompt: Any, shows: Read[T], **fields: Any) -> tuple[T | None, Exception | None]:
        return await self._trial(lambda read: self._ask(prompt, 1, read, TRIAL_COST, **fields), fields, shows)

    async def _together(
        self, puts: Sequence[Put], length: int, read: Callable[[Any, Any, Put], T], calls: int, **fields: Any
    ) -> list[T]:
        """Return what `read` makes of the reply, a choice and its prompt, for prompts that share a request."""

        def read_all(reply: Any) -> list[T]:
            choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
            if [choice.get("index", 0) for choice in choices] != list(range(len(puts))):
                raise MalformedError(f"{len(choices)} choices for {len(puts)} prompts")
            return [read(reply, choice, put) for choice, put in zip(choices, puts, strict=True)]

        contents = [put.content for put in puts]
        most = spending(calls, sum(put.tokens for put in puts), length * len(puts))
        return await self._ask(contents if len(puts) > 1 else contents[0], length, read_all, most, **fields)

    async def _text(self, put: Put) -> list[Reply]:
        """Return the reply to an ask that is answered by a text."""
        most, effort = put.request.terms.decoding.max_new_tokens, self.spec.options.reasoning_effort
        if self.tokens:
            length = self.tokens.answer_tokens(put.request)
        else:
            length = len(put.request.ideal.encode()) + 1 if most is None else most  # a token is a byte at least

        def read(reply: Any, choice: Any, put: Put) -> Reply:
            said, thoughts = self._said(choice)
            if thoughts:
                # Its own marks of thoughts would end it too early for whoever reads the answer.
                inside = TAG.sub(lambda tag: f"({tag[0][1:-1]})", thoughts)
                unfinished = not said and choice.get("finish_reason") == "length"
                said = f"<think>{inside}" if unfinished else f"<think>{inside}</think>{said}"
            counted = put.counted or usage(reply, "prompt_tokens")
            return Reply(put.thought + said, None, counted, usage(reply, "completion_tokens"))

        fields = {**put.fields, **self.neutral, **self.spec.sampling(put.request)}
        fields |= {"reasoning_effort": effort} if effort else {}
        return await self._together([put], length, read, 1, **fields)

    async def _find_labels_way(self) -> None:
        """Find out how the server lists tokens. Raises `InputError` where it lists none or no log-probabilities."""
        sound, problem = True, None
        for name, fields in self._label_trials():
            count, wanted = fields[name], [f"token_id:{token}" for token in fields.get("logprob_token_ids", ())]

            def rows_of(reply: Any, wanted: Sequence[str] = wanted) -> dict[str, Any] | None:
                nonlocal sound
                rows = dict(self._rows(reply["choices"][0]))
                if not set(wanted) <= set(rows):
                    return None
                forced = log_probability(rows[wanted[0]]) if wanted else None
                sound = are_log_probabilities(rows) and (forced is None or forced <= -1e-9)
                return rows if sound else None

            rows, problem = await self._try(self.short_prompt, rows_of, **fields)
            if not sound:
                remedy = "start vLLM with --logprobs-mode raw_logprobs (its default)"
                raise InputError(f"the server's log-probabilities are not those of the whole vocabulary; {remedy}")
            if rows:
                self._list_fields = fields
                self._least = math.inf if wanted else min(count, len(rows)) / 2
                self.capabilities |= {"label_scores": name} | ({} if wanted else {"top_logprobs": count})
                return
        if isinstance(problem, FailedError):
            remedy = "where it gives no log-probabilities, set ranker.scoring: generation"
            raise FailedError(f"{problem}; {remedy}")
        lack = f"no log-probabilities for {self.spec.options.name} ({problem or 'it lists none with its answers'})"
        raise InputError(f"the server gives {lack}; set ranker.scoring: generation")

    async def _listings(self, puts: Sequence[Put], calls: int, **more: Any) -> list[Listing]:
        fields = {**puts[0].fields, **self._list_fields, **more}
        if "logprob_token_ids" in fields:
            wanted = sorted({token for put in puts for [token] in put.targets})
            fields = {"logprobs": 1, "logprob_token_ids": wanted, **AS_IDS}

        def read(reply: Any, choice: Any, put: Put) -> Listing:
            rows, counted = self._rows(choice), put.counted
            listed = [(token, p) for token, value in rows if (p := log_probability(value)) is not None]
            scores, (text, _) = find_labels(listed, put), self._said(choice)
            if scores.count(None) == len(scores) > find_labels([(token, 0.0) for token, _ in rows], put).count(None):
                text = no_answer(NO_PROBABILITY, "the labels are listed without a log-probability")
            return Listing(scores, listed, text, counted if self.shares else usage(reply, "prompt_tokens"))

        return await self._together(puts, 1, read, calls, **fields)

    async def _label_scores(self, puts: Sequence[Put]) -> list[Reply]:
        listings = await self._listings(puts, len(puts))
        if any(None in listing.scores and len(listing.listed) < self._least for listing in listings):
            pairs = zip(listings, await self._listings(puts, 0), strict=True)
            listings = [max(pair, key=lambda listing: len(listing.listed)) for pair in pairs]
        replies = []
        for listing, put in zip(listings, puts, strict=True):
            if None in listing.scores:
                await self._score_missing(listing, put)
                if missing := listing.scores.count(None):
                    self._count("labels_not_listed", missing)
            scores = bounded(listing.scores, [p for _, p in listing.listed])
            text = None if scores else listing.text
            replies.append(Reply(text, tuple(scores) if scores else None, listing.prompt_tokens, 0))
        return replies


@dataclass(slots=True)
class Listing:
    """The tokens that a reply lists for one prompt, the labels' log-probabilities in it, and the text beside it."""

    scores: list[float | None]
    listed: Listed
    text: str
    prompt_tokens: int | None


def disarmed(text: str) -> str:
    """Return the text with a blank after the first character of each control token."""
    return CONTROL.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def at_most_tokens(text: str) -> int:
    """Return a count that a text's tokens do not exceed, where no tokenizer counts them."""
    return len(text.encode("utf-8", "surrogatepass")) + OVERHEAD


def find_labels(listed: Listed, put: Put) -> list[float | None]:
    """Return each label's log-probability, or None if it is not listed."""
    if put.targets and all(token.startswith("token_id:") for token, _ in listed):
        by_token = dict(listed)
        return [by_token.get(f"token_id:{token}") for [token] in put.targets]
    return by_text(listed, put.request.labels, put.gap)


def log_probability(value: object) -> float | None:
    """Return the log-probability, at most 0, that a server's value is, or None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not IMPOSSIBLE < value <= ROUNDING:
        return None
    return min(float(value), 0.0)


def by_text(listed: Listed, labels: Sequence[str], gap: str = "") -> list[float | None]:
    """Return each label's log-probability, or None if it is not listed.

    A token stands for the label that it is, after the `gap` that the answer begins with, or but for white space around
    it; of a label of several words it may be the first, if no other label begins with that. Of several such tokens the
    first kind counts, and then the most probable.
    """
    exact = dict(reversed(listed))  # the most probable come first, and stay
    scores = [exact.get(gap + label) for label in labels]
    if None in scores:
        bare = {token.strip(): p for token, p in sorted(listed, key=lambda row: row[1])}
        begins = [label.split(maxsplit=1)[0] for label in labels]
        for i, (label, first) in enumerate(zip(labels, begins, strict=True)):
            if scores[i] is None:
                scores[i] = bare.get(label, bare.get(first) if begins.count(first) == 1 else None)
    return scores


def bounded(scores: Sequence[float | None], listed: Sequence[float]) -> list[float] | None:
    """Return the scores, with the most that it can be for a label that is not listed, or None if no label is.

    That is the least of the listed log-probabilities, or all the probability that the list leaves if that is less. The
    best label stays the best one, and labels that are not listed come after those that are, all alike.
    """
    known = [score for score in scores if score is not None]
    if len(known) == len(scores) or not known:
        return known or None
    left = 1.0 - math.fsum(math.exp(p) for p in listed)
    # No probability left: rounding has taken what is not listed, which is then far below the rest.
    most = min(min(listed), math.log(left)) if left > 0 else min(listed)
    return [most if score is None else score for score in scores]


def shifted(scores: Sequence[float | None], among_labels: Sequence[float]) -> list[float] | None:
    """Return log-probabilities over the whole vocabulary from those among the labels, or None if no label is listed.

    Both differ by one number, which the most probable of the listed labels tells.
    """
    known = [(score, i) for i, score in enumerate(scores) if score is not None]
    if not known:
        return None
    score, best = max(known)
    return [among_labels[i] + score - among_labels[best] if known is None else known for i, known in enumerate(scores)]


def are_log_probabilities(values: Mapping[str, object]) -> bool:
    """Return whether these can be log-probabilities of different tokens, and are not, say, logits."""
    known = [number for value in values.values() if (number := log_probability(value)) is not None]
    logits = any(type(value) in (int, float) and ROUNDING < value < math.inf for value in values.values())  # type: ignore[operator]
    return bool(known) and not logits and math.fsum(map(math.exp, known)) <= 1.001
