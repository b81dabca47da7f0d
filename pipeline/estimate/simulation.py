"""Rank with simulated answers in the models' place, to count what the methods would ask; no model is asked.

How often a sort asks depends on the answers. An oracle is no guide: judgements are few and full of ties, and it keeps
the order of equal grades, which a model does not. The rule `likely` perceives each document's grade, or what its
first-stage rank makes likely, with a normal deviation, and now and then answers wrongly. The other rules bound it.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from ...rerankers import api
from ...rerankers.answers.reading import Reply
from ...rerankers.backends.base import Answered, Backend, Grades, Request
from ...rerankers.cascade import Cascade, Stage
from ...rerankers.ledger import Ledger
from ...rerankers.types import AskKind, Candidates, Cost
from ..configs.load import Loaded
from ..first_stage.retrieve import FirstStage
from ..io.progress import Advance
from ..run.runfile import Run

Rule = Literal["likely", "equal", "inverse", "random"]

RULES: Mapping[Rule, Mapping[str, Any]] = {
    "likely": {"answers": "noisy", "noise": 0.05},
    "equal": {"answers": "oracle"},  # all documents are equal to an oracle without judgements: the first is the best
    "inverse": {"answers": "inverse"},  # the last candidate is the best
    "random": {"answers": "hash"},
}

DEVIATION = 1.0  # standard deviation of the perceived relevance, in grades

PER_RANK = 0.5  # loss of perceived relevance for each time that the first-stage rank is e times as deep

SAMPLE = 200  # the most requests of a kind that are kept, to be tokenized

FILLER = "the "  # a word that is one token: simulated notes are made of it


@dataclass
class Stratum:
    """The requests of one kind that use one prompt: their number, and a uniform sample of them."""

    kind: AskKind
    note: str = ""  # stands for each answer that is a note
    asks: int = 0
    sample: list[Request] = field(default_factory=list)


Costs = Mapping[str, Sequence[Cost]]
"""The costs of each query by stage."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """The costs of each query by stage, and the strata of each stage.

    Calls are asks without those that were posed before, if answers are kept.
    """

    costs: Costs
    strata: Sequence[Sequence[Stratum]]


def ranked(loaded: Loaded, models: Sequence[Backend], queries: Iterable[Candidates], advance: Advance) -> Costs:
    """Return the costs of ranking the queries with a model for each stage; the answers are not kept."""
    stages = map(Stage, loaded.rankers, models, (stage.depth for stage in loaded.stages))
    with closing(Ledger(None)) as ledger:
        cascade = Cascade(list(stages), ledger, pooled=loaded.config.schedule == "throughput")
        cascade.tally.listener = lambda answered: advance(answered)
        return {query.cost.query_id: query.costs for query in cascade.rank(queries)}


def simulate(
    loaded: Loaded, models: Sequence[Backend], rule: Rule, first_stage: FirstStage, advance: Advance
) -> Simulation:
    """Rank the queries by a rule; a simulated model answers itself where the rule is `likely`."""
    pooled, seed, grades = loaded.config.schedule == "throughput", loaded.config.seed, first_stage.dataset.qrels()
    keys, stand_ins = set[bytes](), []
    for model, options in zip(models, loaded.models, strict=True):
        itself = rule == "likely" and options.simulated
        answering = model if itself else open_rule(rule, first_stage.run, grades or None, seed)
        stand_ins.append(StandIn(answering, model, keys if pooled and model.remembers else None, seed))
    costs = {
        query: [replace(cost, calls=stand_in.calls[query]) for cost, stand_in in zip(row, stand_ins, strict=True)]
        for query, row in ranked(loaded, stand_ins, first_stage, advance).items()
    }
    return Simulation(costs, [list(stand_in.strata.values()) for stand_in in stand_ins])


def open_rule(rule: Rule, run: Run, grades: Grades | None, seed: int) -> Backend:
    """Return the backend that answers by a rule about the candidates of a run."""
    relevance = cast("Grades", _perceived(run, grades, seed) if rule == "likely" else {})
    return api.open_model({"backend": "simulated", **RULES[rule]}, grades=relevance, seed=seed)


def _perceived(run: Run, grades: Grades | None, seed: int) -> dict[str, dict[str, float]]:
    perceived = {}
    for query, hits in run.items():
        dice = random.Random(f"{seed}|{query}")  # noqa: S311
        judged = grades.get(query, {}) if grades else None
        perceived[query] = {
            doc: (-PER_RANK * math.log(rank) if judged is None else judged.get(doc, 0)) + dice.gauss(0, DEVIATION)
            for rank, (doc, _) in enumerate(hits, 1)
        }
    return perceived


class StandIn(Backend):
    """A rule that answers in a model's place and counts what the model would be asked.

    Requests with a key in `keys` are no calls; with None, all are. Keys and forms of prompts are the model's.
    """

    remembers = False  # so that it receives every ask, not only those that are not in the ledger

    def __init__(self, rule: Backend, model: Backend, keys: set[bytes] | None, seed: int) -> None:
        super().__init__()
        self.rule, self.model = rule, model
        self.architecture, self.identity, self.simulated = model.architecture, model.identity, model.simulated
        self.group_scores = model.group_scores
        self.strata: dict[tuple[AskKind, str | None], Stratum] = {}
        self.calls: Counter[str] = Counter()  # by query
        self._keys = keys
        self._dice = random.Random(seed)  # noqa: S311

    def submit(self, requests: Sequence[Request]) -> None:
        """Count the requests and sample them: each of a stratum with the same probability."""
        for request in requests:
            kind = (request.ask.kind, request.ask.template)
            if kind not in self.strata:
                self.strata[kind] = Stratum(request.ask.kind, self._note(request))
            stratum = self.strata[kind]
            stratum.asks += 1
            place = self._dice.randrange(stratum.asks)
            if len(stratum.sample) < SAMPLE:
                stratum.sample.append(request)
            elif place < SAMPLE:
                stratum.sample[place] = request
            if self._keys is None or request.key not in self._keys:
                self.calls[request.query.id] += 1
            if self._keys is not None:
                self._keys.add(request.key)
        self.rule.submit(requests)

    def _note(self, request: Request) -> str:
        """Return a note of the greatest length that the model may write; empty if a simulated model writes it."""
        if request.ask.kind != "write" or self.simulated:
            return ""
        length = self.model.tokens.answer_tokens(request) if self.model.tokens else None
        length = length or request.terms.decoding.max_new_tokens or 0
        return f"{request.prompt.name} {FILLER * length}".strip()

    def collect(self) -> Answered:
        """Answer all that waits."""
        notes = {kind: stratum.note for kind, stratum in self.strata.items()}
        answered = self.rule.collect()
        return [(r, Reply(text=note) if (note := notes[r.ask.kind, r.ask.template]) else x) for r, x in answered]
