"""Asks put through `/completions`: token ids go in, log-probabilities over the whole vocabulary come out.

Prompts are tokenised here, as for the backend `transformers`, so the server sees the same tokens, and labels are found
by their ids. Without a tokenizer a prompt goes as text, its messages one after the other without a chat template, and
labels are found by their text. vLLM gives the log-probabilities of exactly the labels (`logprob_token_ids`). Others
list the most probable tokens; a label that is not among them is then scored as a continuation where the server gives
log-probabilities of prompts (`prompt_logprobs`, or `echo`), and else by the most that it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

from ...answers.reading import NO_PROBABILITY, Reply, no_answer
from ...errors import InputError
from .._tokens.batches import Prepared
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .dispatch import Group
from .forms import (
    FEWER_LOGPROBS,
    NEUTRAL,
    Fields,
    MalformedError,
    Probes,
    Server,
    answer_tokens,
    at_most_tokens,
    rendered,
    tried,
    usage,
)
from .listed_labels import are_log_probabilities, bounded, by_text, log_probability

PATH = "/completions"

TRIED = "Answer with A or B:"

T = TypeVar("T")


@dataclass(slots=True)
class _Listing:
    """What a reply lists for one prompt, and the labels' log-probabilities in it."""

    scores: list[float | None]
    listed: Mapping[str, float]
    text: str
    prompt_tokens: int | None


class Completions:
    """The form of requests; `neutral` servers are told not to take sampling parameters from the model's config."""

    def __init__(self, server: Server, fields: Fields, tokens: Tokens | None, *, neutral: bool) -> None:
        self.server = server
        self.fields = fields
        self.tokens = tokens
        self.found: dict[str, object] = {"log_probabilities": "whole vocabulary"}
        self._neutral = NEUTRAL if neutral else {}
        self._probes = Probes()
        self._listed = fields.top_logprobs
        self._least = fields.top_logprobs / 2
        """Fewer tokens in a list are asked for once more: vLLM 0.32 lists two where others ask for token ids then."""
        self._more: dict[str, Any] = {}
        self._exact = False
        self._several = False

    # What is computed before asks are sent

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Prompts of the same terms together, texts that are to be written each alone."""
        groups = []
        for (way, _), some in groupby(requests, lambda request: (self._way(request), request.terms)):
            alike = list(some)
            size = 1 if way == "text" else self.fields.share(len(alike))
            for start in range(0, len(alike), size):
                part = tuple(alike[start : start + size])
                groups.append(Group(way, part, tuple(self._prepared(request, way) for request in part)))
        return groups

    def _way(self, request: Request) -> str:
        if request.prompt.target:
            return "continuation"
        if request.scoring == "generation":
            return "text"
        return "whole_labels" if request.prompt.answer.scored == "whole" else "labels"

    def _prepared(self, request: Request, way: str) -> tuple[Prepared, Any]:
        """A prompt and its labels' or target's tokens."""
        if self.tokens is None:
            if way in ("continuation", "whole_labels"):
                raise InputError(
                    f"prompt '{request.prompt.name}' asks for the probability of a text of several tokens, which only "
                    "the model's tokenizer can tell apart; set model.tokenizer to its folder or hub id"
                )
            text = "\n\n".join(message.content for message in rendered(request, None))
            return Prepared(request, text + request.prompt.answer.prefix.decoder_only, []), None
        text, ids = self.tokens.prompt(request)
        prompt = Prepared(request, text, ids)
        if way == "continuation":
            return prompt, [self.tokens.target(request)]
        if way == "text":
            return prompt, None
        labels = self.tokens.label_ids(request, text)
        return prompt, [list(label) for label in labels] if way == "whole_labels" else [first for (first,) in labels]

    # What the server can do

    async def check(self, way: str) -> None:
        """Raise `InputError` where the server cannot answer asks that are put that way."""
        if way != "text":
            await self._probes.once("many", self._takes_many)
        if way == "labels":
            await self._probes.once("labels", self._find_labels_way)
        elif way in ("continuation", "whole_labels") and await self._continuation() is None:
            raise InputError(
                f"the server gives no log-probabilities of prompts for {self.fields.name} (neither prompt_logprobs nor "
                "echo), which likelihood asks and labels of several tokens need; use vLLM, or scoring: generation"
            )

    @property
    def _trial(self) -> Any:
        """A short prompt."""
        return self.tokens.tokenizer(TRIED, add_special_tokens=False)["input_ids"] if self.tokens else TRIED

    async def _try(self, prompt: Any, extract: Callable[[Any], T], *, needed: bool = False, **fields: Any) -> T | None:
        """What a trial's reply shows, or None where the server cannot do it; see `tried`."""
        body = self.fields.body(prompt=prompt, **{"max_tokens": 1, "temperature": 0.0, **fields})
        value, _ = await tried(self.server, PATH, body, extract, Spending(0, 4 * len(TRIED), 2), needed=needed)
        return value

    async def _takes_many(self) -> None:
        """Find out whether a request may hold several prompts."""
        if self.fields.group_size > 1:
            several = await self._try([self._trial, self._trial], lambda reply: len(reply["choices"]) == 2)
            self.found["several_prompts_a_request"] = bool(several)
        self._several = bool(self.found.get("several_prompts_a_request"))

    async def _find_labels_way(self) -> None:
        if self.tokens:
            wanted = sorted(set(self._trial))[:3]

            def exact(reply: Any) -> dict[str, Any] | None:
                listed = _top(reply)
                return listed if all(f"token_id:{token}" in listed for token in wanted) else None

            fields = {"logprob_token_ids": wanted, "allowed_token_ids": wanted[:1], "return_tokens_as_token_ids": True}
            listed = await self._raw(exact, lambda listed: listed[f"token_id:{wanted[0]}"], logprobs=1, **fields)
            if listed:
                self.found["label_scores"], self._exact = "logprob_token_ids", True
                return
        for count in dict.fromkeys((self.fields.top_logprobs, FEWER_LOGPROBS)):
            as_ids = [{"return_tokens_as_token_ids": True}] if self.tokens else []
            for more in (*as_ids, {}):
                needed = count == FEWER_LOGPROBS and not more
                listed = await self._raw(_top, lambda _: -1.0, needed=needed, logprobs=count, **more)
                if listed:
                    self._listed, self._more, self._least = count, more, min(count, len(listed)) / 2
                    self.found |= {"label_scores": "logprobs", "top_logprobs": count}
                    return
        raise InputError(
            f"the server gives no log-probabilities for {self.fields.name}; set ranker.scoring: generation"
        )

    async def _raw(
        self, extract: Callable[[Any], dict[str, Any] | None], only: Callable[[dict[str, Any]], Any], **fields: Any
    ) -> dict[str, Any] | None:
        """The tokens that a trial lists, or None; `only` gives the number of the one that was allowed, less than 0.

        Raises `InputError` where their numbers are, twice, not log-probabilities over the whole vocabulary.
        """
        for _ in range(2):
            listed = await self._try(self._trial, extract, **fields)
            alone = log_probability(only(listed)) if listed else None
            if not listed or (are_log_probabilities(listed) and (alone is None or alone <= -1e-9)):
                return listed
        raise InputError(
            "the server's log-probabilities are not those of the whole vocabulary; start vLLM with "
            "--logprobs-mode raw_logprobs (its default)"
        )

    async def _continuation(self) -> str | None:
        """How the log-probabilities of a prompt's tokens are had, or None."""
        return await self._probes.once("continuation", self._find_continuation_way)

    async def _find_continuation_way(self) -> str | None:
        if self.tokens is None:
            return None
        prompt = self._trial
        for way, fields in CONTINUATIONS.items():

            def last(reply: Any, way: str = way) -> list[float | None]:
                return [_continued(way, reply["choices"][0], prompt, 1)]

            if await self._try(prompt, last, **fields):
                self.found["continuations"] = way.partition(" ")[0]
                return way
        return None

    # Answers

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""
        if group.way == "text":
            return [await self._text(*group.prepared[0])]
        if not self._several and len(group.requests) > 1:
            return [reply for one in group.split() for reply in await self.answer(one)]
        if group.way == "labels":
            return await self._label_scores(group)
        pairs = [(prompt, target) for prompt, targets in group.prepared for target in targets]
        scores = iter(await self._continuations(pairs, len(group.requests)))
        return [
            _scored(prompt, [next(scores) for _ in targets], targets, group.way) for prompt, targets in group.prepared
        ]

    async def _label_scores(self, group: Group) -> list[Reply]:
        prompts = [prompt for prompt, _ in group.prepared]
        fields: dict[str, Any] = {"logprobs": self._listed} | self._more
        if self._exact:
            wanted = sorted({token for _, tokens in group.prepared for token in tokens})
            fields = {"logprobs": 1, "logprob_token_ids": wanted, "return_tokens_as_token_ids": True}
        body = self.fields.body(prompt=_input(prompts), max_tokens=1, temperature=0.0, **fields)

        def read(reply: Any) -> list[_Listing]:
            return [
                self._listing(choice, prompt, tokens)
                for choice, (prompt, tokens) in zip(_choices(reply, len(prompts)), group.prepared, strict=True)
            ]

        most = _most(prompts, len(prompts))
        listings = await self.server.post(PATH, body, read, asks=len(prompts), most=most)
        least = self._least if not self._exact else math.inf
        if any(None in listing.scores and len(listing.listed) < least for listing in listings):
            again = await self.server.post(PATH, body, read, most=Spending(0, most.prompt_tokens, len(prompts)))
            listings = [
                max(pair, key=lambda listing: len(listing.listed)) for pair in zip(listings, again, strict=True)
            ]
        for listing, (prompt, tokens) in zip(listings, group.prepared, strict=True):
            if None in listing.scores and tokens and await self._continuation():
                await self._score_missing(listing, prompt, tokens)
        return [self._scored_labels(listing) for listing in listings]

    def _listing(self, choice: Any, prompt: Prepared, tokens: Sequence[int] | None) -> _Listing:
        """What a choice lists. Raises `MalformedError` where that is not what was asked for."""
        rows, labels = _top({"choices": [choice]}), prompt.request.labels
        listed = {token: p for token, value in rows.items() if (p := log_probability(value)) is not None}
        scores, text = _own(listed, tokens, labels), str(choice.get("text", ""))
        if scores.count(None) == len(scores) > _own(dict.fromkeys(rows, 0.0), tokens, labels).count(None):
            text = no_answer(NO_PROBABILITY, "the labels are listed without a log-probability")
        # Without a tokenizer there is no count: the server's is of all the prompts that share a request.
        return _Listing(scores, listed, text, len(prompt.ids) or None)

    async def _score_missing(self, listing: _Listing, prompt: Prepared, tokens: Sequence[int]) -> None:
        """Score the labels that are not listed as continuations of the prompt."""
        missing = [i for i, score in enumerate(listing.scores) if score is None]
        found = await self._continuations([(prompt, [tokens[i]]) for i in missing], 0)
        for i, score in zip(missing, found, strict=True):
            listing.scores[i] = score

    def _scored_labels(self, listing: _Listing) -> Reply:
        missing = listing.scores.count(None)
        if missing:
            self.found["labels_not_listed"] = int(str(self.found.get("labels_not_listed", 0))) + missing
        scores = bounded(listing.scores, list(listing.listed.values()))
        if scores is None:  # what it would have said instead
            return Reply(text=listing.text, prompt_tokens=listing.prompt_tokens, completion_tokens=0)
        return Reply(scores=tuple(map(float, scores)), prompt_tokens=listing.prompt_tokens, completion_tokens=0)

    async def _continuations(self, pairs: Sequence[tuple[Prepared, list[int]]], asks: int) -> list[float | None]:
        """The log-probability of each text after its prompt, summed over its tokens; None where there is none."""
        way = await self._continuation() or ""
        size = self.fields.group_size if self._several else 1
        found: list[float | None] = []
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            whole = [prompt.ids + target for prompt, target in some]
            body = self.fields.body(
                prompt=whole if len(whole) > 1 else whole[0],
                **{"max_tokens": 1, "temperature": 0.0, **CONTINUATIONS[way]},
            )

            def read(reply: Any, some: Sequence[tuple[Prepared, list[int]]] = some) -> list[float | None]:
                choices = _choices(reply, len(some))
                return [
                    _continued(way, choice, prompt.ids + target, len(target))
                    for choice, (prompt, target) in zip(choices, some, strict=True)
                ]

            calls = asks if not start else 0
            most = Spending(calls, sum(map(len, whole)), len(whole))
            found += await self.server.post(PATH, body, read, asks=calls, most=most)
        return found

    async def _text(self, prompt: Prepared, _: None) -> Reply:
        request = prompt.request
        length = answer_tokens(request, self.tokens)
        sampling = self._neutral | self.fields.sampling(request)
        body = self.fields.body(prompt=_input([prompt]), max_tokens=length, **sampling)

        def read(reply: Any) -> Reply:
            [choice] = _choices(reply, 1)
            if not isinstance(choice["text"], str):
                raise MalformedError("a text that is none")
            counted = len(prompt.ids) or usage(reply, "prompt_tokens")
            return Reply(
                text=choice["text"], prompt_tokens=counted, completion_tokens=usage(reply, "completion_tokens")
            )

        return await self.server.post(PATH, body, read, asks=1, most=_most([prompt], length))


CONTINUATIONS: dict[str, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "echo and a token": {"echo": True, "logprobs": 1, "max_tokens": 1},
}
"""How servers are asked for the log-probabilities of a prompt's tokens."""


def _input(prompts: Sequence[Prepared]) -> Any:
    """The field `prompt`: ids where there are some, else texts."""
    inputs: list[Any] = [prompt.ids or prompt.text for prompt in prompts]
    return inputs if len(inputs) > 1 else inputs[0]


def _choices(reply: Any, count: int) -> list[Any]:
    """A reply's choices, one a prompt, in the order of the prompts."""
    choices = reply["choices"]
    if len(choices) != count or sorted(choice.get("index", 0) for choice in choices) != list(range(count)):
        raise MalformedError(f"{len(choices)} choices for {count} prompts")
    return sorted(choices, key=lambda choice: choice.get("index", 0))


def _top(reply: Any) -> dict[str, Any]:
    """The tokens that a reply lists, with what the server says of each."""
    listed: Mapping[str, Any] = reply["choices"][0]["logprobs"]["top_logprobs"][0]
    return {str(token): value for token, value in listed.items()}


def _own(listed: Mapping[str, float], tokens: Sequence[int] | None, labels: Sequence[str]) -> list[float | None]:
    """Each label's log-probability, by its id where the listed tokens are ids; None where it is not listed."""
    if tokens and all(token.startswith("token_id:") for token in listed):
        return [listed.get(f"token_id:{token}") for token in tokens]
    return by_text(list(listed.items()), labels)


def _continued(way: str, choice: Any, ids: Sequence[int], last: int) -> float | None:
    """The log-probability of the last tokens of a prompt, summed over them; None where one has none."""
    if way == "prompt_logprobs":
        rows = choice["prompt_logprobs"]
        values = [rows[i][str(ids[i])]["logprob"] for i in range(len(ids) - last, len(ids))]
        length = len(rows)
    else:
        rows = choice["logprobs"]["token_logprobs"]
        length = len(rows) - (way == "echo and a token")
        values = rows[len(ids) - last : len(ids)]
    if length != len(ids):
        raise MalformedError(f"log-probabilities of {length} tokens for a prompt of {len(ids)}")
    known = [p for value in values if (p := log_probability(value)) is not None]
    return math.fsum(known) if len(known) == last else None


def _scored(prompt: Prepared, scores: list[float | None], targets: Sequence[list[int]], way: str) -> Reply:
    """The reply, with tokens as the backend `transformers` counts them: a target's are the prompt's, labels' not."""
    length = len(prompt.ids) + (len(targets[0]) if way == "continuation" else 0)
    known = tuple(score for score in scores if score is not None)
    if len(known) < len(scores):
        return Reply(no_answer(NO_PROBABILITY, "a token has no log-probability"), None, length, 0)
    return Reply(scores=known, prompt_tokens=length, completion_tokens=0)


def _most(prompts: Sequence[Prepared], completion: int) -> Spending:
    """What a request can cost at most."""
    tokens = sum(len(prompt.ids) or at_most_tokens(prompt.text) for prompt in prompts)
    return Spending(len(prompts), tokens, completion)
