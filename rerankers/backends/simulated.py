"""Answers from a rule instead of a model: for tests, for trying the whole tool offline, and for studying methods.

- `oracle` answers from the relevance judgements: unjudged documents have grade 0, the first of equal ones wins;
- `noisy` is an oracle that errs with probability `noise`, seeded by the ask;
- `rel` gives every document the relevance int(sha256("{seed}|{docid}")), the higher wins;
- `inverse` holds the last candidate for the most relevant one and the first for the least: what costs most;
- `hash` answers from a hash of the documents as presented: no relevance behind it, only control flow.
"""

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

SURELY_NOT = -1000.0  # the log-probability of the other labels: finite, for JSON
TINY = 1e-300  # the least probability that has a logarithm


class Options(ModelOptions):
    """Keys of the `model` section."""

    simulated = True

    answers: Literal["oracle", "noisy", "inverse", "hash", "rel"] = Field("oracle", description="the rule that answers")
    noise: float = Field(0.1, ge=0.0, le=1.0, description="how often a noisy oracle answers wrongly")
    by_prompt: bool = Field(False, description="let a noisy oracle err at other asks with a prompt of other words")


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Return a backend that answers by the rule. Raises `InputError` if an oracle has no judgements."""
    rule = options.answers
    if rule in ("oracle", "noisy") and setting.grades is None:
        raise InputError(f"model.answers: {rule} answers from relevance judgements, but the dataset has no qrels")
    return Simulated(options, setting.seed, setting.grades or {})


class Simulated(Backend):
    """The simulated model: a relevance for every document, and an answer to each kind of ask from it."""

    simulated = True

    def __init__(self, options: Options, seed: int, grades: Grades) -> None:
        super().__init__()
        self.rule, self.noise, self.seed, self.grades = options.answers, options.noise, seed, grades
        self.by_prompt = options.by_prompt
        self._hashed = lru_cache(maxsize=100_000)(lambda doc: _number(f"{seed}|{doc}"))
        identity: dict[str, object] = {"backend": "simulated", "answers": self.rule}
        if self.rule not in ("oracle", "inverse"):
            identity["seed"] = seed
        if self.rule == "noisy":
            identity["noise"] = options.noise
            identity |= {"by_prompt": True} if options.by_prompt else {}
        if self.rule in ("oracle", "noisy"):
            identity["grades"] = hashlib.sha256(json.dumps(grades, sort_keys=True).encode()).hexdigest()
        self.identity = identity

    def collect(self) -> Answered:
        """Answer everything that waits."""
        return [(request, self._reply(request)) for request in self.take()]

    def _reply(self, request: Request) -> Reply:
        match request.ask.kind:
            case "score":
                if self.rule in ("oracle", "noisy") and request.scoring == "generation" and len(request.labels) > 2:
                    return Reply(self._label(request))
                return _of_probability(request, self._probability(request))
            case "relevance":
                return Reply(scores=(self._probability(request),))
            case "likelihood":
                return Reply(scores=(math.log(max(self._probability(request), TINY)),))
            case "permute" | "select":
                return _of_order(request, self._order(request))
            case "rate":
                rated = zip(request.labels, self._ratings(request), strict=True)
                return Reply("\n".join(f"Doc: {label}, Relevance: {rating:.4f}" for label, rating in rated))
            case "write":
                return Reply(f"a note for '{request.prompt.name}' about {', '.join(request.ask.docs) or 'the query'}")
        choice, labels = self._choice(request), request.labels
        if request.scoring == "generation":
            return Reply(labels[choice])
        return Reply(scores=tuple(0.0 if i == choice else SURELY_NOT for i in range(len(labels))))

    def _choice(self, request: Request) -> int:
        """Return the index of the most relevant document."""
        docs = request.ask.docs
        if self.rule == "hash":
            return _number("|".join([str(self.seed), *docs])) % len(docs)
        relevance = [self._relevance(request, doc) for doc in docs]
        best = relevance.index(max(relevance))
        if (dice := self._mistake(request)) and len(docs) > 1:
            return dice.choice([i for i in range(len(docs)) if i != best])
        return best

    def _order(self, request: Request) -> list[int]:
        """Return the documents' indices, the most relevant first."""
        docs, places = request.ask.docs, range(len(request.ask.docs))
        if self.rule == "hash":
            return sorted(places, key=lambda i: _number("|".join([str(self.seed), *docs, docs[i]])))
        order = sorted(places, key=lambda i: -self._relevance(request, docs[i]))
        if dice := self._mistake(request):
            dice.shuffle(order)
        return order

    def _label(self, request: Request) -> str:
        """Return the label on a scale whose value is nearest to a single document's grade."""
        values, grade = request.prompt.labels, self._relevance(request, request.ask.docs[0])
        nearest = min(values, key=lambda label: abs(values[label] - grade)) if isinstance(values, dict) else ""
        dice = self._mistake(request)
        return dice.choice([label for label in request.labels if label != nearest]) if dice else nearest

    def _probability(self, request: Request) -> float:
        """Return the probability of the most relevant label for a single document."""
        probability = self._degree(request, request.ask.docs[0])
        return 1 - probability if self._mistake(request) else probability

    def _ratings(self, request: Request) -> list[float]:
        """Return a score from 0 to 10 for each document."""
        ratings = [10 * self._degree(request, doc) for doc in request.ask.docs]
        if dice := self._mistake(request):
            dice.shuffle(ratings)
        return ratings

    def _degree(self, request: Request, doc: str) -> float:
        """Return a document's relevance between 0 and 1."""
        relevance = self._relevance(request, doc)
        if self.rule in ("hash", "rel"):
            return relevance / 2**256
        if self.rule == "inverse":
            return (relevance + 1) / (len(request.texts) + 1)
        return 1 / (1 + math.exp(0.5 - relevance))

    def _relevance(self, request: Request, doc: str) -> int:
        if self.rule in ("hash", "rel"):
            return self._hashed(doc)
        if self.rule == "inverse":
            return list(request.texts).index(doc)
        return self.grades.get(request.query.id, {}).get(doc, 0)

    def _mistake(self, request: Request) -> random.Random | None:
        """Return chance seeded by the ask if a noisy oracle errs at it, the same way in every run."""
        if self.rule != "noisy":
            return None
        ask = request.ask
        seeds = [self.seed, request.query.id, ask.kind, *ask.docs, ask.sample]
        seeds += [message.content for message in request.prompt.messages] if self.by_prompt else []
        dice = random.Random("|".join(map(str, seeds)))  # noqa: S311
        return dice if dice.random() < self.noise else None


def _of_order(request: Request, order: Sequence[int]) -> Reply:
    labels = request.labels
    if request.scoring == "generation":
        return Reply(request.prompt.answer.naming([labels[i] for i in order][: request.ask.limit or None]))
    return Reply(scores=tuple(-float(order.index(i)) for i in range(len(labels))))


def _of_probability(request: Request, probability: float) -> Reply:
    """Return a reply that gives the most relevant label that probability, and the least relevant one the rest."""
    if request.prompt.scores_numbers(request.ask.kind):
        return Reply(f"{100 * probability:.2f}")
    if not isinstance(values := request.prompt.labels, dict):
        raise InputError(f"prompt '{request.prompt.name}' asks for a score, but its labels have no values")
    best, worst = max(values, key=values.__getitem__), min(values, key=values.__getitem__)
    if request.scoring == "generation":
        return Reply(best if probability >= 0.5 else worst)
    weights = {worst: 1 - probability, best: probability}  # of a single label, its own
    return Reply(scores=tuple(math.log(w) if (w := weights.get(label, 0.0)) else SURELY_NOT for label in values))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
