"""A ranker: a method with its parameters, a prompt, and how answers are scored and read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from . import catalog
from .backends import Backend, Decoding, Request
from .errors import InputError
from .prompts import prompts
from .prompts.answers import LabelRule, Reading, Reply, read
from .prompts.prompts import Prompt
from .types import Answer, Ask, Candidates, Params, Scoring, Steps

RETRIES = 3
"""How often an unread answer is asked again with `on_unparsed: retry`."""


class RankerOptions(BaseModel):
    """The keys of the config's `ranker` section that every method takes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    method: str = Field(description="family.algorithm, such as setwise.heapsort")
    prompt: str | None = Field(None, description="a prompt's name or YAML file; the method's own unless given")
    scoring: Scoring | None = Field(
        None, description="likelihood: label log-probabilities; generation: text that is read"
    )
    query_tokens: int | None = Field(128, ge=1, description="queries are cut to so many of the model's tokens")
    passage_tokens: int | None = Field(128, ge=1, description="passages are cut to so many of the model's tokens")
    on_unparsed: Literal["keep_order", "retry", "fail"] = Field(
        "keep_order", description="what to do with an answer that cannot be read"
    )
    parse: Literal["strict", "digits"] | None = Field(
        None,
        description="strict, or as the older toolkits read answers (by digits, or by the last character)",
    )
    compat: Literal["llm-rankers"] | None = Field(None, description="behave as that toolkit does, its quirks included")


@dataclass(frozen=True)
class Ranker:
    """Everything about ranking but the model."""

    method: catalog.Method
    params: Params
    prompt: Prompt
    scoring: Scoring
    options: RankerOptions

    @classmethod
    def create(cls, options: Mapping[str, Any]) -> Ranker:
        """The ranker of a config's `ranker` section.

        Raises `InputError` for an unknown method or prompt, and pydantic's `ValidationError` for a bad parameter.
        """
        common = {key: value for key, value in options.items() if key in RankerOptions.model_fields}
        chosen = RankerOptions.model_validate(common)
        method = catalog.method(chosen.method)
        own = {key: value for key, value in options.items() if key not in RankerOptions.model_fields}
        params = method.params.model_validate((method.params.compat_defaults if chosen.compat else {}) | own)
        scoring = chosen.scoring or params.scoring
        prompt = prompts.load(chosen.prompt or params.prompt_for(scoring))
        if missing := set(params.asks) - set(prompt.asks):
            raise InputError(
                f"prompt '{prompt.name}' cannot ask the question of {method.name} ({min(missing)}): "
                f"it serves {', '.join(prompt.asks)}"
            )
        if prompt.most_docs is not None and params.most_docs > prompt.most_docs:
            raise InputError(
                f"{method.name} shows up to {params.most_docs} documents, but prompt '{prompt.name}' has labels for "
                f"{prompt.most_docs}; show fewer at a time or name another prompt"
            )
        return cls(method, params, prompt, scoring, chosen)

    @cached_property
    def identity(self) -> dict[str, object]:
        """What makes its rankings what they are, given the answers: part of the experiment's fingerprint."""
        return {
            "method": self.method.name,
            "params": self.params.model_dump(mode="json"),
            "prompt": self.prompt.digest,
            "scoring": self.scoring,
            "options": self.options.model_dump(mode="json", exclude={"method", "prompt", "scoring"}),
        }

    def steps(self, candidates: Candidates) -> Steps:
        """The method at work on one query's candidates."""
        return self.method.run(candidates, self.params)

    def read(self, ask: Ask, reply: Reply, backend: Backend) -> Answer:
        """The answer that a reply gives to an ask."""
        return read(ask, self.prompt, reply, self._reading(ask, backend))

    def _reading(self, ask: Ask, backend: Backend) -> Reading:
        if (self.options.parse or ("digits" if self.options.compat else "strict")) == "strict":
            return Reading()
        rule: LabelRule = "whole"
        if not all(len(label) == 1 for label in self.prompt.labels):
            rule = "strict"
        elif backend.architecture == "encoder_decoder":
            rule = "last_character" if ask.kind == "choose" else "exact"
        return Reading(rule, "digits")


@dataclass
class Requests:
    """Turns the asks about one query's candidates into requests."""

    ranker: Ranker
    backend: Backend
    candidates: Candidates
    _texts: dict[str, str] = field(init=False)
    _digests: dict[str, bytes] = field(init=False)
    _base: bytes = field(init=False)

    def __post_init__(self) -> None:
        by_id = self.backend.simulated
        query = self.candidates.query
        self._texts = {doc.id: doc.text for doc in self.candidates.docs}
        self._digests = {doc.id: _digest(doc.id if by_id else "", doc.text) for doc in self.candidates.docs}
        self._base = _digest(
            json.dumps([self.backend.identity, self._rendering], sort_keys=True),
            query.id if by_id else "",
            query.text,
        )

    @property
    def _rendering(self) -> list[object]:
        options = self.ranker.options
        return [
            self.ranker.prompt.digest,
            self.ranker.scoring,
            asdict(self._decoding),
            options.query_tokens,
            options.passage_tokens,
            options.compat,
        ]

    @cached_property
    def _decoding(self) -> Decoding:
        if self.ranker.options.compat == "llm-rankers" and self.ranker.prompt.labels == "numbers":
            # That toolkit's listwise ranker leaves generation at the library's default, and T5 at its 512 tokens.
            prompt_tokens = 512 if self.backend.architecture == "encoder_decoder" else None
            return Decoding(max_new_tokens=20, prompt_tokens=prompt_tokens)
        lengths = self.ranker.prompt.answer.max_new_tokens
        return Decoding(max_new_tokens=getattr(lengths, self.backend.architecture))

    def request(self, ask: Ask, attempt: int = 0) -> Request:
        """The request for an ask, on the given attempt at it.

        Its key hashes all that can change the answer: model, prompt, texts, decoding.
        Texts are hashed whole, with the lengths they are cut to, so that a key can be made without a tokenizer.
        """
        prompt, options = self.ranker.prompt, self.ranker.options
        decoding = self._decoding
        if attempt:  # after an unread answer the text is sampled: the most probable one would only come again
            decoding = replace(decoding, temperature=1.0)
        return Request(
            ask=ask,
            query_id=self.candidates.query.id,
            query=self.candidates.query.text,
            passages=tuple(self._texts[doc] for doc in ask.docs),
            prompt=prompt,
            scoring=self.ranker.scoring,
            decoding=decoding,
            query_tokens=options.query_tokens,
            passage_tokens=options.passage_tokens,
            compat=options.compat,
            key=self._key(ask, attempt),
        )

    def _key(self, ask: Ask, attempt: int) -> bytes:
        digest = hashlib.sha256(self._base)
        digest.update(f"{ask.kind}|{ask.limit}|{ask.template}|{ask.sample}|{attempt}|{ask.notes}|".encode())
        for doc in ask.docs:
            digest.update(self._digests[doc])
        return digest.digest()


def _digest(*texts: str) -> bytes:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
