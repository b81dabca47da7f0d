"""Asks put through `/chat/completions`: the server applies the model's chat template and tokenises.

Labels are scored by the list of most probable first tokens that comes with the answer (`top_logprobs`), found by their
text. One that is not listed is asked for again among the labels alone where the server can be held to them (vLLM's
`structured_outputs`): those log-probabilities differ from the ones over the whole vocabulary by one number, which a
listed label tells. Elsewhere it counts as probable as it can be. What an answer is made to begin with is sent as the
beginning of the assistant's turn where the server goes on from there (`continue_final_message`), else left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ...errors import InputError
from ...prompts.answers import Reply
from ...prompts.parsing import TAG
from .. import Request
from ..inputs.tokens import Tokens
from .budget import Spending
from .dispatch import Group
from .forms import (
    FEWER_LOGPROBS,
    NEUTRAL,
    Fields,
    MalformedError,
    Probes,
    RefusedError,
    Server,
    answer_tokens,
    at_most_tokens,
    rendered,
    usage,
)
from .listed_labels import are_log_probabilities, bounded, by_text, shifted

PATH = "/chat/completions"

TRIED = [{"role": "user", "content": "Answer with A or B."}]

T = TypeVar("T")

CONTINUE: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}

TRIAL_COST = Spending(0, 600, 8)
"""The most that a probe costs."""

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
        self._probes = Probes()

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Each ask alone: a conversation is a request."""
        return [Group(self._way(request), (request,), (self._turns(request),)) for request in requests]

    def _turns(self, request: Request) -> list[dict[str, str]]:
        return [{"role": turn.role, "content": turn.content} for turn in rendered(request, self.tokens)]

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
        reason = "it lists none with its answers"
        for count in dict.fromkeys((self.fields.top_logprobs, FEWER_LOGPROBS)):
            try:
                reply = await self._try(TRIED, {"logprobs": True, "top_logprobs": count, "temperature": 0.0})
                listed = _listed(reply)
            except RefusedError as error:
                if error.status == 404:
                    raise
                reason = error.message
                continue
            except (KeyError, IndexError, TypeError, ValueError, AttributeError):
                continue
            if not are_log_probabilities([p for _, p in listed]):
                raise InputError(
                    "the server gives other numbers than log-probabilities; start vLLM with "
                    "--logprobs-mode raw_logprobs (its default)"
                )
            self._listed = count
            self.found |= {"label_scores": "top_logprobs", "top_logprobs": count}
            self.found["log_probabilities"] = "whole vocabulary"
            return
        raise InputError(
            f"the server gives no log-probabilities for {self.fields.name} ({reason}); set ranker.scoring: generation"
        )

    async def _holds_to_labels(self) -> bool:
        """Whether answers can be restricted to the labels."""
        found = False
        try:
            reply = await self._try(TRIED, {"temperature": 0.0, "structured_outputs": {"choice": ["zebra"]}})
            said = reply["choices"][0]["message"]["content"]
            found = bool(said) and "zebra".startswith(said)
        except (RefusedError, KeyError, IndexError, TypeError):
            pass
        self.found["structured_outputs"] = found
        return found

    async def _continues(self) -> bool:
        """Whether an answer goes on from the beginning of the assistant's turn: its prompt is then the shorter one."""
        turns = [*TRIED, {"role": "assistant", "content": "Answer:"}]
        counts = []
        for fields in ({}, CONTINUE):
            try:
                counts.append(usage(await self._try(turns, {"temperature": 0.0, **fields}), "prompt_tokens"))
            except RefusedError:
                counts.append(None)
        closed, continued = counts
        found = closed is not None and continued is not None and continued < closed
        self.found["answer_prefix"] = "sent" if found else "left out: the server does not continue the assistant's turn"
        return found

    # Answers

    async def answer(self, group: Group) -> list[Reply]:
        """The reply to the ask."""
        [request], [turns] = group.requests, group.prepared
        prefix, fields = request.prompt.answer.prefix.decoder_only, dict[str, Any]()
        continues = await self._probes.once("prefix", self._continues) if prefix else False
        if continues:
            turns, fields = [*turns, {"role": "assistant", "content": prefix}], CONTINUE
        if group.way == "labels":
            return [await self._label_scores(request, turns, fields)]
        return [await self._text(request, turns, fields)]

    async def _label_scores(
        self, request: Request, turns: Sequence[Mapping[str, str]], fields: dict[str, Any]
    ) -> Reply:
        labels = request.labels
        # As in the token ids of the other form: after a word, a label is written with a blank before it.
        gap = " " if fields and request.prompt.answer.prefix.decoder_only[-1] not in " \n([" else ""
        most = Spending(1, sum(at_most_tokens(turn["content"]) for turn in turns), 1)
        fields = fields | {"logprobs": True, "top_logprobs": self._listed, "temperature": 0.0}

        def read(reply: Any) -> tuple[list[float | None], Listed, str, int | None]:
            listed = _listed(reply)
            scores = by_text(listed, labels, gap)
            # vLLM 0.32 lists two tokens where others ask for logprob_token_ids at the same time.
            if None in scores and len(listed) < self._listed / 2:
                raise MalformedError(f"{len(listed)} log-probabilities instead of {self._listed}")
            said = reply["choices"][0]["message"].get("content") or ""
            return scores, listed, said, usage(reply, "prompt_tokens")

        scores, listed, said, length = await self._post(turns, 1, fields, read, most)
        given: Sequence[float] | None = None
        if None in scores:
            if await self._probes.once("structured", self._holds_to_labels):
                held = fields | {"structured_outputs": {"choice": [gap + label for label in labels]}}
                extra = Spending(0, most.prompt_tokens, 1)
                among = await self._post(turns, 1, held, lambda reply: by_text(_listed(reply), labels, gap), extra)
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

    async def _text(self, request: Request, turns: Sequence[Mapping[str, str]], fields: dict[str, Any]) -> Reply:
        length = answer_tokens(request, self.tokens)
        fields = fields | self._neutral | self.fields.sampling(request) | self._reasoning
        most = Spending(1, sum(at_most_tokens(turn["content"]) for turn in turns), length)
        return await self._post(turns, length, fields, _read_text, most)

    async def _try(self, turns: Sequence[Mapping[str, str]], fields: Mapping[str, Any]) -> Any:
        """The reply to a trial. Raises `RefusedError` where the server will not have it."""
        return await self._post(turns, 1, fields, lambda reply: reply, TRIAL_COST)

    async def _post(
        self,
        turns: Sequence[Mapping[str, str]],
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


def _listed(reply: Any) -> Listed:
    """The most probable first tokens of an answer."""
    return [
        (each["token"], float(each["logprob"]))
        for each in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    ]


def _read_text(reply: Any) -> Reply:
    choice = reply["choices"][0]
    message = choice["message"]
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise MalformedError("a text that is none")
    thought = message.get("reasoning") or message.get("reasoning_content")
    if isinstance(thought, str) and thought:
        # Its own marks of thoughts would end it too early for whoever reads the answer.
        inside = TAG.sub(lambda tag: f"({tag[0][1:-1]})", thought)
        unfinished = not content and choice.get("finish_reason") == "length"
        content = f"<think>{inside}" if unfinished else f"<think>{inside}</think>{content}"
    return Reply(
        text=content, prompt_tokens=usage(reply, "prompt_tokens"), completion_tokens=usage(reply, "completion_tokens")
    )
