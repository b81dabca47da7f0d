"""Estimate what a run will cost before it is run: asks, calls, rounds, tokens, FLOPs, US dollars and seconds.

Counts are those of ranking the real candidates with simulated answers (`simulation`). Tokens, FLOPs and US dollars
are the means of a sample of the prompts, tokenized, times the asks. Only `probe_queries` asks the models: so many
queries are ranked with them, and what these took, seconds included, is scaled up to all in proportion to the counts.
"""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice
from typing import Any

from ...rerankers import flops
from ...rerankers.backends._tokens.tokens import Tokens
from ...rerankers.backends.base import Backend, Request, Setting, closed_after
from ...rerankers.errors import InputError
from ...rerankers.flops import Shape
from ...rerankers.models import KeptModels
from ...rerankers.types import plus
from ..configs.load import Loaded
from ..first_stage.retrieve import FirstStage, retrieve
from ..io.progress import Listener
from ..run.plan import open_models
from .simulation import RULES, Costs, Simulation, Stratum, ranked, simulate

COMPARED = 10  # queries on which the counts under the other rules are compared with the main estimate

COUNTS = ("asks", "calls", "rounds")

SIZES = ("prompt_tokens", "completion_tokens", "flops")

FIGURES = (*COUNTS, *SIZES, "usd", "seconds")

GROWS_WITH = {"calls": "calls", "rounds": "rounds"}  # proportional to; all others to asks

Figure = Sequence[float | None]
"""An estimated cost of all queries together, and the range in which it is expected: total, low, high; None: unknown."""

Ranges = Mapping[str, tuple[float, float]]
"""Count → (min, max) ratio to the main estimate under the other rules; a count that is exact is missing."""

Content = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Trial:
    """Costs of some queries with the real models, by query and stage; the seconds of all, and those to load models."""

    costs: Costs
    seconds: float
    loading: float


def estimate(loaded: Loaded, probe_queries: int, listener: Listener) -> Content:
    """Return what a run of the config would cost, scaled up from `probe_queries` of its queries unless that is 0.

    It is JSON, as `r2llm estimate --json` prints it: `tried` queries were ranked with the real models, and simulated
    answers followed the `qrels`, the `first_stage`, or the simulated `model` itself, as `judged_by` says. Of a stage,
    `exact` names the counts that no rule changed, none if unread answers are asked for again; if it is `bounded`,
    completion tokens, and so FLOPs and US dollars, are upper bounds; `sampled` prompts were tokenized. Seconds are told
    of all stages together.

    Raises `InputError` if the config, its data or a model's tokenizer is missing, and `BackendError` if a model fails.
    """
    if probe_queries < 0:
        raise InputError(f"--probe-queries {probe_queries}: the number of queries must be 0 or more")
    if probe_queries and any(options.recorded for options in loaded.models):
        raise InputError("--probe-queries: recorded answers serve one whole run; leave it out to count a replay's asks")
    first_stage = retrieve(loaded, listener)
    run, grades = first_stage.run, first_stage.dataset.qrels() or None
    models = open_models(loaded, Setting(loaded.config.seed, grades, weights=False), KeptModels())
    try:
        simulated = all(options.simulated for options in loaded.models)
        others: Iterable[Simulation] = ()
        with listener.task("simulating, asks", None) as advance:
            simulation = simulate(loaded, models, "likely", first_stage, advance)
            if not simulated:
                some = _part(first_stage, islice(run, COMPARED))
                others = [simulate(loaded, models, rule, some, advance) for rule in RULES if rule != "likely"]
        trial = _trial(loaded, first_stage, simulation, probe_queries, listener) if probe_queries else None
        stages = [_stage(loaded, n, simulation, others, model, trial) for n, model in enumerate(models)]
    finally:
        for model in dict.fromkeys(models):
            with suppress(InputError):  # recorded answers are left unused
                model.close()
    totals: dict[str, Figure] = {
        name: [reduce(plus, (stage["costs"][name][end] for stage in stages)) for end in ("total", "low", "high")]
        for name in FIGURES
    }
    if trial:
        times = _times(trial, simulation, "calls", range(len(models)))
        totals["seconds"] = trial.seconds * times + trial.loading, None, None
    return {
        "name": loaded.config.name,
        "queries": len(run),
        "tried": len(trial.costs) if trial else 0,
        "judged_by": "model" if simulated else "qrels" if grades else "first_stage",
        "costs": {name: _cost(figure, len(run)) for name, figure in totals.items()},
        "stages": stages,
    }


def _cost(figure: Figure, queries: int) -> dict[str, float | None]:
    total, low, high = figure
    return {"mean": None if total is None else total / queries, "total": total, "low": low, "high": high}


def _part(first_stage: FirstStage, queries: Iterable[str]) -> FirstStage:
    return replace(first_stage, run={query: first_stage.run[query] for query in queries})


def _values(costs: Costs, stage: int, name: str, queries: Iterable[str] | None = None) -> list[Any]:
    """Return a cost in a stage of each of these queries, or of all."""
    return [getattr(costs[query][stage], name) for query in (costs if queries is None else queries)]


def _ranges(main: Simulation, others: Iterable[Simulation], stage: int) -> Ranges:
    ratios: dict[str, list[float]] = {}
    for other in others:
        for name in COUNTS:
            theirs, ours = _values(other.costs, stage, name), _values(main.costs, stage, name, other.costs)
            if theirs != ours:
                ratios.setdefault(name, [1.0]).append(sum(theirs) / max(sum(ours), 1))
    return {name: (min(values), max(values)) for name, values in ratios.items()}


def _stage(
    loaded: Loaded,
    number: int,
    simulation: Simulation,
    others: Iterable[Simulation],
    model: Backend,
    trial: _Trial | None,
) -> Content:
    ranker, strata, queries = loaded.rankers[number], simulation.strata[number], len(simulation.costs)
    ranges, sizes = _ranges(simulation, others, number), dict[str, float]()
    retried = ranker.options.on_unparsed == "retry" and not model.simulated
    exact = () if retried else tuple(name for name in COUNTS if name not in ranges)
    totals: dict[str, float | None] = {name: sum(_values(simulation.costs, number, name)) for name in COUNTS}
    if model.tokens and loaded.models[number].asks_model:
        sizes = _summed(_sizes(stratum, model.tokens, model.shape) for stratum in strata)
    if sizes:
        usd = model.usd(round(sizes["prompt_tokens"]), round(sizes["completion_tokens"]))
        totals |= sizes | {"usd": usd}
    share = 1.0
    if trial:
        simulated_asks = totals["asks"] or 0.0
        for name in [name for name in FIGURES[:-1] if name not in exact]:  # seconds are told of all stages together
            values = _values(trial.costs, number, name)
            times = _times(trial, simulation, GROWS_WITH.get(name, "asks"), [number])
            totals[name] = None if None in values else sum(values) * times
        share = (totals["asks"] or 0.0) / max(simulated_asks, 1.0)
        ranges = ranges if len(trial.costs) < queries else {}
    figures = {name: _ranged(totals.get(name), ranges.get(GROWS_WITH.get(name, "asks"))) for name in FIGURES}
    left_out = {name: share * size for name, size in sizes.items() if name not in SIZES}
    return {
        "method": ranker.method.name,
        "exact": exact,
        "bounded": bool(sizes) and not trial and any(r.generates for s in strata for r in s.sample),
        "sampled": sum(len(stratum.sample) for stratum in strata) if sizes else 0,
        "costs": {name: _cost(figure, queries) for name, figure in figures.items()},
        "flops_left_out": {name: {"mean": size / queries, "total": size} for name, size in left_out.items()},
    }


def _times(trial: _Trial, simulation: Simulation, count: str, stages: Iterable[int]) -> float:
    """Return how often the cost of the tried queries is that of all, by a simulated count in these stages."""
    costs = simulation.costs
    every, tried = (sum(getattr(costs[q][n], count) for q in of for n in stages) for of in (costs, trial.costs))
    return every / tried if tried else len(costs) / len(trial.costs)


def _ranged(total: float | None, ratios: tuple[float, float] | None) -> Figure:
    low, high = ratios or (1.0, 1.0)
    return (None, None, None) if total is None else (total, low * total, high * total)


def _sizes(stratum: Stratum, tokens: Tokens, shape: Shape | None) -> dict[str, float]:
    """Return the tokens, FLOPs and corrections of all asks of a stratum, by the means of its sample."""
    sums = _summed(_size(request, tokens, shape) for request in stratum.sample)
    return {name: size * stratum.asks / len(stratum.sample) for name, size in sums.items()}


def _size(request: Request, tokens: Tokens, shape: Shape | None) -> dict[str, float]:
    """Return the tokens, FLOPs and corrections of a request; if it generates, of the longest answer allowed."""
    text, ids = tokens.prompt(request)
    target = len(tokens.target(request)) if request.prompt.target else 0
    generates = request.generates
    prompt, completion = len(ids) + target, tokens.answer_tokens(request) if generates else 0
    size: dict[str, float] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if shape is None:
        return size
    passes = 1 if generates else flops.readings(request.prompt, request.ask)
    size["flops"] = flops.of_answer(shape, prompt, completion, passes)
    answers = [target or max(completion, 1)]
    if not generates and not target and request.prompt.answer.scored == "whole":
        answers = [len(label) for label in tokens.label_ids(request, text)]
    return size | _summed(flops.corrections(shape, len(ids), answer) for answer in answers)


def _summed(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _trial(loaded: Loaded, first_stage: FirstStage, simulation: Simulation, count: int, listener: Listener) -> _Trial:
    """Rank so many queries, drawn at random, with the real models; nothing is written."""
    queries, seed = list(first_stage.run), loaded.config.seed
    models = open_models(loaded, Setting(seed, first_stage.dataset.qrels() or None), KeptModels())
    chosen = set(random.Random(seed).sample(queries, min(count, len(queries))))  # noqa: S311
    with closed_after(dict.fromkeys(models)), listener.task("ranking, asks", None) as advance:
        begun = time.perf_counter()
        # The first request of a stage, asked beforehand, loads its model.
        for model, strata in zip(models, simulation.strata, strict=True):
            if sample := next((stratum.sample[:1] for stratum in strata), []):
                model.submit(sample)
                model.collect()
        loading = time.perf_counter() - begun
        costs = ranked(loaded, models, _part(first_stage, (query for query in queries if query in chosen)), advance)
        return _Trial(costs, time.perf_counter() - begun - loading, loading)
