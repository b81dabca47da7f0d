"""Asks put through `/completions`: token ids go in, log-probabilities over the whole vocabulary come out.

Without a tokenizer a prompt goes as text, its messages one after the other without a chat template, and labels are
found by their text. vLLM gives the log-probabilities of exactly the labels (`logprob_token_ids`). Elsewhere a label
that is not listed is scored as a continuation of the prompt where the server gives log-probabilities of prompts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from ...answers.reading import NO_PROBABILITY, Reply, no_answer
from ...answers.thinking import opened_thought
from ...errors import InputError
from ..base import Request
from .forms import (
    AS_IDS,
    FEWER_LOGPROBS,
    LabelTrial,
    LanguageModel,
    Listing,
    Put,
    Rows,
    at_most_tokens,
    log_probability,
)
from .refusals import MalformedError

SHORT = "Answer with A or B:"
CONTINUATIONS: Mapping[str, Mapping[str, Any]] = {  # fields that ask for the log-probabilities of a prompt's tokens
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1},
}


class Completions(LanguageModel):
    path = "/completions"
    prompt_field = "prompt"
    shares = True

    async def _put(self, request: Request) -> Put:
        if self.tokens is None:
            text = "\n\n".join(message.content for message in self._rendered(request))
            text += request.prompt.answer.prefix.decoder_only
            return Put(request, text, at_most_tokens(text))
        text, ids = self.tokens.prompt(request)
        put = Put(request, ids, len(ids), len(ids))
        if request.prompt.target:
            put.targets = [self.tokens.target(request)]
        elif request.scoring == "generation":
            put.thought = opened_thought(text)
        else:
            put.targets = self.tokens.label_ids(request, text)
        return put

    @property
    def short_prompt(self) -> Any:
        return self.tokens.tokenizer(SHORT, add_special_tokens=False)["input_ids"] if self.tokens else SHORT

    def _label_trials(self) -> Iterator[LabelTrial]:
        if self.tokens:
            ids = sorted(set(self.short_prompt))[:3]
            yield "logprob_token_ids", {"logprobs": 1, "logprob_token_ids": ids, "allowed_token_ids": ids[:1], **AS_IDS}
        for count in dict.fromkeys((self.spec.options.top_logprobs, FEWER_LOGPROBS)):
            for more in [AS_IDS, {}] if self.tokens else [{}]:
                yield "logprobs", {"logprobs": count, **more}

    async def _find_continuation_way(self) -> str | None:
        prompt = self.short_prompt
        for way, fields in CONTINUATIONS.items() if self.tokens else ():
            last = partial(lambda way, reply: [_continued(way, reply["choices"][0], prompt, 1)], way)
            if (await self._try(prompt, last, **fields))[0]:
                self.capabilities["continuations"] = way
                return way
        return None

    async def _likelihoods(self, requests: Sequence[Request]) -> list[Reply]:
        if self.tokens is None:
            return await super()._likelihoods(requests)
        if not await self._once("continuation", self._find_continuation_way):
            lack = f"no log-probabilities of prompts for {self.spec.options.name} (neither prompt_logprobs nor echo)"
            need = "which likelihood asks and labels of several tokens need; use vLLM, or scoring: generation"
            raise InputError(f"the server gives {lack}, {need}")
        puts = [await self._put(request) for request in requests]
        scores = iter(await self._continuations([(put, ids) for put in puts for ids in put.targets], len(requests)))
        replies = []
        for put in puts:
            known = tuple(score for score in islice(scores, len(put.targets)) if score is not None)
            # As `transformers` counts tokens: a target's are the prompt's, labels' are not.
            length = put.tokens + (len(put.targets[0]) if put.request.prompt.target else 0)
            whole = len(known) == len(put.targets)
            said = None if whole else no_answer(NO_PROBABILITY, "a token has no log-probability")
            replies.append(Reply(said, known if whole else None, length, 0))
        return replies

    def _rows(self, choice: Any) -> Rows:
        return [(str(token), value) for token, value in choice["logprobs"]["top_logprobs"][0].items()]

    def _said(self, choice: Any) -> tuple[str, str]:
        if not isinstance(text := choice.get("text", ""), str):
            raise MalformedError("a text that is none")
        return text, ""

    async def _score_missing(self, listing: Listing, put: Put) -> None:
        if await self._once("continuation", self._find_continuation_way):
            missing = [i for i, score in enumerate(listing.scores) if score is None]
            scores = await self._continuations([(put, put.targets[i]) for i in missing], 0)
            for i, score in zip(missing, scores, strict=True):
                listing.scores[i] = score

    async def _continuations(self, pairs: Sequence[tuple[Put, Sequence[int]]], calls: int) -> list[float | None]:
        """Return the log-probability of each text after its prompt, summed over its tokens, or None if it has none."""
        way = await self._once("continuation", self._find_continuation_way) or ""
        size = self.spec.share(1 << 20) if await self._once("several", self._takes_several) else 1
        scores: list[float | None] = []

        def read(_: Any, choice: Any, put: Put) -> float | None:
            return _continued(way, choice, put.content, len(put.targets[0]))

        for part in (pairs[start : start + size] for start in range(0, len(pairs), size)):
            puts = [
                replace(put, content=[*put.content, *ids], tokens=put.tokens + len(ids), targets=[ids])
                for put, ids in part
            ]
            scores += await self._together(puts, 1, read, 0 if scores else calls, **CONTINUATIONS[way])
        return scores


def _continued(way: str, choice: Any, ids: Sequence[int], last: int) -> float | None:
    """Return the log-probability of the last tokens of a prompt, summed over them, or None if one has none."""
    if way == "prompt_logprobs":
        rows = choice["prompt_logprobs"]
        values = [rows[i][str(ids[i])]["logprob"] for i in range(len(ids) - last, len(ids))]
    else:
        rows = choice["logprobs"]["token_logprobs"]
        values = rows[len(ids) - last : len(ids)]
    if len(rows) != len(ids) + (way == "echo"):  # with the token that is written
        raise MalformedError(f"log-probabilities of {len(rows)} tokens for a prompt of {len(ids)}")
    known = [p for value in values if (p := log_probability(value)) is not None]
    return math.fsum(known) if len(known) == last else None
