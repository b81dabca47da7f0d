"""What a run will cost, before it is run: asks, calls, rounds, tokens, FLOPs, US dollars, and the time on this machine.

Each method is driven over the real candidates with simulated answers in the model's place. Counts that do not depend
on the answers are those of the run; others are an estimate, with the range that other answers would give. Tokens and
FLOPs are the means over a sample of the requests, as the model's own tokenizer counts them, times the asks. Time is
what the real model takes for a part of the sample, times the calls, what it took to load, and what all else took. Where
some queries are ranked for real, all figures are theirs, scaled up.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import reduce
from itertools import islice

from ..rerankers import api
from ..rerankers.backends.base import Backend, Grades, ModelOptions
from ..rerankers.cascade import Cascade
from ..rerankers.cascade import Stage as CascadeStage
from ..rerankers.errors import InputError
from ..rerankers.ledger import Ledger
from ..rerankers.scheduler import IN_FLIGHT
from ..rerankers.types import Candidates, Cost, plus
from . import request_sizes, trial
from .configs.load import Loaded
from .first_stage.retrieve import FirstStage, retrieve
from .io.progress import Advance, Listener
from .judges import OTHER_RULES, Judge, Rule, Stratum, open_rule
from .preview import open_without_weights
from .request_sizes import Answered, Sizes
from .trial import UNKNOWN, Figure, Trial

COMPARED = 10
"""On so many queries the counts under other rules are compared, to tell whether they depend on the answers."""

PROBE_SECONDS = 10.0
"""How long a model on this machine is asked unless told; a server, which may charge for it, is not."""

COUNTS = ("asks", "calls", "rounds")
"""What is counted while a judge answers; calls are those that are left when equal asks are one."""

FIGURES = (*COUNTS, "prompt_tokens", "completion_tokens", "flops", "usd", "seconds")
"""What is estimated."""

GOES_BY = {"calls": "calls", "rounds": "rounds", "seconds": "calls"}
"""The count that a figure grows with; the others grow with the asks."""

Figures = Mapping[str, Figure]
"""Each of `FIGURES`: null where it is not known, without a tokenizer, a model's shape, a price, or a probe."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is asked of the real models."""

    probe_seconds: float | None = None
    """For so long in each stage; 0: not at all; None: `PROBE_SECONDS`, and servers not at all."""

    probe_queries: int = 0
    """So many queries are ranked for real instead."""

    def __post_init__(self) -> None:
        if not 0 <= (self.probe_seconds or 0) < math.inf:
            raise InputError(f"--probe-seconds {self.probe_seconds:g}: a time is 0 or more, and ends")
        if self.probe_queries < 0:
            raise InputError(f"--probe-queries {self.probe_queries}: a number of queries is 0 or more")


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """What a stage will cost."""

    method: str
    exact: tuple[str, ...]
    """The counts that are the run's: the same under two rules, or those of a simulated model; none where answers of a
    real model that cannot be read are asked for again."""

    figures: Figures
    corrections: Mapping[str, float]
    """FLOPs that the published estimate leaves out, by name; nothing where the model's shape is not known."""

    bounded: bool
    """Whether completion tokens are the most there can be, and FLOPs and US dollars with them."""

    sampled: int
    """Of how many requests tokens and FLOPs are the means."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an experiment will cost, stage by stage."""

    name: str
    queries: int
    tried: int
    """How many of them were ranked for real."""

    judged_by: str
    """What the answers went by that stood in for the model's: `qrels`, the order of the `first_stage`, or the rule of a
    simulated `model` itself."""

    stages: tuple[StageEstimate, ...]

    @property
    def total(self) -> Figures:
        """All stages together."""
        rows = {name: [stage.figures[name] for stage in self.stages] for name in FIGURES}
        return {
            name: Figure(*(reduce(plus, each) for each in zip(*map(dataclasses.astuple, row), strict=True)))
            for name, row in rows.items()
        }


def estimate(loaded: Loaded, effort: Effort, listener: Listener) -> Estimate:
    """What a run of the config would cost.

    Raises `InputError` where the config, its data or a model's tokenizer is missing, and `BackendError` where a model
    fails.
    """
    if effort.probe_queries and any(options.recorded for options in loaded.models):
        raise InputError("--probe-queries: recorded answers are for one whole run; a replay costs nothing to try")
    first_stage = retrieve(loaded, listener)
    with closing(_Simulation(loaded, first_stage)) as simulation:
        with listener.task("simulating", len(first_stage.run)) as advance:
            judged = simulation.driven("likely", _counted(first_stage, advance))
        spans = simulation.spans(judged)
        tried = _tried(loaded, first_stage, judged, effort.probe_queries, listener) if effort.probe_queries else None
        stages = []
        for number, options in enumerate(loaded.models):
            seconds = 0.0 if tried else _probe_seconds(options, effort)
            stage = _Stage(loaded, number, judged, spans[number], simulation.models[number])
            answered = stage.asked(seconds, simulation.grades, listener) if seconds else {}
            stages.append(stage.estimate(answered, tried))
        queries, count = len(first_stage.run), len(tried.costs) if tried else 0
        return Estimate(loaded.config.name, queries, count, simulation.judged_by, tuple(stages))


def _probe_seconds(options: ModelOptions, effort: Effort) -> float:
    """How long the model of a stage is to be asked."""
    if not options.asks_model:
        return 0.0
    if effort.probe_seconds is not None:
        return effort.probe_seconds
    return 0.0 if options.remote else PROBE_SECONDS


def _counted(queries: Iterable[Candidates], advance: Advance) -> Iterable[Candidates]:
    for number, candidates in enumerate(queries, 1):
        yield candidates
        advance(number)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What queries cost when judges answer: counts by query in each stage, the judges, and the time it took."""

    counts: Mapping[str, Sequence[Mapping[str, int]]]
    judges: Sequence[Judge]
    seconds: float

    def of(self, number: int, name: str, queries: Iterable[str] | None = None) -> list[int]:
        """A count in a stage, of these queries or of all."""
        return [self.counts[query][number][name] for query in (self.counts if queries is None else queries)]


class _Simulation:
    """An experiment with judges in the place of its models."""

    def __init__(self, loaded: Loaded, first_stage: FirstStage) -> None:
        self.loaded = loaded
        self.first_stage = first_stage
        self.grades: Grades | None = first_stage.dataset.qrels() or None
        self.models = [open_without_weights(stage, self.grades, loaded.config.seed) for stage in loaded.stages]
        self.pooled = loaded.config.schedule == "throughput"
        self.simulated = all(options.simulated for options in loaded.models)
        self.judged_by = "model" if self.simulated else "qrels" if self.grades else "first_stage"

    def close(self) -> None:
        """Let go of the models."""
        for model in self.models:
            with suppress(InputError):  # recorded answers are left unused here
                model.close()

    def driven(self, rule: Rule, queries: Iterable[Candidates]) -> _Judged:
        """The queries, ranked by a rule. A simulated model is its own rule where the likely one is asked for."""
        begun, seed = time.perf_counter(), self.loaded.config.seed
        seen: set[bytes] = set()
        judges = []
        for model, options in zip(self.models, self.loaded.models, strict=True):
            itself = rule == "likely" and options.simulated
            answering = model if itself else open_rule(rule, self.first_stage.run, self.grades, seed)
            judges.append(Judge(answering, model, seen if self.pooled and model.remembers else None, seed))
        rankers = zip(self.loaded.rankers, judges, self.loaded.stages, strict=True)
        stages = [CascadeStage(ranker, judge, given.depth) for ranker, judge, given in rankers]
        with closing(Ledger(None)) as ledger:
            cascade = Cascade(stages, ledger, pooled=self.pooled)
            costs = {ranked.cost.query_id: ranked.costs for ranked in cascade.rank(queries)}
        counts = {query: [_counts(*each) for each in zip(own, judges, strict=True)] for query, own in costs.items()}
        return _Judged(counts, judges, time.perf_counter() - begun)

    def spans(self, judged: _Judged) -> list[dict[str, tuple[float, float]]]:
        """By what factors each stage's counts could be less and more, were the answers others; empty: not at all."""
        if self.simulated:
            return [{} for _ in judged.judges]
        some = list(islice(self.first_stage.run, COMPARED))
        part = dataclasses.replace(self.first_stage, run={query: self.first_stage.run[query] for query in some})
        factors: list[dict[str, list[float]]] = [{} for _ in judged.judges]
        for rule in OTHER_RULES:
            other = self.driven(rule, part)
            for number, found in enumerate(factors):
                for name in COUNTS:
                    theirs, ours = other.of(number, name, some), judged.of(number, name, some)
                    if theirs != ours:
                        found.setdefault(name, [1.0]).append(sum(theirs) / max(sum(ours), 1))
            if not any(factors):
                break
        return [{name: (min(each), max(each)) for name, each in found.items()} for found in factors]


def _counts(cost: Cost, judge: Judge) -> dict[str, int]:
    return {"asks": cost.asks, "calls": judge.calls[cost.query_id], "rounds": cost.rounds}


class _Stage:
    """One stage of the estimate in the making."""

    def __init__(
        self,
        loaded: Loaded,
        number: int,
        judged: _Judged,
        spans: Mapping[str, tuple[float, float]],
        model: Backend,
    ) -> None:
        self.ranker = loaded.rankers[number]
        self.given = loaded.stages[number]
        self.options = loaded.models[number]
        self.seed = loaded.config.seed
        self.in_flight = min(IN_FLIGHT, len(judged.counts)) if loaded.config.schedule == "throughput" else 1
        self.number = number
        self.loads = self.given.model not in [each.model for each in loaded.stages[:number]]
        """Whether it is the first stage with its model."""

        self.judged = judged
        self.spans = spans
        self.model = model
        self.strata: Sequence[Stratum] = list(judged.judges[number].strata.values())
        self.totals = {name: sum(judged.of(number, name)) for name in COUNTS}

    def asked(self, seconds: float, grades: Grades | None, listener: Listener) -> dict[int, Answered]:
        """What the real model answers of each stratum, in so many seconds for all of them.

        The notes that it writes take the place of those that stood in for them.
        """
        together = round(self.in_flight * self.totals["asks"] / max(self.totals["rounds"], 1))
        found: dict[int, Answered] = {}
        notes: dict[str, str] = {}
        with closing(api.open_model(self.given.model or {}, grades=grades, seed=self.seed)) as model:
            for number, stratum in enumerate(self.strata):
                stratum.sample = request_sizes.renoted(stratum.sample, notes)
                with listener.task("asking the model", len(stratum.sample)) as advance:
                    limit = seconds / len(self.strata)
                    found[number] = request_sizes.ask(model, stratum.sample, together, limit, advance)
                if stratum.filler:
                    notes[stratum.filler] = found[number].note
        return found

    def estimate(self, answered: Mapping[int, Answered], tried: Trial | None) -> StageEstimate:
        """The figures of this stage."""
        sizes = self._sizes(answered)
        figures = self._from_trial(tried) if tried else self._from_sample(sizes, answered)
        known = [(size, stratum) for size, stratum in zip(sizes, self.strata, strict=True) if size]
        names = known[0][0].corrections if known else ()
        asks = figures["asks"].total or 0.0  # a trial may have found them to be more or less than the judge
        share = asks / max(self.totals["asks"], 1)
        return StageEstimate(
            method=self.ranker.method.name,
            exact=self.exact,
            figures=figures,
            corrections={
                name: share * sum(size.corrections[name] * stratum.asks for size, stratum in known) for name in names
            },
            bounded=tried is None and any(size.bounded for size, _ in known),
            sampled=sum(size.requests for size, _ in known),
        )

    @property
    def exact(self) -> tuple[str, ...]:
        """The counts that are the run's."""
        again = self.ranker.options.on_unparsed == "retry" and not self.model.simulated
        return () if again else tuple(name for name in COUNTS if name not in self.spans)

    def _sizes(self, answered: Mapping[int, Answered]) -> list[Sizes | None]:
        if not self.options.asks_model:
            return [None] * len(self.strata)
        numbered = enumerate(self.strata)
        return [request_sizes.sizes(stratum.sample, self.model, answered.get(number)) for number, stratum in numbered]

    def _from_sample(self, sizes: Sequence[Sizes | None], answered: Mapping[int, Answered]) -> Figures:
        """The figures by what the judge was asked, and by the sizes and the time of a sample of it."""
        means: dict[str, list[float | None]] = {
            name: [None if size is None else getattr(size, name) for size in sizes]
            for name in ("prompt_tokens", "completion_tokens", "flops")
        }
        totals: dict[str, float | None] = dict(self.totals)
        for name, each in means.items():
            parts = [None if mean is None else mean * own.asks for mean, own in zip(each, self.strata, strict=True)]
            totals[name] = reduce(plus, parts) if parts else None
        totals["usd"] = self.model.usd(_whole(totals["prompt_tokens"]), _whole(totals["completion_tokens"]))
        if answered:
            besides = self.judged.seconds * self.totals["asks"] / max(self._all_asks, 1)
            asking = sum(self.strata[n].calls * each.seconds for n, each in answered.items())
            totals["seconds"] = answered[0].loading * self.loads + besides + asking
        return {name: self._spanned(name, totals.get(name)) for name in FIGURES}

    @property
    def _all_asks(self) -> int:
        stages = range(len(self.judged.judges))
        return sum(sum(self.judged.of(number, "asks")) for number in stages)

    def _spanned(self, name: str, total: float | None) -> Figure:
        """A figure, and what it would be with other answers."""
        if total is None:
            return UNKNOWN
        low, high = self.spans.get(GOES_BY.get(name, "asks"), (1.0, 1.0))
        return Figure(total, low * total, high * total)

    def _from_trial(self, tried: Trial) -> Figures:
        """The figures by what some queries cost for real."""
        queries, number = len(self.judged.counts), self.number
        figures = {}
        for name in FIGURES:
            by = GOES_BY.get(name, "asks")
            judged, judged_total = self.judged.of(number, by, tried.costs), float(self.totals[by])
            if name in self.exact:
                figures[name] = Figure(judged_total, judged_total, judged_total)
                continue
            if name == "seconds":
                asking = trial.scaled([tried.seconds[number]], [float(sum(judged))], judged_total, queries).total
                figures[name] = Figure(plus(asking, tried.loading[number]), None, None)
                continue
            values = [getattr(each[number], name) for each in tried.costs.values()]
            known = [float(value) for value in values if value is not None]
            whole = len(known) == len(values)
            figures[name] = trial.scaled(known, [float(n) for n in judged], judged_total, queries) if whole else UNKNOWN
        return figures


def _tried(loaded: Loaded, first_stage: FirstStage, judged: _Judged, count: int, listener: Listener) -> Trial:
    """What so many of the queries cost for real, drawn at random."""
    queries = list(first_stage.run)
    chosen = set(random.Random(loaded.config.seed).sample(queries, min(count, len(queries))))  # noqa: S311
    part = dataclasses.replace(first_stage, run={q: found for q, found in first_stage.run.items() if q in chosen})
    asks = [next((each.sample[:1] for each in judge.strata.values()), []) for judge in judged.judges]
    with listener.task("ranking", None) as advance:
        return trial.run(loaded, part, first_stage.dataset.qrels(), asks, lambda answered: advance(answered))


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
