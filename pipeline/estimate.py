"""What a run will cost, before it is run: asks, calls, rounds, tokens, FLOPs, and the time on this machine.

Each method is driven over the real candidates with simulated answers in the model's place. Counts that do not depend
on the answers are those of the run; others are an estimate. Tokens and FLOPs are the means over a sample of the
requests, as the model's own tokenizer counts them, times the asks; notes that a model would write are stood in for by
short ones. Time is what a part of the sample takes the real model, scaled by prompt tokens to all calls.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from itertools import islice

from ..rerankers import api
from ..rerankers.backends import Backend, Grades, Request
from ..rerankers.cascade import Cascade
from ..rerankers.cascade import Stage as CascadeStage
from ..rerankers.errors import InputError
from ..rerankers.ledger import Ledger
from ..rerankers.prompts.answers import Reply
from ..rerankers.types import Candidates, Cost, plus
from .config import Loaded
from .progress import Advance, Listener
from .prompt_preview import open_without_weights
from .request_sizes import seconds_per_token, sizes
from .retrieve import retrieve

SAMPLE = 200
"""So many of a stage's requests are tokenised, and at most answered by the real model."""

COMPARED = 10
"""On so many queries the counts under another judge are compared, to tell whether they depend on the answers."""

COUNTS = ("asks", "calls", "rounds")
"""What is counted while the judges answer; calls are those that are left when equal asks are one."""

FIGURES = (*COUNTS, "prompt_tokens", "completion_tokens", "flops", "seconds")
"""What is estimated; completion tokens are an upper bound."""

Figures = dict[str, float | None]
"""Each of `FIGURES` over all queries; null where it is not known: without a tokenizer, a model's shape, or a probe."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What a stage will cost."""

    method: str
    exact: tuple[str, ...]
    """The counts that were the same under two judges; none where unread answers are asked for again."""

    asks_inverse: float
    """Asks a query under inverse answers, the other judge's, over the first queries."""

    figures: Figures
    corrections: Mapping[str, float]
    """FLOPs that the published estimate leaves out, by name; nothing where the model's shape is not known."""

    sampled: int
    """How many requests were tokenised."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an experiment will cost, stage by stage."""

    name: str
    queries: int
    judge: str
    """The rule whose answers stood in for the model's."""

    stages: tuple[StageEstimate, ...]

    @property
    def total(self) -> Figures:
        """All stages together."""
        return {name: reduce(plus, [stage.figures[name] for stage in self.stages]) for name in FIGURES}


def estimate(loaded: Loaded, probe_seconds: float, listener: Listener) -> Estimate:
    """What a run of the config would cost; the real models are asked for so many seconds a stage, not at all for 0.

    Raises `InputError` where the config, its data or a model's tokenizer is missing, and `BackendError` where a model
    fails.
    """
    if probe_seconds < 0:
        raise InputError(f"--probe-seconds {probe_seconds:g}: a time is 0 or more")
    first_stage = retrieve(loaded, listener)
    grades, seed = first_stage.dataset.qrels(), loaded.config.seed
    judge = "oracle" if grades else "rel"
    models = [open_without_weights(stage, grades, seed) for stage in loaded.stages]
    judges = [_Judge(judge, model, grades, seed) for model in models]
    with listener.task("simulating", len(first_stage.run)) as advance:
        costs = _driven(loaded, judges, _counted(first_stage, advance))
    others = [_Judge("inverse", model, grades, seed) for model in models]
    compared = _driven(loaded, others, islice(first_stage, COMPARED))
    found = []
    for number, (ranker, given) in enumerate(zip(loaded.rankers, loaded.stages, strict=True)):
        own, sample = [each[number] for each in costs.values()], judges[number].sample
        pairs = [(costs[query][number], each[number]) for query, each in compared.items()]
        counts = {name: sum(getattr(cost, name) for cost in own) for name in COUNTS}
        figures: Figures = dict.fromkeys(FIGURES) | counts
        means, more = sizes(sample, models[number])
        figures |= {name: mean * counts["asks"] for name, mean in means.items()}
        if probe_seconds and means:
            model = api.open_model(given.model or {}, grades=grades, seed=seed)
            with listener.task("asking the model", len(sample)) as advance:
                rate = seconds_per_token(model, sample, probe_seconds, advance)
            figures["seconds"] = rate * means["prompt_tokens"] * counts["calls"]
        found.append(
            StageEstimate(
                method=ranker.method.name,
                exact=() if ranker.options.on_unparsed == "retry" else _same(pairs),
                asks_inverse=sum(other.asks for _, other in pairs) / len(pairs),
                figures=figures,
                corrections={name: mean * counts["asks"] for name, mean in more.items()},
                sampled=len(sample) if means else 0,
            )
        )
    return Estimate(loaded.config.name, len(costs), judge, tuple(found))


class _Judge:
    """A rule that answers in a model's place, on the model's terms; it keeps a seeded sample of what it was asked."""

    details: Mapping[str, object] = {}

    def __init__(self, answers: str, model: Backend, grades: Grades | None, seed: int) -> None:
        self.rule = api.open_model({"backend": "simulated", "answers": answers}, grades=grades, seed=seed)
        self.architecture = model.architecture
        # Keys are the model's: what is one call to it is one here.
        self.identity, self.simulated, self.remembers = model.identity, model.simulated, model.remembers
        self.sample: list[Request] = []
        self._seen = 0
        self._dice = random.Random(seed)  # noqa: S311

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests to answer; each has the same chance to be in the sample."""
        for request in requests:
            self._seen += 1
            place = self._dice.randrange(self._seen)
            if len(self.sample) < SAMPLE:
                self.sample.insert(place, request)
            elif place < SAMPLE:
                self.sample[place] = request
        self.rule.submit(requests)

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer what waits."""
        return self.rule.collect()

    def close(self) -> None:
        """Nothing is held."""


def _driven(loaded: Loaded, judges: Sequence[_Judge], queries: Iterable[Candidates]) -> dict[str, tuple[Cost, ...]]:
    """What each query costs in each stage when the judges answer."""
    rankers = zip(loaded.rankers, judges, loaded.stages, strict=True)
    stages = [CascadeStage(ranker, judge, given.depth) for ranker, judge, given in rankers]
    with closing(Ledger(None)) as ledger:
        cascade = Cascade(stages, ledger, pooled=loaded.config.schedule == "throughput")
        return {ranked.cost.query_id: ranked.costs for ranked in cascade.rank(queries)}


def _counted(queries: Iterable[Candidates], advance: Advance) -> Iterable[Candidates]:
    for number, candidates in enumerate(queries, 1):
        yield candidates
        advance(number)


def _same(pairs: Sequence[tuple[Cost, Cost]]) -> tuple[str, ...]:
    """The counts that are the same in both costs of every query."""
    return tuple(name for name in COUNTS if all(getattr(one, name) == getattr(other, name) for one, other in pairs))
