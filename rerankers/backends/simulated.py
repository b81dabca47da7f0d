"""Answers from a rule instead of a model: for tests, for trying the whole tool offline, and for studying methods.

- `oracle` answers from the relevance judgements: unjudged documents have grade 0, of equal grades the document
  presented first wins;
- `noisy` is an oracle that answers wrongly with probability `noise`, seeded by the ask;
- `rel` gives every document the relevance int(sha256("{seed}|{docid}")), the higher wins;
- `inverse` holds the last candidate for the most relevant one and the first for the least: what costs most;
- `hash` answers from a hash of the documents as presented: no relevance behind it, only control flow.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field

from ..answers.reading import Reply
from ..errors import InputError
from .base import Answered, Backend, Grades, ModelOptions, Request, Setting

SURELY_NOT = -1000.0
"""The log-probability of what is not answered: finite, so that it can be written as JSON."""

TINY = 1e-300
"""The least probability that has a logarithm to speak of."""


class Options(ModelOptions):
    """Keys of the `model` section."""

    simulated = True

    answers: Literal["oracle", "noisy", "inverse", "hash", "rel"] = Field("oracle", description="the rule that answers")
    noise: float = Field(0.1, ge=0.0, le=1.0, description="how often a noisy oracle answers wrongly")


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """A backend that answers by the given rule. Raises `InputError` where an oracle has no judgements."""
    if options.answers in ("oracle", "noisy") and setting.grades is None:
        raise InputError(
            f"model.answers: {options.answers} answers from relevance judgements, but the dataset has no qrels"
        )
    return Simulated(options, setting.seed, setting.grades or {})


class Simulated(Backend):
    """The simulated model: a relevance for every document, and one way of answering each kind of ask with it."""

    simulated = True

    def __init__(self, options: Options, seed: int, grades: Grades) -> None:
        super().__init__()
        self.options = options
        self.seed = seed
        self.grades = grades
        self.identity = self._identity()
        self._hashed = lru_cache(maxsize=100_000)(self._hash)

    def _identity(self) -> dict[str, object]:
        rule: dict[str, object] = {"backend": "simulated", "answers": self.options.answers}
        if self.options.answers not in ("oracle", "inverse"):
            rule["seed"] = self.seed
        if self.options.answers == "noisy":
            rule["noise"] = self.options.noise
        if self.options.answers in ("oracle", "noisy"):
            judged = json.dumps(self.grades, sort_keys=True).encode()
            rule["grades"] = hashlib.sha256(judged).hexdigest()
        return rule

    def collect(self) -> Answered:
        """Answer everything that waits."""
        return [(request, self._reply(request)) for request in self.take()]

    def _reply(self, request: Request) -> Reply:
        kind = request.ask.kind
        if kind == "score":
            return _say_probability(request, self._probability(request))
        if kind == "relevance":
            return Reply(scores=(self._probability(request),))
        if kind == "likelihood":
            return Reply(scores=(math.log(max(self._probability(request), TINY)),))
        if kind in ("permute", "select"):
            return _say_order(request, self._order(request))
        if kind == "rate":
            return _say_ratings(request, self._ratings(request))
        if kind == "write":
            return Reply(text=f"a note for '{request.prompt.name}' about {', '.join(request.ask.docs) or 'the query'}")
        return _say_label(request, self._choice(request))

    def _choice(self, request: Request) -> int:
        """The index of the document that is answered to be the most relevant."""
        docs = request.ask.docs
        if self.options.answers == "hash":
            return _number(f"{self.seed}|" + "|".join(docs)) % len(docs)
        relevance = [self._relevance(request, doc) for doc in docs]
        best = relevance.index(max(relevance))
        dice = self._dice(request)
        if dice and len(docs) > 1 and dice.random() < self.options.noise:
            return dice.choice([i for i in range(len(docs)) if i != best])
        return best

    def _order(self, request: Request) -> list[int]:
        """The documents' indices, the most relevant first."""
        docs = request.ask.docs
        if self.options.answers == "hash":
            presented = "|".join(docs)
            return sorted(range(len(docs)), key=lambda i: _number(f"{self.seed}|{presented}|{docs[i]}"))
        order = sorted(range(len(docs)), key=lambda i: -self._relevance(request, docs[i]))
        dice = self._dice(request)
        if dice and dice.random() < self.options.noise:
            dice.shuffle(order)
        return order

    def _probability(self, request: Request) -> float:
        """The probability of the label that means the most relevance, for a single document."""
        probability = self._degree(request, request.ask.docs[0])
        dice = self._dice(request)
        return 1 - probability if dice and dice.random() < self.options.noise else probability

    def _ratings(self, request: Request) -> list[float]:
        """A score from 0 to 10 for each document; a wrong answer mixes them up."""
        ratings = [10 * self._degree(request, doc) for doc in request.ask.docs]
        dice = self._dice(request)
        if dice and dice.random() < self.options.noise:
            dice.shuffle(ratings)
        return ratings

    def _degree(self, request: Request, doc: str) -> float:
        """A document's relevance between 0 and 1."""
        relevance = self._relevance(request, doc)
        if self.options.answers in ("hash", "rel"):
            return relevance / 2**256
        if self.options.answers == "inverse":
            return (relevance + 1) / (len(request.texts) + 1)
        return 1 / (1 + math.exp(0.5 - relevance))

    def _relevance(self, request: Request, doc: str) -> int:
        if self.options.answers in ("hash", "rel"):
            return self._hashed(doc)
        if self.options.answers == "inverse":
            return list(request.texts).index(doc)
        return self.grades.get(request.query.id, {}).get(doc, 0)

    def _hash(self, doc: str) -> int:
        return _number(f"{self.seed}|{doc}")

    def _dice(self, request: Request) -> random.Random | None:
        """Chance seeded by the ask, so that the same ask goes wrong the same way in every run."""
        if self.options.answers != "noisy":
            return None
        ask = request.ask
        seed = f"{self.seed}|{request.query.id}|{ask.kind}|{'|'.join(ask.docs)}|{ask.sample}"
        return random.Random(seed)  # noqa: S311


def _say_label(request: Request, choice: int) -> Reply:
    """A reply that chooses one of the documents, in the form that the scoring asks for."""
    labels = request.labels
    if request.scoring == "generation":
        return Reply(text=labels[choice])
    return Reply(scores=tuple(0.0 if i == choice else SURELY_NOT for i in range(len(labels))))


def _say_order(request: Request, order: Sequence[int]) -> Reply:
    """A reply that orders the documents, in the form that the scoring asks for."""
    labels = request.labels
    if request.scoring == "generation":
        stated = [labels[i] for i in order][: request.ask.limit or None]
        return Reply(text=request.prompt.answer.naming(stated))
    return Reply(scores=tuple(-float(order.index(i)) for i in range(len(labels))))


def _say_ratings(request: Request, ratings: Sequence[float]) -> Reply:
    """A reply that gives every document its rating."""
    rated = zip(request.labels, ratings, strict=True)
    return Reply(text="\n".join(f"Doc: {label}, Relevance: {score:.4f}" for label, score in rated))


def _say_probability(request: Request, probability: float) -> Reply:
    """A reply that gives the most relevant label that probability, and the least relevant one the rest."""
    values = request.prompt.labels
    if not isinstance(values, dict):
        raise InputError(f"prompt '{request.prompt.name}' asks for a score, but its labels have no values")
    best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    if request.scoring == "generation":
        return Reply(text=best if probability >= 0.5 else worst)
    weights = {best: probability, worst: 1 - probability}
    return Reply(scores=tuple(math.log(w) if (w := weights.get(label, 0.0)) else SURELY_NOT for label in values))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
