"""Asks put through `/chat/completions`: the server applies the model's chat template and tokenises.

A label that is not listed is asked for again among the labels alone where the server can be held to them (vLLM's
`structured_outputs`): those log-probabilities differ from the ones over the whole vocabulary by one number, which a
listed label tells. The beginning of an answer is sent as that of the assistant's turn where the server goes on from
there (`continue_final_message`), else left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...answers.reading import Reply
from ...answers.thinking import TAG
from ...errors import InputError
from ...prompts.template import Message, folded
from ..base import Request
from .budget import Spending
from .client import usage
from .forms import Group, at_most_tokens
from .labels import by_text, shifted
from .language import FEWER_LOGPROBS, LabelTrial, LanguageModel, Listing, Rows
from .refusals import FailedError, MalformedError, RefusedError

Turns = Sequence[Mapping[str, str]]

SHORT: list[Mapping[str, str]] = [{"role": "user", "content": "Answer with A or B."}]

CONTINUE: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


@dataclass(frozen=True, slots=True)
class Conversed:
    """A conversation as it is sent; a label is written after the `gap`."""

    request: Request
    turns: Turns
    fields: Mapping[str, Any]
    gap: str

    def cost(self, calls: int, completion: int) -> Spending:
        """Return the most that it can cost."""
        return Spending(calls, sum(at_most_tokens(turn["content"]) for turn in self.turns), completion)


class Chat(LanguageModel):
    """The form of requests."""

    path = "/chat/completions"
    prompt_field = "messages"
    short_prompt = SHORT

    _takes_system: bool | None = None
    """Whether a conversation may begin with a system turn; None where that is not known yet."""

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Return each ask alone: a conversation is a request."""
        return [Group(self._way(request), (request,), (self.rendered(request),)) for request in requests]

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
            await self.once("labels", self.find_labels_way)

    def label_trials(self) -> Iterator[LabelTrial]:
        """Yield the ways in which tokens may be listed."""
        for count in dict.fromkeys((self.spec.options.top_logprobs, FEWER_LOGPROBS)):
            yield LabelTrial("top_logprobs", {"logprobs": True, "top_logprobs": count}, count)

    async def _holds_to_labels(self) -> bool:
        def obeyed(reply: Any) -> bool:
            said = reply["choices"][0]["message"]["content"]
            return bool(said) and "zebra".startswith(said)

        held, _ = await self.attempt(SHORT, obeyed, structured_outputs={"choice": ["zebra"]})
        self.found["structured_outputs"] = bool(held)
        return bool(held)

    async def _continues(self) -> bool:
        """Find out whether an answer goes on from the assistant's turn: its prompt is then the shorter one."""
        turns = [*SHORT, {"role": "assistant", "content": "Answer:"}]
        closed, _ = await self.attempt(turns, lambda reply: usage(reply, "prompt_tokens"))
        shorter = None
        if closed is not None:
            shorter, _ = await self.attempt(
                turns, lambda reply: 0 < (usage(reply, "prompt_tokens") or 0) < closed, **CONTINUE
            )
        left_out = "left out: the server does not continue the assistant's turn"
        self.found["answer_prefix"] = "sent" if shorter else left_out
        return bool(shorter)

    async def _refuses_system(self) -> bool:
        """Find out whether a conversation is answered only without a system turn, and say so."""
        system = {"role": "system", "content": "Answer in one word."}
        answered, _ = await self.attempt([system, *SHORT], lambda _: True)
        plain, _ = (None, "") if answered else await self.attempt(SHORT, lambda _: True)
        if plain:
            self.found["system_turn"] = "refused: its text goes before the first user turn"
            logging.getLogger(__name__).warning(
                "%s takes no system turn: its text goes before the first user turn", self.spec.options.name
            )
        self._takes_system = not plain
        return bool(plain)

    # Answers

    async def answer(self, group: Group) -> list[Reply]:
        """Return the reply to the ask."""
        [request], [messages] = group.requests, group.prepared
        has_system = any(message.role == "system" for message in messages)
        if has_system and self._takes_system is not False:
            try:
                reply = await self._answer(request, messages, group.way)
            except (RefusedError, FailedError):
                if self._takes_system or not await self.once("system", self._refuses_system):
                    raise
            else:
                self._takes_system, self.found["system_turn"] = True, "sent"
                return reply
        return await self._answer(request, folded(messages), group.way)

    async def _answer(self, request: Request, messages: Sequence[Message], way: str) -> list[Reply]:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        prefix, fields, gap = request.prompt.answer.prefix.decoder_only, dict[str, Any](), ""
        continues = await self.once("prefix", self._continues) if prefix else False
        if continues:
            turns, fields = [*turns, {"role": "assistant", "content": prefix}], CONTINUE
            # As in the token ids of the other form: after a word, a label is written with a blank before it.
            gap = " " if prefix[-1] not in " \n([" else ""
        prompt = Conversed(request, turns, fields, gap)
        if way == "labels":
            return await self.label_scores(Group(way, (request,), (prompt,)))
        length, effort = self.answer_tokens(request), self.spec.options.reasoning_effort
        fields = {**fields, **self._neutral, **self.spec.sampling(request)}
        fields |= {"reasoning_effort": effort} if effort else {}
        return [await self.ask(turns, length, _read_text, prompt.cost(1, length), **fields)]

    def rows(self, choice: Any) -> Rows:
        """Return the most probable first tokens that a choice lists."""
        rows = choice["logprobs"]["content"][0]["top_logprobs"]
        return [(str(row["token"]), row.get("logprob")) for row in rows]

    async def listings(self, group: Group, calls: int, **held: Any) -> list[Listing]:
        """Ask for the list of the group's only prompt."""
        prompt: Conversed = group.prepared[0]

        def read(reply: Any) -> Listing:
            choice = reply["choices"][0]
            said = _parts(choice["message"].get("content") or "")[0]
            rows = self.rows(choice)
            return Listing.of(
                rows,
                lambda listed: by_text(listed, prompt.request.labels, prompt.gap),
                said,
                usage(reply, "prompt_tokens"),
            )

        fields = {**prompt.fields, **self._list_fields, **held}
        return [await self.ask(prompt.turns, 1, read, prompt.cost(calls, 1), **fields)]

    async def score_missing(self, listing: Listing, prompt: Conversed) -> None:
        """Score the labels that are not listed by an answer that can be nothing but a label."""
        if not await self.once("structured", self._holds_to_labels):
            return
        labels = [prompt.gap + label for label in prompt.request.labels]
        group = Group("labels", (prompt.request,), (prompt,))
        [among] = await self.listings(group, 0, structured_outputs={"choice": labels})
        known = [score for score in among.scores if score is not None]
        if len(known) == len(labels):
            scores = shifted(listing.scores, known)
            self.count("renormalised_over_labels", scores is None)
            listing.scores = list(scores or known)


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
    return Reply(content, None, usage(reply, "prompt_tokens"), usage(reply, "completion_tokens"))


def _parts(content: Any) -> tuple[str, str]:
    """Return the text and the thoughts in a message's content, which may be a list of parts."""
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
