"""The interface of a backend file: `Options`, the keys of a `model` section, and `open(options, setting)`.

Nothing heavy is imported before `open` is called.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from ..answers.reading import Reply
from ..errors import InputError
from ..flops import Shape
from ..prices import Price
from ..prompts.template import Architecture, Message, Prompt, mended
from ..types import Ask, Query, Scoring, Strict

if TYPE_CHECKING:
    from ._tokens.tokens import Tokens

Grades = Mapping[str, Mapping[str, int]]  # relevance judgements: query id → document id → grade


class ModelOptions(Strict):
    """Keys of the config's `model` section that a backend takes, with their defaults and meaning."""

    simulated: ClassVar[bool] = False  # answers come from a rule and not from a model
    recorded: ClassVar[bool] = False  # answers come from a recording alone
    remote: ClassVar[bool] = False  # a model elsewhere answers, perhaps for money

    @property
    def asks_model(self) -> bool:
        """Return whether answering takes a model: one that has tokens, operations and time to measure."""
        return not (self.simulated or self.recorded)

    @property
    def remembers(self) -> bool:
        """Return whether answers are kept in the ledger."""
        return True


@dataclass(frozen=True, slots=True)
class Setting:
    """The experiment, as far as a backend may need it besides its options."""

    seed: int = 0
    grades: Grades | None = None
    weights: bool = True  # else prompts are only rendered and counted, and the model's device need not be here


@dataclass(frozen=True, slots=True)
class Decoding:
    """Settings of text generation, greedy at temperature 0."""

    max_new_tokens: int | None  # None: as many as it takes to name every passage once
    prompt_tokens: int | None = None  # longer prompts are truncated at their end
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    stop: tuple[str, ...] = ()  # stop sequences: left out of the text, but their tokens count as generated
    context_tokens: int | None = None  # of a longer prompt with its answer the passages are shown with fewer words

    def before_stop(self, text: str) -> str:
        """Return the text before its first stop sequence."""
        return text[: min((place for stop in self.stop if (place := text.find(stop)) >= 0), default=None)]


@dataclass(frozen=True, slots=True, eq=False)
class RequestSettings:
    """Prompt, scoring and decoding shared by all requests of one kind of ask. Compared by identity.

    A backend with a tokenizer cuts query and passages to `query_tokens` and `passage_tokens` of its own tokens, and
    passages further, to one length, where the prompt would have more than `prompt_tokens`.
    `attempt` counts the answers before this one that could not be read. The last three are the ranker's options.
    """

    prompt: Prompt
    scoring: Scoring
    decoding: Decoding
    query_tokens: int | None
    passage_tokens: int | None
    prompt_tokens: int | None = None
    attempt: int = 0
    model_settings: bool = False
    special_tokens_twice: bool = False
    count_pad: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """An ask with everything that a backend needs to answer it; `texts` holds all candidates of the query, whole."""

    ask: Ask
    query: Query
    texts: Mapping[str, str]
    terms: RequestSettings
    key: bytes  # of the answer in the ledger

    @property
    def prompt(self) -> Prompt:
        """Return the prompt that puts the ask."""
        return self.terms.prompt

    @property
    def scoring(self) -> Scoring:
        """Return whether labels are scored or text is generated."""
        return self.terms.scoring

    @property
    def generates(self) -> bool:
        """Return whether text is generated, be it the thought before labels are scored."""
        thinks = self.prompt.answer.scored == "after_thought"
        return self.prompt.target is None and (self.scoring == "generation" or thinks)

    @property
    def passages(self) -> tuple[str, ...]:
        """Return the texts of the asked documents, whole, in order of presentation."""
        return tuple(self.texts[doc] for doc in self.ask.docs)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels it can be answered with."""
        return self.prompt.labels_of(self.ask)

    def rendered(
        self,
        shown: Callable[[str, int | None], str],
        form: Architecture = "decoder_only",
        seam: str = "",
        words: int | None = None,
    ) -> tuple[Message, ...]:
        """Return the conversation that puts the ask; `shown` cuts a text to so many tokens, if any, and disarms it."""
        prompt, most, length = self.prompt, self.terms.query_tokens, self.terms.passage_tokens
        query, *passages = [mended(text) if prompt.fix_text else text for text in (self.query.text, *self.passages)]
        passages = [shown(text, length) for text in passages]
        cuts = {name: length if cut == "cut" else None for name, cut in prompt.notes.items()}
        notes = {name: shown(note, cuts.get(name)) for name, note in self.ask.notes}
        return prompt.render(self.ask, shown(query, most), passages, form, notes, seam, words)

    @property
    def ideal(self) -> str:
        """Return an answer that names every passage once, in the order presented."""
        return self.prompt.answer.naming(self.labels)


Answered = list[tuple[Request, Reply]]


class Backend(ABC):
    """A model, or its stand-in, that answers requests: `identity` and `collect` are its own, the rest have defaults."""

    architecture: Architecture = "decoder_only"  # chooses between the two forms of a prompt
    simulated: bool = False  # answers come from a rule: ledger keys then hold document ids too
    recorded: bool = False  # answers come from a recording alone, and nothing else may answer in its place
    remembers: bool = True  # answers are kept in the ledger, and equal asks answered once
    raw_logits: bool = True  # scores of labels can be logits, and not log-probabilities alone
    scores_texts: bool = True  # a generated text can come with the log-probabilities of its tokens and of labels
    group_scores: bool = False  # the relevance of a document depends on the query's other candidates
    price: Price | None = None

    def __init__(self) -> None:
        self.waiting: list[Request] = []

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Return everything that can change its answers: part of the fingerprint and of every ledger key."""
        raise NotImplementedError

    @cached_property
    def tokens(self) -> Tokens | None:
        """Return the tokenizer by which prompts are shown and counted, or None if the model's is not at hand."""
        return None

    @cached_property
    def config(self) -> Any:
        """Return the model's config as transformers has it, which tells the shape, or None if it is not at hand."""
        return None

    @property
    def details(self) -> Mapping[str, object]:
        """Return what else the manifest records once all requests are answered: JSON without paths and secrets."""
        return {}

    @property
    def findings(self) -> Mapping[str, object]:
        """Return what was found out, while asking, that answers depend on besides their keys."""
        return {}

    @cached_property
    def shape(self) -> Shape | None:
        """Return the shape of the model, by which operations are counted, or None if its config is not known."""
        return Shape.of(self.config)

    def usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Return the price of the tokens in US dollars, or None if unknown."""
        if self.price is None or prompt_tokens is None or completion_tokens is None:
            return None
        return self.price.usd(prompt_tokens, completion_tokens)

    def submit(self, requests: Sequence[Request]) -> None:
        """Add requests to the queue, in order."""
        self.waiting.extend(requests)

    def take(self, count: int | None = None) -> list[Request]:
        """Remove and return the first `count` requests of the queue, or all."""
        taken, self.waiting = (self.waiting, []) if count is None else (self.waiting[:count], self.waiting[count:])
        return taken

    @abstractmethod
    def collect(self) -> Answered:
        """Wait until some submitted requests are answered; return those. Raises `BackendError` if the model fails."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release all resources. Raises `InputError` if recorded answers were left unused."""


@contextlib.contextmanager
def closed_after(backends: Iterable[Backend]) -> Iterator[None]:
    """Close the backends at the end; after an error, what closing raises is dropped."""
    dropped: tuple[type[Exception], ...] = (InputError,)
    try:
        yield
        dropped = ()
    finally:
        for backend in backends:
            with contextlib.suppress(*dropped):
                backend.close()
