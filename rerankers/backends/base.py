"""Backends: whatever answers a request. One file each; see `Backend` for what a file must offer.

A backend file holds `Options`, the keys of the config's `model` section it takes, and `open(options, setting)`,
which starts it. Nothing heavy is imported before `open` is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from ..answers.reading import Reply
from ..errors import InputError
from ..flops import Shape
from ..prompts.template import Architecture, Prompt
from ..types import Ask, Query, Scoring

Grades = Mapping[str, Mapping[str, int]]
"""Relevance judgements: query id → document id → grade."""


class ModelOptions(BaseModel):
    """Keys of the config's `model` section that a backend takes, with their defaults and meaning."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    speed: ClassVar[frozenset[str]] = frozenset()
    """The keys that change how fast and at what cost it answers, and not what."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a backend may need to know of the experiment besides its own options."""

    seed: int = 0
    grades: Grades | None = None


@dataclass(frozen=True, slots=True)
class Decoding:
    """How text is generated. At temperature 0 the most probable token is taken each time."""

    max_new_tokens: int | None
    """None: as many as an answer takes that names every passage once."""

    prompt_tokens: int | None = None
    """Longer prompts are cut to so many tokens, which loses what stands at their end."""

    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """The text ends before the first of these; the tokens of the one it met count as generated."""


@dataclass(frozen=True, slots=True, eq=False)
class RequestSettings:
    """Prompt, scoring and decoding shared by all requests of one kind of ask. Compared by identity.

    A backend with a tokenizer cuts query and passages to `query_tokens` and `passage_tokens` of its own tokens.
    `attempt` counts the answers before this one that could not be read. The last three are the ranker's options.
    """

    prompt: Prompt
    scoring: Scoring
    decoding: Decoding
    query_tokens: int | None
    passage_tokens: int | None
    attempt: int = 0
    generation_settings: Literal["plain", "model"] = "plain"
    special_tokens: Literal["once", "twice"] = "once"
    target_start: Literal["text", "pad"] = "text"


@dataclass(frozen=True, slots=True)
class Request:
    """An ask with everything that a backend needs to answer it.

    `texts` are those of all the query's candidates by id, whole. `key` addresses the answer in the ledger.
    """

    ask: Ask
    query: Query
    texts: Mapping[str, str]
    terms: RequestSettings
    key: bytes

    @property
    def prompt(self) -> Prompt:
        """The prompt that puts the ask."""
        return self.terms.prompt

    @property
    def scoring(self) -> Scoring:
        """Whether labels are scored or text is generated."""
        return self.terms.scoring

    @property
    def passages(self) -> tuple[str, ...]:
        """The texts of the asked documents, whole, in order of presentation."""
        return tuple(self.texts[doc] for doc in self.ask.docs)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels it can be answered with."""
        return self.prompt.labels_of(self.ask)

    @property
    def ideal(self) -> str:
        """An answer that names every passage once, in the order presented."""
        return self.prompt.answer.naming(self.labels)


Answered = list[tuple[Request, Reply]]
"""Requests with what they were answered."""


class Backend(Protocol):
    """Answers requests: they are submitted as they arise, and collected as they are answered.

    It may also have a `config` (as transformers has it: operations are counted by it, see `shape_of`), `usd` (what
    prompt, completion and cached prompt tokens cost, see `usd_of`) and `tokens` (a tokenizer, by which prompts are
    shown and counted).
    """

    architecture: Architecture
    """Which of a prompt's two forms fits the model."""

    simulated: bool
    """Whether answers come from a rule and not from a model: the ledger's keys then hold document ids too."""

    remembers: bool
    """Whether its answers are kept in the ledger, and equal asks answered once."""

    @property
    def identity(self) -> Mapping[str, object]:
        """What makes this backend's answers what they are: part of the fingerprint and of every ledger key."""

    @property
    def details(self) -> Mapping[str, object]:
        """What else the manifest tells of it: content hashes, precision, batching, device.

        JSON, without paths, names of people and secrets. Asked for when all requests are answered, before
        `close`; it changes neither the fingerprint nor a ledger key.
        """

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests to answer, in order."""

    def collect(self) -> list[tuple[Request, Reply]]:
        """Wait until some of the submitted requests are answered, and hand those over.

        Raises `BackendError` where the model or server fails.
        """

    def close(self) -> None:
        """Let go of all resources. Raises `InputError` where recorded answers were left unused."""


def shape_of(backend: Backend) -> Shape | None:
    """The shape of a backend's model, by which its operations are counted; None where its config is not known."""
    config: Any = getattr(backend, "config", None)
    return Shape.of(config)


def usd_of(backend: Backend, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
    """What so many tokens cost at a backend, in US dollars, without discounts for prompts that a server had cached.

    None where they or its prices are not known.
    """
    usd = getattr(backend, "usd", None)
    if usd is None or prompt_tokens is None or completion_tokens is None:
        return None
    return float(usd(prompt_tokens, completion_tokens, 0))


@contextlib.contextmanager
def closed_after(backends: Iterable[Backend]) -> Iterator[None]:
    """Close backends when the work with them is done; where it failed, what closing then finds is not told."""
    try:
        yield
    except BaseException:
        for backend in backends:
            with contextlib.suppress(InputError):
                backend.close()
        raise
    for backend in backends:
        backend.close()


class Queue:
    """Requests that wait for a backend that answers one batch at a time."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        """Add requests at the end."""
        self.waiting.extend(requests)

    def take(self, count: int | None = None) -> list[Request]:
        """Remove and return the first `count` requests, or all."""
        taken, self.waiting = (self.waiting, []) if count is None else (self.waiting[:count], self.waiting[count:])
        return taken
