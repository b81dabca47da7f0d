"""Asks put through `/chat/completions`: the server applies the model's chat template and tokenises.

Labels are scored by the list of most probable first tokens that comes with the answer (`top_logprobs`), found by their
text. One that is not listed is asked for again among the labels alone where the server can be held to them (vLLM's
`structured_outputs`): those log-probabilities differ from the ones over the whole vocabulary by one number, which a
listed label tells. Elsewhere it counts as probable as it can be. What an answer is made to begin with is sent as the
beginning of the assistant's turn where the server goes on from there (`continue_final_message`), else left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ...answers.parsing import TAG
from ...answers.reading import NO_PROBABILITY, Reply, no_answer
from ...errors import InputError
from ...prompts.template import Message, folded
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .dispatch import Group
from .forms import (
    FEWER_LOGPROBS,
    NEUTRAL,
    FailedError,
    Fields,
    MalformedError,
    Probes,
    RefusedError,
    Server,
    answer_tokens,
    at_most_tokens,
    rendered,
    tried,
    usage,
)
from .listed_labels import are_log_probabilities, bounded, by_text, log_probability, shifted

PATH = "/chat/completions"

TRIED = [{"role": "user", "content": "Answer with A or B."}]

T = TypeVar("T")

CONTINUE: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}

TRIAL_COST = Spending(0, 600, 8)
"""The most that a probe costs."""

Turns = Sequence[Mapping[str, str]]

Listed = list[tuple[str, float]]
"""Tokens as text, and their log-probabilities."""


class Chat:
    """The form of requests; `neutral` servers are told not to take sampling parameters from the model's config."""

    def __init__(
        self, server: Server, fields: Fields, tokens: Tokens | None, reasoning_effort: str | None, *, neutral: bool
    ) -> None:
        self.server = server
        self.fields = fields
        self.tokens = tokens
        self.found: dict[str, object] = {}
        self._reasoning = {"reasoning_effort": reasoning_effort} if reasoning_effort else {}
        self._neutral = NEUTRAL if neutral else {}
        self._length_field = "max_tokens"
        self._listed = fields.top_logprobs
        self._least = fields.top_logprobs / 2
        """Fewer tokens in a list are asked for once more: vLLM 0.32 lists two where others ask for token ids then."""
        self._takes_system: bool | None = None
        """Whether a conversation may begin with a system turn; None where that is not known yet."""
        self._probes = Probes()

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Each ask alone: a conversation is a request."""
        return [Group(self._way(request), (request,), (rendered(request, self.tokens),)) for request in requests]

    def _way(self, request: Request) -> str:
        if request.scoring == "generation" and not request.prompt.target:
            return "text"
        if request.prompt.target or request.prompt.answer.scored == "whole":
            raise InputError(
                f"prompt '{request.prompt.name}' asks for the probability of a text of several tokens, which "
                "/chat/completions does not give; set model.tokenizer to the model's own and model.api: completions"
            )
        return "labels"

    # What the server can do

    async def check(self, way: str) -> None:
        """Raise `InputError` where the server cannot answer asks that are put that way."""
        if way == "labels":
            await self._probes.once("labels", self._find_labels_way)

    async def _find_labels_way(self) -> None:
        reason = ""
        for count in dict.fromkeys((self.fields.top_logprobs, FEWER_LOGPROBS)):
            fields = {"logprobs": True, "top_logprobs": count, "temperature": 0.0}
            for _ in range(2):  # one odd reply shows nothing
                rows, reason = await self._try(
                    TRIED, fields, lambda reply: dict(_rows(reply)), needed=count == FEWER_LOGPROBS
                )
                if not rows or are_log_probabilities(rows):
                    break
            if not rows:
                continue
            if not are_log_probabilities(rows):
                raise InputError(
                    "the server gives other numbers than log-probabilities; start vLLM with "
                    "--logprobs-mode raw_logprobs (its default)"
                )
            self._listed, self._least = count, min(count, len(rows)) / 2
            self.found |= {"label_scores": "top_logprobs", "top_logprobs": count}
            self.found["log_probabilities"] = "whole vocabulary"
            return
        raise InputError(
            f"the server gives no log-probabilities for {self.fields.name} "
            f"({reason or 'it lists none with its answers'}); set ranker.scoring: generation"
        )

    async def _holds_to_labels(self) -> bool:
        """Whether answers can be restricted to the labels."""
        held = {"temperature": 0.0, "structured_outputs": {"choice": ["zebra"]}}

        def obeyed(reply: Any) -> bool:
            said = reply["choices"][0]["message"]["content"]
            return bool(said) and "zebra".startswith(said)

        found = bool((await self._try(TRIED, held, obeyed))[0])
        self.found["structured_outputs"] = found
        return found

    async def _continues(self) -> bool:
        """Whether an answer goes on from the beginning of the assistant's turn: its prompt is then the shorter one."""
        turns = [*TRIED, {"role": "assistant", "content": "Answer:"}]

        def counted(reply: Any) -> int | None:
            return usage(reply, "prompt_tokens")

        closed, _ = await self._try(turns, {"temperature": 0.0}, counted)
        found = False
        if closed is not None:
            fields = {"temperature": 0.0, **CONTINUE}
            shorter, _ = await self._try(turns, fields, lambda reply: 0 < (counted(reply) or 0) < closed)
            found = bool(shorter)
        self.found["answer_prefix"] = "sent" if found else "left out: the server does not continue the assistant's turn"
        return found

    async def _refuses_system(self) -> bool:
        """Whether a conversation is answered only without a system turn; says so."""
        system = {"role": "system", "content": "Answer in one word."}
        answered, _ = await self._try([system, *TRIED], {"temperature": 0.0}, lambda _: True)
        plain, _ = (None, "") if answered else await self._try(TRIED, {"temperature": 0.0}, lambda _: True)
        if plain:
            self.found["system_turn"] = "refused: its text goes before the first user turn"
            logging.getLogger(__name__).warning(
                "%s takes no system turn: its text goes before the first user turn", self.fields.name
            )
        self._takes_system = not plain
        return bool(plain)

    # Answers

    async def answer(self, group: Group) -> list[Reply]:
        """The reply to the ask."""
        [request], [messages] = group.requests, group.prepared
        has_system = any(message.role == "system" for message in messages)
        if has_system and self._takes_system is not False:
            try:
                reply = await self._answer(request, messages, group.way)
            except (RefusedError, FailedError):
                if self._takes_system or not await self._probes.once("system", self._refuses_system):
                    raise
            else:
                self._takes_system, self.found["system_turn"] = True, "sent"
                return [reply]
        return [await self._answer(request, folded(messages), group.way)]

    async def _answer(self, request: Request, messages: Sequence[Message], way: str) -> Reply:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        prefix, fields = request.prompt.answer.prefix.decoder_only, dict[str, Any]()
        continues = await self._probes.once("prefix", self._continues) if prefix else False
        if continues:
            turns, fields = [*turns, {"role": "assistant", "content": prefix}], CONTINUE
        if way == "labels":
            return await self._label_scores(request, turns, fields)
        return await self._text(request, turns, fields)

    async def _label_scores(self, request: Request, turns: Turns, fields: dict[str, Any]) -> Reply:
        labels = request.labels
        # As in the token ids of the other form: after a word, a label is written with a blank before it.
        gap = " " if fields and request.prompt.answer.prefix.decoder_only[-1] not in " \n([" else ""
        most = Spending(1, sum(at_most_tokens(turn["content"]) for turn in turns), 1)
        fields = fields | {"logprobs": True, "top_logprobs": self._listed, "temperature": 0.0}

        def read(reply: Any) -> tuple[list[float | None], Listed, str, int | None]:
            rows = _rows(reply)
            listed = _valid(rows)
            scores = by_text(listed, labels, gap)
            said = reply["choices"][0]["message"].get("content") or ""
            if not any(score is not None for score in scores) and _numberless(rows, labels, gap):
                said = no_answer(NO_PROBABILITY, "the labels are listed without a log-probability")
            return scores, listed, said, usage(reply, "prompt_tokens")

        scores, listed, said, length = await self._post(turns, 1, fields, read, most)
        if None in scores and len(listed) < self._least:
            again = await self._post(turns, 1, fields, read, Spending(0, most.prompt_tokens, 1))
            if len(again[1]) > len(listed):
                scores, listed, said, length = again
        given: Sequence[float] | None = None
        if None in scores:
            if await self._probes.once("structured", self._holds_to_labels):
                held = fields | {"structured_outputs": {"choice": [gap + label for label in labels]}}
                extra = Spending(0, most.prompt_tokens, 1)
                among = await self._post(
                    turns, 1, held, lambda reply: by_text(_valid(_rows(reply)), labels, gap), extra
                )
                complete = [score for score in among if score is not None]
                if len(complete) == len(labels):
                    given = shifted(scores, complete)
                    if given is None:
                        given = complete
                        self._count("renormalised_over_labels", 1)
            if given is None:
                self._count("labels_not_listed", scores.count(None))
        given = given or bounded(scores, [p for _, p in listed])
        if given is None:  # what it would have said instead
            return Reply(text=said, prompt_tokens=length, completion_tokens=0)
        return Reply(scores=tuple(given), prompt_tokens=length, completion_tokens=0)

    async def _text(self, request: Request, turns: Turns, fields: dict[str, Any]) -> Reply:
        length = answer_tokens(request, self.tokens)
        fields = fields | self._neutral | self.fields.sampling(request) | self._reasoning
        most = Spending(1, sum(at_most_tokens(turn["content"]) for turn in turns), length)
        return await self._post(turns, length, fields, _read_text, most)

    async def _try(
        self, turns: Turns, fields: Mapping[str, Any], extract: Callable[[Any], T], *, needed: bool = False
    ) -> tuple[T | None, str]:
        """What a trial's reply shows; see `tried`."""
        for name in dict.fromkeys((self._length_field, "max_completion_tokens")):
            body = self.fields.body(messages=turns, **{name: 1}, **fields)
            value, reason = await tried(self.server, PATH, body, extract, TRIAL_COST, needed=needed)
            if "max_completion_tokens" not in reason:
                break
            self._length_field = "max_completion_tokens"
        return value, reason

    async def _post(
        self,
        turns: Turns,
        length: int,
        fields: Mapping[str, Any],
        read: Callable[[Any], T],
        most: Spending,
    ) -> T:
        """The reply to a conversation, of so many tokens at most."""
        while True:
            name = self._length_field
            body = self.fields.body(messages=turns, **{name: length}, **fields)
            try:
                return await self.server.post(PATH, body, read, asks=most.calls, most=most)
            except RefusedError as error:
                # OpenAI's reasoning models take the length under its newer name alone.
                if "max_completion_tokens" not in error.message or name == "max_completion_tokens":
                    raise
                self._length_field = "max_completion_tokens"

    def _count(self, name: str, more: int) -> None:
        self.found[name] = int(str(self.found.get(name, 0))) + more


def _rows(reply: Any) -> list[tuple[str, Any]]:
    """The most probable first tokens of an answer, with what the server says of each."""
    rows = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return [(str(row["token"]), row.get("logprob")) for row in rows]


def _valid(rows: Sequence[tuple[str, Any]]) -> Listed:
    """The tokens that have a log-probability."""
    return [(token, p) for token, value in rows if (p := log_probability(value)) is not None]


def _numberless(rows: Sequence[tuple[str, Any]], labels: Sequence[str], gap: str) -> bool:
    """Whether some of the labels are listed at all."""
    return any(score is not None for score in by_text([(token, 0.0) for token, _ in rows], labels, gap))


def _read_text(reply: Any) -> Reply:
    choice = reply["choices"][0]
    message = choice["message"]
    content, thoughts = _parts(message.get("content") or "")
    thought = message.get("reasoning") or message.get("reasoning_content") or thoughts
    if isinstance(thought, str) and thought:
        # Its own marks of thoughts would end it too early for whoever reads the answer.
        inside = TAG.sub(lambda tag: f"({tag[0][1:-1]})", thought)
        unfinished = not content and choice.get("finish_reason") == "length"
        content = f"<think>{inside}" if unfinished else f"<think>{inside}</think>{content}"
    return Reply(
        text=content, prompt_tokens=usage(reply, "prompt_tokens"), completion_tokens=usage(reply, "completion_tokens")
    )


def _parts(content: Any) -> tuple[str, str]:
    """The text and the thoughts in a message's content, which may be a list of parts."""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise MalformedError("a text that is none")
    text, thoughts = "", ""
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else "text"
        if kind in ("thinking", "reasoning"):
            inner = part.get("thinking") or part.get("reasoning") or part.get("text") or part.get("summary") or ""
            thoughts += "".join(_parts(inner))
        elif isinstance(part, str):
            text += part
        elif isinstance(part.get("text"), str):
            text += part["text"]
        elif isinstance(part.get("content"), (str, list)):
            text += _parts(part["content"])[0]
    return text, thoughts
