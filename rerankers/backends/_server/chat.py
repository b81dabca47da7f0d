"""Asks put through `/chat/completions`: the server applies the model's chat template and tokenises.

A label that is not listed is asked for again among the labels alone where the server can be held to them (vLLM's
`structured_outputs`; see `shifted`). The beginning of an answer is sent as that of the assistant's turn where the
server goes on from there (`continue_final_message`), else left out.
"""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ...prompts.template import folded
from ..base import Request
from .client import usage
from .forms import FEWER_LOGPROBS, LabelTrial, LanguageModel, Listing, Put, Rows, at_most_tokens, shifted
from .refusals import MalformedError

SHORT: list[Mapping[str, str]] = [{"role": "user", "content": "Answer with A or B."}]
CONTINUE: Mapping[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


class Chat(LanguageModel):
    path = "/chat/completions"
    prompt_field = "messages"
    short_prompt = SHORT
    shares = False

    def _label_trials(self) -> Iterator[LabelTrial]:
        for count in dict.fromkeys((self.spec.options.top_logprobs, FEWER_LOGPROBS)):
            yield "top_logprobs", {"logprobs": True, "top_logprobs": count}

    async def _holds_to_labels(self) -> bool:
        def obeyed(reply: Any) -> bool:
            said = reply["choices"][0]["message"]["content"]
            return bool(said) and "zebra".startswith(said)

        held, _ = await self._try(SHORT, obeyed, structured_outputs={"choice": ["zebra"]})
        self.capabilities["structured_outputs"] = bool(held)
        return bool(held)

    async def _continues(self) -> bool:
        """Find out whether an answer goes on from the assistant's turn: its prompt is then the shorter one."""
        turns = [*SHORT, {"role": "assistant", "content": "Answer:"}]
        closed, _ = await self._try(turns, lambda reply: usage(reply, "prompt_tokens"))

        def is_shorter(reply: Any) -> bool:
            return 0 < (usage(reply, "prompt_tokens") or 0) < (closed or 0)

        shorter = closed and (await self._try(turns, is_shorter, **CONTINUE))[0]
        left_out = "left out: the server does not continue the assistant's turn"
        self.capabilities["answer_prefix"] = "sent" if shorter else left_out
        return bool(shorter)

    async def _takes_system(self) -> bool:
        """Find out whether a conversation is answered only without a system turn, and say so."""
        system = {"role": "system", "content": "Answer in one word."}
        answered, _ = await self._try([system, *SHORT], lambda _: True)
        if refused := not answered and bool((await self._try(SHORT, lambda _: True))[0]):
            words = "%s takes no system turn: its text goes before the first user turn"
            logging.getLogger(__name__).warning(words, self.spec.options.name)
        self.capabilities["system_turn"] = "refused: its text goes before the first user turn" if refused else "sent"
        return not refused

    async def _put(self, request: Request) -> Put:
        messages, prefix = self._rendered(request), request.prompt.answer.prefix.decoder_only
        if any(message.role == "system" for message in messages) and not await self._once("system", self._takes_system):
            messages = folded(messages)
        turns = [{"role": message.role, "content": message.content} for message in messages]
        fields, gap = dict[str, Any](), ""
        continues = await self._once("prefix", self._continues) if prefix else False
        if continues:
            turns.append({"role": "assistant", "content": prefix})
            # As in the token ids of the other form: after a word, a label is written with a blank before it.
            fields, gap = dict(CONTINUE), " " if prefix[-1] not in " \n([" else ""
        return Put(request, turns, sum(at_most_tokens(turn["content"]) for turn in turns), fields=fields, gap=gap)

    def _rows(self, choice: Any) -> Rows:
        return [(str(row["token"]), row.get("logprob")) for row in choice["logprobs"]["content"][0]["top_logprobs"]]

    def _said(self, choice: Any) -> tuple[str, str]:
        message = choice["message"]
        parts = list(_parts(message.get("content") or ""))
        thoughts = message.get("reasoning") or message.get("reasoning_content")
        if not isinstance(thoughts, str):
            thoughts = "".join(text for text, is_thought in parts if is_thought)
        return "".join(text for text, is_thought in parts if not is_thought), thoughts

    async def _score_missing(self, listing: Listing, put: Put) -> None:
        if await self._once("structured", self._holds_to_labels):
            choice = [put.gap + label for label in put.request.labels]
            [among] = await self._listings([put], 0, structured_outputs={"choice": choice})
            known = [score for score in among.scores if score is not None]
            if len(known) == len(choice):
                if (scores := shifted(listing.scores, known)) is None:
                    self.capabilities["renormalised_over_labels"] = (
                        self.capabilities.get("renormalised_over_labels", 0) + 1
                    )
                listing.scores = [*(scores or known)]


def _parts(content: Any, is_thought: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the texts in a message's content, which may be a list of parts, and whether each is a thought."""
    if isinstance(content, str):
        yield content, is_thought
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part, is_thought)
    elif isinstance(content, Mapping):
        is_thought |= content.get("type") in ("thinking", "reasoning")
        names = ("thinking", "reasoning", "text", "summary") if is_thought else ("text", "content")
        yield from _parts(next(filter(None, map(content.get, names)), ""), is_thought)
    else:
        raise MalformedError("a text that is none")
