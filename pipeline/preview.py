"""Exactly what a model would be sent, and how its answer would be read: the requests of a run, not sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..rerankers import api
from ..rerankers.answers.reading import describe
from ..rerankers.asks import KINDS
from ..rerankers.backends._tokens.tokens import SEAM, Tokens
from ..rerankers.backends.base import Backend, Grades, Request
from ..rerankers.cascade import first
from ..rerankers.errors import InputError
from ..rerankers.prompts.template import Architecture
from ..rerankers.ranker import Ranker, Requests
from ..rerankers.types import Answer, Query
from .configs import load as configs
from .configs.load import Stage
from .first_stage.retrieve import retrieve
from .io.progress import Listener


@dataclass(frozen=True, slots=True)
class Shown:
    """A request as the model reads it.

    With a tokenizer: the whole text, after the chat template, and its tokens. Without one: the messages, uncut.
    """

    text: str
    tokens: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Label:
    """A possible answer, what it stands for, and the tokens that its log-probability is read at, if it is."""

    label: str
    meaning: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Preview:
    """The first ask about a query, in one of the stages."""

    query: Query
    method: str
    prompt: str
    architecture: Architecture
    kind: str
    docs: tuple[str, ...]
    asks_in_round: int
    shown: Shown
    prompt_tokens_limit: int | None
    """Longer prompts are cut to so many tokens, which loses what stands at their end."""

    answer_prefix: str
    """What the answer is made to begin with: the decoder's first words; where a decoder-only model has them, the
    shown text of a tokenizer ends with them."""

    prefix_tokens: tuple[int, ...] | None
    labels: tuple[Label, ...]
    scoring: str
    max_new_tokens: int | None
    reading: str
    on_unparsed: str
    stage: int = 1
    """Which stage of a cascade asks. What a later one is shown is not known yet: here it is the first stage's order."""
    stages: int = 1


def preview(name: str, settings: Sequence[str], query_id: str, listener: Listener, stage: int = 1) -> Preview:
    """What the config's model would be sent for the first ask of a query, in that stage. No weights are loaded.

    Raises `InputError` where the query is not in the dataset, has no candidates, or nothing is asked about them, and
    where there is no such stage.
    """
    loaded = configs.load_noting(name, settings, None, listener).of_query(query_id)
    if not 1 <= stage <= len(loaded.stages):
        raise InputError(f"--stage {stage}: config {loaded.config.name} has {len(loaded.stages)} stages")
    ranker, chosen = loaded.rankers[stage - 1], loaded.stages[stage - 1]
    first_stage = retrieve(loaded, listener)
    candidates = first(next(iter(first_stage)), chosen.depth)
    backend = open_without_weights(chosen, first_stage.dataset.qrels(), loaded.config.seed)
    requests, steps = Requests(ranker, backend, candidates), ranker.steps(candidates)
    try:
        asks = next(steps)
        while all(ask.kind == "derive" for ask in asks):
            asks = steps.send([Answer(note=requests.derive(ask)) for ask in asks])
    except StopIteration:
        what = f"{ranker.method.name} asks nothing about its {len(candidates.docs)} candidates"
        raise InputError(f"query {query_id}: {what}; choose another query or method") from None
    found = _preview(requests.request(asks[0]), ranker, backend, len(asks))
    return dataclasses.replace(found, stage=stage, stages=len(loaded.stages))


def open_without_weights(stage: Stage, grades: Grades | None, seed: int) -> Backend:
    """The backend of a stage, to render prompts with: that its device is not here does not matter.

    Raises `InputError` where the model's tokenizer or config cannot be found.
    """
    return api.open_model(stage.model or {}, grades=grades, seed=seed, weights=False)


def shown(request: Request, backend: Backend) -> Shown:
    """A request as the backend's model would read it, without the seams that keep control tokens of texts apart."""
    tokens = backend.tokens
    if tokens is None:
        messages = request.prompt.render(request.ask, request.query.text, request.passages, backend.architecture)
        return Shown("\n\n".join(f"[{message.role}]\n{message.content}" for message in messages), None)
    text, ids = tokens.prompt(request)
    return Shown(text.replace(SEAM, ""), tuple(ids))


def _preview(request: Request, ranker: Ranker, backend: Backend, asks_in_round: int) -> Preview:
    tokens, prefix = backend.tokens, request.prompt.answer.prefix
    generates = request.scoring == "generation" and request.prompt.target is None
    encoder_decoder = backend.architecture == "encoder_decoder"
    return Preview(
        query=request.query,
        method=ranker.method.name,
        prompt=request.prompt.name,
        architecture=backend.architecture,
        kind=request.ask.kind,
        docs=request.ask.docs,
        asks_in_round=asks_in_round,
        shown=shown(request, backend),
        prompt_tokens_limit=request.terms.decoding.prompt_tokens,
        answer_prefix=prefix.encoder_decoder if encoder_decoder else prefix.decoder_only,
        prefix_tokens=tuple(tokens.decoder_prefix(request)) if tokens and encoder_decoder else None,
        labels=_labels(request, tokens),
        scoring=request.scoring,
        max_new_tokens=_length(request, tokens) if generates else None,
        reading=_reading(request, ranker, backend),
        on_unparsed=ranker.options.on_unparsed,
    )


def _length(request: Request, tokens: Tokens | None) -> int | None:
    """How many tokens the answer may have; None where that is as many as it needs, and no tokenizer counts them."""
    return tokens.answer_tokens(request) if tokens else request.terms.decoding.max_new_tokens


def _labels(request: Request, tokens: Tokens | None) -> tuple[Label, ...]:
    """The labels of the request, each with what it stands for: a document, or a relevance."""
    values = request.prompt.labels
    meanings = [f"{value:g}" for value in values.values()] if isinstance(values, dict) else request.ask.docs
    ids: Sequence[tuple[int, ...]] = [()] * len(request.labels)
    if tokens and request.scoring == "likelihood" and request.labels and request.prompt.target is None:
        ids = tokens.label_ids(request, tokens.prompt(request)[0])
    return tuple(Label(*row) for row in zip(request.labels, meanings, ids, strict=False))


def _reading(request: Request, ranker: Ranker, backend: Backend) -> str:
    """How the answer is read, in words."""
    outcome = KINDS[request.ask.kind].outcome
    if request.ask.kind == "relevance":
        return outcome
    if request.prompt.target is not None:
        tokens = backend.tokens
        over = f" over its {len(tokens.target(request))} tokens" if tokens else ""
        return f"the log-probability of {request.prompt.target.format(query='the query')} as the answer, summed{over}"
    if request.scoring == "likelihood":
        how = "the sum over all a label's tokens" if request.prompt.answer.scored == "whole" else "in one forward pass"
        return f"the labels' log-probabilities where the answer begins, {how}; {outcome}"
    return f"generated text{describe(request.ask.kind, ranker.reading(request.ask, backend))}"
