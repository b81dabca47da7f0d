"""Rankers: a method with its parameters, its prompts, and the options by which asks are put and answers read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from . import catalog, compat
from .answers.labels import LabelRule
from .answers.reading import Reading, Reply, read
from .asks import KINDS
from .backends.base import Backend, Decoding, Request, RequestSettings
from .compat import Toolkit
from .errors import InputError
from .marks import PathMark
from .passages import Passages, ranked_by_passages, scores_documents, split
from .prompts import template as prompts
from .prompts.template import Architecture, Prompt, Stops
from .types import Answer, Ask, AskKind, Candidates, Params, Scoring, Seeded, Steps, Strict

RETRIES = 3
"""The most times an unread answer is asked for again with `on_unparsed: retry`."""

KEY_BYTES = 16
"""The length of a ledger key: 128 bits of a SHA-256, so that two asks of a billion do not meet in one key."""

DIGITS = 9
"""The most passages that can be numbered with one digit, and so one token, each."""


class RankerOptions(Strict):
    """The keys of the config's `ranker` section that every method takes."""

    method: str = Field(description="family.algorithm, such as setwise.heapsort")
    prompt: Annotated[str | None, PathMark("named file")] = Field(
        None, description="a prompt's name or YAML file; the method's own unless given"
    )
    scoring: Scoring | None = Field(None, description="likelihood: label log-probabilities; generation: text, read")
    query_tokens: int | None = Field(128, ge=1, description="queries are cut to so many of the model's tokens")
    passage_tokens: int | None = Field(128, ge=1, description="passages are cut to so many of the model's tokens")
    prompt_tokens: int | None = Field(
        None,
        ge=1,
        description="the most tokens of a prompt, which cuts its passages further, or of each text that is read apart",
    )
    on_unparsed: Literal["keep_order", "retry", "fail"] = Field("keep_order", description="an answer that is unread")
    parse: Literal["strict", "digits", "ascending", "ties", "full"] | None = Field(
        None, description="digits: read answers as the older toolkits; ascending, ties, full: orders by that rule"
    )
    compat: Toolkit | None = Field(None, description=compat.DESCRIPTION)
    library_lengths: bool | None = Field(None, description="orders by number: 20 new tokens; T5 prompts of 512 tokens")
    model_settings: bool | None = Field(None, description="generate with the model's own settings, such as penalties")
    special_tokens_twice: bool | None = Field(None, description="add them to a chat prompt that begins the answer")
    count_pad: bool | None = Field(None, description="query likelihood: count the pad token before the query (T5)")
    max_new_tokens: int | None = Field(None, ge=1, description="length of a generated answer; the prompt's")
    temperature: float | None = Field(None, ge=0, description="0: the most probable token; the prompt's")
    top_p: float | None = Field(None, gt=0, le=1, description="nucleus sampling's share; the prompt's")
    stop: Stops | None = Field(None, description="texts that end a generated answer, not part of it; the prompt's")
    context_tokens: int | None = Field(
        None, ge=1, description="show fewer words of the passages until a prompt and its answer have so many tokens"
    )
    passages: Passages | None = Field(None, description="split long documents, where a method scores every document")


@dataclass(frozen=True)
class Ranker:
    """All of a ranking experiment but the model."""

    method: catalog.Method
    params: Params
    prompt: Prompt
    templates: Mapping[str, Prompt]
    """The prompts that asks name as their template, by that name."""

    scoring: Scoring
    options: RankerOptions
    _settings: dict[tuple[AskKind, str | None, int, Architecture], RequestSettings] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @classmethod
    def create(cls, options: Mapping[str, Any], seed: int = 0) -> "Ranker":
        """Return the ranker of a config's `ranker` section; `seed` is the experiment's.

        Raises `InputError` for an unknown method or prompt, and pydantic's `ValidationError` for a bad parameter.
        """
        common = {key: value for key, value in options.items() if key in RankerOptions.model_fields}
        if isinstance(common.get("passages"), Mapping):
            common["passages"] = {"seed": seed} | common["passages"]
        chosen = RankerOptions.model_validate(common)
        method = catalog.method(chosen.method)
        defaults: dict[str, object] = {"seed": seed} if issubclass(method.params, Seeded) else {}
        defaults |= compat.parameters(chosen.compat, method.params)
        params = method.params.model_validate(
            defaults | {key: value for key, value in options.items() if key not in common}
        )
        scoring = chosen.scoring or params.scoring
        if scoring not in params.scorings:
            raise InputError(f"{method.name} with these parameters needs scoring: {' or '.join(params.scorings)}")
        prompt = prompts.load(chosen.prompt or params.prompt_for(scoring))
        templates = {name: prompts.load(name) for name in params.templates}
        ranker = cls(method, params, prompt, templates, scoring, chosen)
        ranker._check()
        return ranker

    def _check(self) -> None:
        """Raise `InputError` if the method and its prompts or options do not fit each other."""
        name, params, prompt = self.method.name, self.params, self.prompt
        needed = [(prompt, kind) for kind in params.asks]
        needed += [(self.templates[template], kind) for template, kind in params.templates.items()]
        for each, kind in needed:
            if kind not in each.asks:
                raise InputError(
                    f"prompt '{each.name}' cannot ask the question of {name} ({kind}): it serves {', '.join(each.asks)}"
                )
            if KINDS[kind].labels == "values" and self.scoring == "likelihood":
                each.check_values()
        if prompt.most_docs is not None and params.most_docs > prompt.most_docs:
            raise InputError(
                f"{name} shows up to {params.most_docs} documents, but prompt '{prompt.name}' has labels for "
                f"{prompt.most_docs}; show fewer at a time or name another prompt"
            )
        by_label = self.scoring == "likelihood" and not prompt.of_states
        by_label = by_label and any(KINDS[kind].several for kind in params.asks)
        if by_label and prompt.labels == "numbers" and params.most_docs > DIGITS:
            raise InputError(
                f"prompt '{prompt.name}' numbers its passages, and numbers of several digits have no token whose "
                "probability could be read; set scoring: generation or name a prompt with letters, such as setwise"
            )
        if self.options.context_tokens and prompt.words is None:
            raise InputError(f"ranker.context_tokens: prompt '{prompt.name}' sets no number of `words` to be lowered")
        if self.options.passages and not scores_documents(lambda docs: self.method.run(docs, params)):
            raise InputError(
                f"{name} gives documents no scores, so `passages` cannot rank them by their passages; choose a "
                "pointwise method, and let this one follow as a stage of its own"
            )

    @cached_property
    def identity(self) -> dict[str, object]:
        """Return everything that can change its rankings, given the answers: part of the experiment's fingerprint."""
        # A prompt is known by its content; a seed that nothing draws on says nothing.
        unsaid = {name for name in type(self.params).model_fields if name.endswith("_prompt")}
        unsaid |= set() if self.params.draws else {"seed"}
        return {
            "method": self.method.name,
            "params": self.params.model_dump(mode="json", exclude=unsaid),
            "prompts": [prompt.digest for prompt in self.prompts],
            "scoring": self.scoring,
            "options": self.options.model_dump(mode="json", exclude={"method", "prompt", "scoring"}, exclude_none=True),
        }

    @cached_property
    def _completed(self) -> RankerOptions:
        return compat.completed(self.options)

    def steps(self, candidates: Candidates) -> Steps:
        """Return the method at work on one query's candidates, or on their passages."""
        if self.options.passages is None:
            return self.method.run(candidates, self.params)
        return ranked_by_passages(candidates, self.options.passages, lambda docs: self.method.run(docs, self.params))

    def shown(self, candidates: Candidates) -> Candidates:
        """Return the documents that are asked about, or their passages."""
        return split(candidates, self.options.passages) if self.options.passages else candidates

    def read(self, ask: Ask, reply: Reply, backend: Backend) -> Answer:
        """Return the answer that a reply gives to an ask."""
        return read(ask, self.prompt_of(ask), reply, self.reading(ask, backend))

    @property
    def prompts(self) -> list[Prompt]:
        """Return all prompts that its asks are put with."""
        return [self.prompt, *self.templates.values()]

    def prompt_of(self, ask: Ask) -> Prompt:
        """Return the prompt that puts an ask."""
        return self.templates[ask.template] if ask.template else self.prompt

    def settings(self, ask: Ask, attempt: int, architecture: Architecture) -> RequestSettings:
        """Return the settings of the requests for asks of this kind and template, on the given attempt."""
        key = (ask.kind, ask.template, attempt, architecture)
        if key in self._settings:
            return self._settings[key]
        prompt, options = self.prompt_of(ask), self._completed
        form = prompt.answer
        length, prompt_tokens = getattr(form.max_new_tokens, architecture), None
        if options.library_lengths and prompt.labels == "numbers":
            length, prompt_tokens = 20, 512 if architecture == "encoder_decoder" else None
        length = options.max_new_tokens or length
        temperature = form.temperature if options.temperature is None else options.temperature
        self._settings[key] = RequestSettings(
            prompt=prompt,
            scoring=KINDS[ask.kind].scoring or self.scoring,
            decoding=Decoding(
                max_new_tokens=None if length == "ideal" else length,
                prompt_tokens=prompt_tokens,
                # After an unread answer the text is sampled: the most probable one would only come again.
                temperature=temperature or (1.0 if attempt else 0.0),
                top_p=form.top_p if options.top_p is None else options.top_p,
                top_k=form.top_k,
                stop=form.stop if options.stop is None else options.stop,
                context_tokens=options.context_tokens,
            ),
            query_tokens=options.query_tokens,
            passage_tokens=options.passage_tokens,
            prompt_tokens=options.prompt_tokens,
            attempt=attempt,
            model_settings=bool(options.model_settings),
            special_tokens_twice=bool(options.special_tokens_twice),
            count_pad=bool(options.count_pad),
        )
        return self._settings[key]

    def reading(self, ask: Ask, backend: Backend) -> Reading:
        """Return the rules by which the text of an answer is read."""
        order, prompt = self._completed.parse or "strict", self.prompt_of(ask)
        # Simulated answers are nothing but the answer, best first.
        pattern = None if backend.simulated else prompt.answer.pattern
        order = "digits" if backend.simulated and order == "ascending" else order
        rule: LabelRule = "whole" if pattern else "strict"
        if order == "digits" and not pattern and all(len(label) == 1 for label in prompt.labels):
            rule = "whole"
            if backend.architecture == "encoder_decoder":
                rule = "last_character" if ask.kind == "choose" else "exact"
        return Reading(rule, order, pattern)


@dataclass
class Requests:
    """The requests of one query's asks.

    A request's key hashes all that can change the answer: model, prompt, texts, decoding. Texts are hashed whole, with
    the lengths they are cut to, so that a key can be made without a tokenizer.
    """

    ranker: Ranker
    backend: Backend
    candidates: Candidates

    def __post_init__(self) -> None:
        for prompt in self.ranker.prompts:
            if problem := self._problem(prompt):
                raise InputError(f"prompt '{prompt.name}' {problem}")
        docs = self.ranker.shown(self.candidates).docs
        self._texts = {doc.id: doc.text for doc in docs}
        self._digests = {doc.id: _digest(doc.id if self.backend.simulated else "", doc.text) for doc in docs}
        self._begun: dict[tuple[AskKind, str | None, int], tuple[RequestSettings, Any]] = {}

    def _problem(self, prompt: Prompt) -> str | None:
        """Return what the prompt needs that the backend lacks, with the remedy, or None."""
        backend, decoder_only = self.backend, self.backend.architecture == "decoder_only"
        if prompt.answer.scored in ("after_thought", "written") and not (backend.scores_texts and decoder_only):
            need = "needs log-probabilities within a generated text; use a decoder-only model"
            return f"{need} with model.backend: transformers or vllm"
        if prompt.raw_logits and self.ranker.scoring == "likelihood" and not backend.raw_logits:
            return "scores by raw logits or states, which this backend does not give; use model.backend: transformers"
        if prompt.fused and decoder_only and not (backend.simulated or backend.recorded):
            need = "is read by an encoder, passage by passage, and its decoder; name such a model, a T5 or its like"
            return f"{need}, with model.backend: transformers"
        return None

    def request(self, ask: Ask, attempt: int = 0) -> Request:
        """Return the request for an ask, on the given attempt."""
        of_kind = (ask.kind, ask.template, attempt)
        if of_kind not in self._begun:
            settings = self.ranker.settings(ask, attempt, self.backend.architecture)
            self._begun[of_kind] = settings, hashlib.sha256(self._beginning(ask, settings))
        settings, begun = self._begun[of_kind]
        digest = begun.copy()
        digest.update(b"".join([self._digests[doc] for doc in ask.docs]))
        if ask.kind == "relevance" and self.backend.group_scores:
            digest.update(b"".join(self._digests.values()))
        if ask.limit or ask.notes or ask.signals or ask.labels or ask.sample:
            digest.update(json.dumps([ask.limit, ask.notes, ask.signals, ask.labels, ask.sample]).encode())
        return Request(ask, self.candidates.query, self._texts, settings, digest.digest()[:KEY_BYTES])

    def derive(self, ask: Ask) -> str:
        """Return the note that an ask of kind `derive` names, computed from the texts."""
        note = catalog.note(ask.template or "")
        return note(self.candidates.query.text, [self._texts[doc] for doc in ask.docs], **dict(ask.options))

    def _beginning(self, ask: Ask, settings: RequestSettings) -> bytes:
        query = self.candidates.query
        content = asdict(settings.decoding) | compat.key(settings)
        for later in ("stop", "context_tokens", "top_k"):  # so that keys made before there was one hold
            if not content[later]:
                del content[later]
        for name in ("scoring", "query_tokens", "passage_tokens", "attempt"):
            content[name] = getattr(settings, name)
        content |= {"most_tokens": settings.prompt_tokens} if settings.prompt_tokens else {}
        content |= {"prompt": settings.prompt.digest, "kind": ask.kind}
        return _digest(
            json.dumps([self.backend.identity, content], sort_keys=True),
            query.id if self.backend.simulated else "",
            query.text,
        )


def _digest(*texts: str) -> bytes:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).digest()
