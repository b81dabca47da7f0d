"""A few queries, ranked for real: what they cost is the best estimate of what all will."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from ..rerankers import api
from ..rerankers.answers.reading import Reply
from ..rerankers.backends.base import Backend, Grades, Request
from ..rerankers.cascade import Cascade, Stage
from ..rerankers.ledger import Ledger
from ..rerankers.types import Candidates, Cost
from .configs.load import Loaded


@dataclass(frozen=True, slots=True)
class Figure:
    """What is estimated of a cost, all queries together, and between what it may well lie. Null where not known."""

    total: float | None
    low: float | None
    high: float | None


UNKNOWN = Figure(None, None, None)


@dataclass(frozen=True, slots=True)
class Trial:
    """What some queries cost with the real models."""

    costs: Mapping[str, tuple[Cost, ...]]
    """Query id → a cost a stage."""

    seconds: tuple[float, ...]
    """How long each stage took, all of these queries together."""

    loading: tuple[float, ...]
    """How long each stage's first reply took, asked for beforehand, for which its model was loaded if need be."""


def run(
    loaded: Loaded,
    queries: Iterable[Candidates],
    grades: Grades | None,
    first_asks: Sequence[Sequence[Request]],
    on_answers: Callable[[int], None],
) -> Trial:
    """Rank these queries as a run of the config would; nothing is written.

    `first_asks` are asked before, a list a stage: models are loaded by them. Raises `BackendError` where one fails.
    """
    with ExitStack() as stack:
        clocks = _opened(loaded, grades, stack)
        loading = [clock.answering(asks) for clock, asks in zip(clocks, first_asks, strict=True)]
        stages = [Stage(*each) for each in zip(loaded.rankers, clocks, (s.depth for s in loaded.stages), strict=True)]
        cascade = Cascade(
            stages, stack.enter_context(closing(Ledger(None))), pooled=loaded.config.schedule == "throughput"
        )
        cascade.on_answers = on_answers
        begun = time.perf_counter()
        costs = {ranked.cost.query_id: ranked.costs for ranked in cascade.rank(queries)}
        besides = time.perf_counter() - begun - sum(clock.seconds for clock in clocks)
    asks_of = [sum(each[number].asks for each in costs.values()) for number in range(len(clocks))]
    shares = [besides * own / max(sum(asks_of), 1) for own in asks_of]
    seconds = tuple(clock.seconds + share for clock, share in zip(clocks, shares, strict=True))
    return Trial(costs, seconds, tuple(loading))


def _opened(loaded: Loaded, grades: Grades | None, stack: ExitStack) -> list[_Clock]:
    """The model of each stage; one that several of them name is opened once."""
    opened: list[tuple[Mapping[str, Any], Backend]] = []
    clocks = []
    for given in loaded.stages:
        section = given.model or {}
        model = next((each for known, each in opened if known == section), None)
        if model is None:
            model = stack.enter_context(closing(api.open_model(section, grades=grades, seed=loaded.config.seed)))
            opened.append((section, model))
        clocks.append(_Clock(model))
    return clocks


class _Clock(Backend):
    """A backend, and the seconds that were spent waiting for it."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.seconds = 0.0
        self.architecture, self.identity = backend.architecture, backend.identity
        self.simulated, self.remembers = backend.simulated, backend.remembers
        self.config, self.price = backend.config, backend.price
        self.group_scores = backend.group_scores

    def answering(self, requests: Sequence[Request]) -> float:
        """How long requests take that are asked beforehand; their time is not counted again."""
        self.submit(requests)
        answered = 0
        while answered < len(requests):
            answered += len(self.collect())
        spent, self.seconds = self.seconds, 0.0
        return spent

    @property
    def details(self) -> Mapping[str, object]:
        return self.backend.details

    def submit(self, requests: Sequence[Request]) -> None:
        begun = time.perf_counter()
        self.backend.submit(requests)
        self.seconds += time.perf_counter() - begun

    def collect(self) -> list[tuple[Request, Reply]]:
        begun = time.perf_counter()
        replies = self.backend.collect()
        self.seconds += time.perf_counter() - begun
        return replies

    def close(self) -> None:
        self.backend.close()


def scaled(measured: Sequence[float], judged: Sequence[float], judged_total: float, queries: int) -> Figure:
    """What all queries will cost, given some that were measured and what a judge made of these and of all.

    The ratio estimator of sampling theory, low and high by Student's t at 95 %: of few queries little is known, of one
    of several nothing.
    """
    from scipy.stats import t

    count = len(measured)
    if not sum(judged):
        judged, judged_total = [1.0] * count, float(queries)
    ratio = sum(measured) / sum(judged)
    total = ratio * judged_total
    if count == 1 < queries:
        return Figure(total, None, None)
    residuals = sum((found - ratio * thought) ** 2 for found, thought in zip(measured, judged, strict=True))
    error = queries * math.sqrt(residuals / max(count - 1, 1) / count * (1 - count / queries))
    span = error * float(t.ppf(0.975, max(count - 1, 1)))
    return Figure(total, max(total - span, 0.0), total + span)
