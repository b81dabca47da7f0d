"""Show exactly what a model would be sent, and how its answer would be read: a run's requests, not sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..rerankers import api
from ..rerankers.answers.reading import describe
from ..rerankers.asks import KINDS
from ..rerankers.backends._tokens.tokens import SEAM, Tokens
from ..rerankers.backends.base import Backend, Request
from ..rerankers.cascade import first
from ..rerankers.errors import InputError
from ..rerankers.ranker import Ranker, Requests
from ..rerankers.types import Answer
from .configs import load as configs
from .first_stage.retrieve import retrieve
from .io.progress import Listener


def preview(name: str, settings: Sequence[str], query_id: str, listener: Listener, stage: int = 1) -> dict[str, Any]:
    """Return what the config's model would be sent for the first ask of a query in a stage; no weights are loaded.

    It is JSON, as `r2llm prompt --json` prints it. Later stages are shown the first stage's order. A prompt longer than
    `prompt_tokens_limit` loses its end. The answer is made to begin with `answer_prefix`: the first words of a decoder,
    or of a decoder-only model the end of the prompt. Raises `InputError` if there is no such query or stage, or nothing
    is asked about the query's candidates.
    """
    loaded = configs.load_noting(name, settings, None, listener).of_query(query_id)
    if not 1 <= stage <= len(loaded.stages):
        raise InputError(f"--stage {stage}: config {loaded.config.name} has {len(loaded.stages)} stages")
    ranker, chosen = loaded.rankers[stage - 1], loaded.stages[stage - 1]
    first_stage = retrieve(loaded, listener)
    candidates, grades = first(next(iter(first_stage)), chosen.depth), first_stage.dataset.qrels()
    backend = api.open_model(chosen.model or {}, grades=grades, seed=loaded.config.seed, weights=False)
    requests, steps = Requests(ranker, backend, candidates), ranker.steps(candidates)
    try:
        asks = next(steps)
        while all(ask.kind == "derive" for ask in asks):
            asks = steps.send([Answer(note=requests.derive(ask)) for ask in asks])
    except StopIteration:
        fault = f"{ranker.method.name} asks nothing about its {len(candidates.docs)} candidates"
        raise InputError(f"query {query_id}: {fault}; choose another query or method") from None
    request, tokens = requests.request(asks[0]), backend.tokens
    decoding, prefix = request.terms.decoding, request.prompt.answer.prefix
    generates = request.scoring == "generation" and request.prompt.target is None
    encoder_decoder = backend.architecture == "encoder_decoder"
    return {
        "query": asdict(request.query),
        "method": ranker.method.name,
        "prompt": request.prompt.name,
        "architecture": backend.architecture,
        "kind": request.ask.kind,
        "docs": request.ask.docs,
        "asks_in_round": len(asks),
        "shown": dict(zip(("text", "tokens"), shown(request, backend), strict=True)),
        "prompt_tokens_limit": decoding.prompt_tokens,
        "answer_prefix": prefix.encoder_decoder if encoder_decoder else prefix.decoder_only,
        "prefix_tokens": tuple(tokens.decoder_prefix(request)) if tokens and encoder_decoder else None,
        "labels": _labels(request, tokens),
        "scoring": request.scoring,
        "max_new_tokens": (tokens.answer_tokens(request) if tokens else decoding.max_new_tokens) if generates else None,
        "reading": _reading(request, ranker, backend),
        "on_unparsed": ranker.options.on_unparsed,
        "stage": stage,
        "stages": len(loaded.stages),
    }


def shown(request: Request, backend: Backend) -> tuple[str, list[int] | None]:
    """Return the prompt as the model reads it, after the chat template, and its tokens; else the messages, uncut.

    The seams that disarm control tokens in texts are left out.
    """
    if backend.tokens is None:
        messages = request.prompt.render(request.ask, request.query.text, request.passages, backend.architecture)
        return "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages), None
    text, ids = backend.tokens.prompt(request)
    return text.replace(SEAM, ""), list(ids)


def _labels(request: Request, tokens: Tokens | None) -> list[dict[str, Any]]:
    """Return each possible answer, its meaning, and the tokens at which its log-probability is read, if it is."""
    values, ids = request.prompt.labels, tuple[tuple[int, ...], ...]([()] * len(request.labels))
    meanings = [f"{value:g}" for value in values.values()] if isinstance(values, dict) else request.ask.docs
    if tokens and request.scoring == "likelihood" and request.labels and request.prompt.target is None:
        ids = tokens.label_ids(request, tokens.prompt(request)[0])
    names = ("label", "meaning", "tokens")
    return [dict(zip(names, row, strict=True)) for row in zip(request.labels, meanings, ids, strict=False)]


def _reading(request: Request, ranker: Ranker, backend: Backend) -> str:
    """Return how the answer is read, in words."""
    outcome = KINDS[request.ask.kind].outcome
    if request.ask.kind == "relevance":
        return outcome
    if request.prompt.target is not None:
        over = f" over its {len(backend.tokens.target(request))} tokens" if backend.tokens else ""
        return f"the log-probability of {request.prompt.target.format(query='the query')} as the answer, summed{over}"
    if request.scoring == "likelihood":
        how = "the sum over all a label's tokens" if request.prompt.answer.scored == "whole" else "in one forward pass"
        return f"the labels' log-probabilities where the answer begins, {how}; {outcome}"
    return f"generated text{describe(request.ask.kind, ranker.reading(request.ask, backend))}"
