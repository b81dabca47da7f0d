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
from ...errors import InputError
from .._tokens.tokens import Prepared
from ..base import Request
from .client import usage
from .forms import (
    FEWER_LOGPROBS,
    LabelTrial,
    LanguageModel,
    Listed,
    Listing,
    Rows,
    at_most_tokens,
    by_text,
    log_probability,
)
from .limits import Spending, spending
from .refusals import MalformedError

SHORT = "Answer with A or B:"
AS_IDS = {"return_tokens_as_token_ids": True}
CONTINUATIONS: Mapping[str, Mapping[str, Any]] = {  # fields that ask for the log-probabilities of a prompt's tokens
    "prompt_logprobs": {"prompt_logprobs": 0},
    "echo": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "echo and a token": {"echo": True, "logprobs": 1, "max_tokens": 1},
}

# A prompt, and the tokens of its labels (a token each), of its labels of several tokens, or of its target.
Tokenised = tuple[Prepared, Any]


class Completions(LanguageModel):
    path = "/completions"
    prompt_field = "prompt"
    _several = False  # whether a request may hold several prompts

    def _alike(self, request: Request) -> tuple[Any, ...]:
        if request.prompt.target:
            return "continuation", request.terms
        if request.scoring == "generation":
            return "text", id(request)
        return "whole_labels" if request.prompt.answer.scored == "whole" else "labels", request.terms

    def _prepared(self, request: Request, way: str) -> Tokenised:
        if self.tokens is None:
            if way in ("continuation", "whole_labels"):
                raise InputError(
                    f"prompt '{request.prompt.name}' asks for the probability of a text of several tokens, which only "
                    "the model's tokenizer can tell apart; set model.tokenizer to its folder or hub id"
                )
            text = "\n\n".join(message.content for message in self._rendered(request))
            return Prepared(request, text + request.prompt.answer.prefix.decoder_only, []), None
        text, ids = self.tokens.prompt(request)
        prompt = Prepared(request, text, ids)
        if way == "continuation":
            return prompt, [self.tokens.target(request)]
        if way == "text":
            return prompt, None
        labels = self.tokens.label_ids(request, text)
        return prompt, [list(label) for label in labels] if way == "whole_labels" else [first for (first,) in labels]

    @property
    def short_prompt(self) -> Any:
        return self.tokens.tokenizer(SHORT, add_special_tokens=False)["input_ids"] if self.tokens else SHORT

    async def _takes_several(self) -> None:
        if self.spec.share(1 << 20) > 1:
            several, _ = await self._try([self.short_prompt] * 2, lambda reply: len(reply["choices"]) == 2)
            self.found["several_prompts_a_request"] = self._several = bool(several)

    def _label_trials(self) -> Iterator[LabelTrial]:
        if self.tokens:
            ids = sorted(set(self.short_prompt))[:3]
            fields = {"logprobs": 1, "logprob_token_ids": ids, "allowed_token_ids": ids[:1], **AS_IDS}
            yield "logprob_token_ids", fields, None, [f"token_id:{token}" for token in ids]
        for count in dict.fromkeys((self.spec.options.top_logprobs, FEWER_LOGPROBS)):
            for more in [AS_IDS, {}] if self.tokens else [{}]:
                yield "logprobs", {"logprobs": count, **more}, count, ()

    async def _find_continuation_way(self) -> str | None:
        prompt = self.short_prompt
        for way, fields in CONTINUATIONS.items() if self.tokens else ():
            last = partial(lambda way, reply: [_continued(way, reply["choices"][0], prompt, 1)], way)
            if (await self._try(prompt, last, **fields))[0]:
                self.found["continuations"] = way.partition(" ")[0]
                return way
        return None

    async def answer(self, requests: Sequence[Request]) -> list[Reply]:
        way, *_ = self._alike(requests[0])
        if way == "text":
            return [await self._text(self._prepared(requests[0], way)[0])]
        await self._once("several", self._takes_several)
        if len(requests) > 1 and not self._several:
            return [reply for request in requests for reply in await self.answer([request])]
        prepared = [self._prepared(request, way) for request in requests]
        if way == "labels":
            await self._once("labels", self._find_labels_way)
            return await self._label_scores(prepared)
        if not await self._once("continuation", self._find_continuation_way):
            lack = f"no log-probabilities of prompts for {self.spec.options.name} (neither prompt_logprobs nor echo)"
            need = "which likelihood asks and labels of several tokens need; use vLLM, or scoring: generation"
            raise InputError(f"the server gives {lack}, {need}")
        pairs = [(prompt, target) for prompt, targets in prepared for target in targets]
        scores = iter(await self._continuations(pairs, len(requests)))
        replies = []
        for prompt, targets in prepared:
            known = tuple(score for score in islice(scores, len(targets)) if score is not None)
            # As `transformers` counts tokens: a target's are the prompt's, labels' are not.
            length = len(prompt.ids) + (len(targets[0]) if way == "continuation" else 0)
            said = None if len(known) == len(targets) else no_answer(NO_PROBABILITY, "a token has no log-probability")
            replies.append(Reply(said, None if said else known, length, 0))
        return replies

    async def _text(self, prompt: Prepared) -> Reply:
        length = self._answer_tokens(prompt.request)

        def read(reply: Any) -> Reply:
            [choice] = _choices(reply, 1)
            if not isinstance(text := choice["text"], str):
                raise MalformedError("a text that is none")
            counted = len(prompt.ids) or usage(reply, "prompt_tokens")
            return Reply(prompt.thought + text, None, counted, usage(reply, "completion_tokens"))

        fields = {**self.neutral, **self.spec.sampling(prompt.request)}
        return await self._ask(_input([prompt]), length, read, _cost([prompt], 1, length), **fields)

    def _rows(self, choice: Any) -> Rows:
        return [(str(token), value) for token, value in choice["logprobs"]["top_logprobs"][0].items()]

    async def _listings(self, prompts: Sequence[Tokenised], calls: int) -> list[Listing]:
        fields = self._list_fields
        if "logprob_token_ids" in fields:
            wanted = sorted({token for _, tokens in prompts for token in tokens})
            fields = {"logprobs": 1, "logprob_token_ids": wanted, **AS_IDS}

        def find(prompt: Tokenised, listed: Listed) -> list[float | None]:
            prepared, tokens = prompt
            if tokens and all(token.startswith("token_id:") for token, _ in listed):
                return [dict(listed).get(f"token_id:{token}") for token in tokens]
            return by_text(listed, prepared.request.labels)

        def read(reply: Any) -> list[Listing]:
            # Without a tokenizer there is no count: the server's is of all the prompts that share a request.
            return [
                Listing.of(
                    self._rows(choice), partial(find, prompt), str(choice.get("text", "")), len(prompt[0].ids) or None
                )
                for choice, prompt in zip(_choices(reply, len(prompts)), prompts, strict=True)
            ]

        texts = [prompt for prompt, _ in prompts]
        return await self._ask(_input(texts), 1, read, _cost(texts, calls, len(texts)), **fields)

    async def _score_missing(self, listing: Listing, prompt: Tokenised) -> None:
        prepared, tokens = prompt
        if tokens and await self._once("continuation", self._find_continuation_way):
            missing = [i for i, score in enumerate(listing.scores) if score is None]
            scores = await self._continuations([(prepared, [tokens[i]]) for i in missing], 0)
            for i, score in zip(missing, scores, strict=True):
                listing.scores[i] = score

    async def _continuations(self, pairs: Sequence[tuple[Prepared, list[int]]], calls: int) -> list[float | None]:
        """Return the log-probability of each text after its prompt, summed over its tokens, or None if it has none."""
        way = await self._once("continuation", self._find_continuation_way) or ""
        size = self.spec.share(1 << 20) if self._several else 1
        scores: list[float | None] = []
        for part in (pairs[start : start + size] for start in range(0, len(pairs), size)):
            texts = [replace(prompt, ids=prompt.ids + target) for prompt, target in part]

            def read(reply: Any, texts: list[Prepared] = texts, part: Any = part) -> list[float | None]:
                rows = zip(_choices(reply, len(part)), texts, part, strict=True)
                return [_continued(way, choice, text.ids, len(target)) for choice, text, (_, target) in rows]

            cost = _cost(texts, 0 if scores else calls, len(texts))
            scores += await self._ask(_input(texts), 1, read, cost, **CONTINUATIONS[way])
        return scores


def _input(prompts: Sequence[Prepared]) -> Any:
    inputs: list[Any] = [prompt.ids or prompt.text for prompt in prompts]
    return inputs if len(inputs) > 1 else inputs[0]


def _choices(reply: Any, count: int) -> list[Any]:
    """Return a reply's choices, one a prompt, in the order of the prompts."""
    choices = sorted(reply["choices"], key=lambda choice: choice.get("index", 0))
    if [choice.get("index", 0) for choice in choices] != list(range(count)):
        raise MalformedError(f"{len(choices)} choices for {count} prompts")
    return choices


def _continued(way: str, choice: Any, ids: Sequence[int], last: int) -> float | None:
    """Return the log-probability of the last tokens of a prompt, summed over them, or None if one has none."""
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


def _cost(prompts: Sequence[Prepared], calls: int, completion: int) -> Spending:
    return spending(calls, sum(len(prompt.ids) or at_most_tokens(prompt.text) for prompt in prompts), completion)
