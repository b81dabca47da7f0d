"""Rules that answer in a model's place, to see what a method would ask: nothing is sent to a model.

How often a sort asks depends on the answers. An oracle is no guide: judgements are few and full of ties, and it keeps
the order where grades are equal, which a model does not. The rule `likely` gives every document a relevance of its own
(its grade, or what its first-stage rank makes likely, and a normal deviation) and now and then answers wrongly. The
other rules show how far the counts could be from that.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from ..rerankers import api
from ..rerankers.answers.reading import Reply
from ..rerankers.backends.base import Backend, Grades, Request
from ..rerankers.types import AskKind
from .run.runfile import Run

Rule = Literal["likely", "first", "inverse", "random"]
"""Who answers: a model as models are, one that always names the document presented first, one for whom the last
candidate is the best, and one whose answers have no reason."""

OTHER_RULES: tuple[Rule, ...] = ("inverse", "first", "random")
"""The rules that the likely one is compared with."""

SPREAD = 1.0
"""The standard deviation, in grades, by which a document seems more or less relevant than it is."""

MISTAKES = 0.05
"""How often an answer does not follow from these relevances."""

PER_RANK = 0.5
"""By how much a document seems less relevant for each time that its first-stage rank is e times as deep."""

SAMPLE = 200
"""So many requests of a kind are kept, to be tokenised, and at most answered by the real model."""

FILLER = "the "
"""What notes are made of that nobody has written yet: a word that is one token."""


def open_rule(rule: Rule, run: Run, grades: Grades | None, seed: int) -> Backend:
    """The backend that answers by a rule about the candidates of a run."""
    if rule == "likely":
        seeming = cast("Grades", _seeming(run, grades, seed))
        return api.open_model(
            {"backend": "simulated", "answers": "noisy", "noise": MISTAKES}, grades=seeming, seed=seed
        )
    if rule == "first":  # to an oracle without judgements all documents are equal
        return api.open_model({"backend": "simulated", "answers": "oracle"}, grades={}, seed=seed)
    answers = {"inverse": "inverse", "random": "hash"}[rule]
    return api.open_model({"backend": "simulated", "answers": answers}, grades=grades, seed=seed)


def _seeming(run: Run, grades: Grades | None, seed: int) -> dict[str, dict[str, float]]:
    """How relevant each candidate seems."""
    seeming = {}
    for query, found in run.items():
        dice = random.Random(f"{seed}|{query}")  # noqa: S311
        judged = grades.get(query, {}) if grades else None
        seeming[query] = {
            doc: (-PER_RANK * math.log(rank) if judged is None else judged.get(doc, 0)) + dice.gauss(0, SPREAD)
            for rank, (doc, _) in enumerate(found, 1)
        }
    return seeming


@dataclass
class Stratum:
    """The requests of one kind, put with one prompt: how many there are, and a sample of them."""

    kind: AskKind
    filler: str = ""
    """The note that stands for each of their answers, where these are notes."""

    asks: int = 0
    calls: int = 0
    sample: list[Request] = field(default_factory=list)


class Judge(Backend):
    """A rule that answers in a model's place, on the model's terms, and keeps count of what it is asked.

    Requests with a key that is in `seen` are no calls to the model; with None all are.
    """

    remembers = False  # so that it hears of every ask, and not of calls alone

    def __init__(self, rule: Backend, model: Backend, seen: set[bytes] | None, seed: int) -> None:
        super().__init__()
        self.rule = rule
        self.model = model
        # Keys are the model's: what is one call to it is one here.
        self.architecture, self.identity, self.simulated = model.architecture, model.identity, model.simulated
        self.strata: dict[tuple[AskKind, str | None], Stratum] = {}
        self.group_scores = model.group_scores
        self.calls: Counter[str] = Counter()
        """Calls of each query."""
        self._seen = seen
        self._dice = random.Random(seed)  # noqa: S311

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests to answer; each has the same chance to be in its stratum's sample."""
        for request in requests:
            kind = (request.ask.kind, request.ask.template)
            stratum = self.strata.get(kind)
            if stratum is None:
                stratum = self.strata[kind] = Stratum(request.ask.kind, self._filler(request))
            stratum.asks += 1
            place = self._dice.randrange(stratum.asks)
            if len(stratum.sample) < SAMPLE:
                stratum.sample.insert(place, request)
            elif place < SAMPLE:
                stratum.sample[place] = request
            if self._seen is None or request.key not in self._seen:
                stratum.calls += 1
                self.calls[request.query.id] += 1
            if self._seen is not None:
                self._seen.add(request.key)
        self.rule.submit(requests)

    def _filler(self, request: Request) -> str:
        """A note as long as the model may write it."""
        if request.ask.kind != "write" or self.simulated:
            return ""
        tokens = self.model.tokens
        most = request.terms.decoding.max_new_tokens
        length = tokens.answer_tokens(request) if tokens else most or 0
        return f"{request.prompt.name} {FILLER * length}".strip()

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer what waits."""
        return [(request, self._noted(request, reply)) for request, reply in self.rule.collect()]

    def _noted(self, request: Request, reply: Reply) -> Reply:
        filler = self.strata[request.ask.kind, request.ask.template].filler
        return Reply(text=filler) if filler else reply
