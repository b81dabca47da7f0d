"""Sensitivity to the initial order: runs that differ in `first_stage.order` and `first_stage.seed` alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev

from ...rerankers.errors import InputError
from ..io.tables import Table, marked, number
from .comparison import likeness
from .replays import scores
from .runs import Run, flat, without

SAME = ("name", "first_stage.order", "first_stage.seed")
"""Keys in which runs of one method may differ."""


@dataclass(frozen=True)
class Sensitivity:
    """Sensitivity of one measure of a method to the order in which candidates are presented: means over queries.

    `mean` and `sd` are of the shuffles, `drop` is from the given order to that mean, `query_sd` is the mean over
    queries of the standard deviation over shuffles. `tau` and `overlap` (@10) are means over pairs of shuffles'
    outputs: 1 is insensitive. None where there is no run of an order, or fewer than two shuffles. `asks` are those a
    query of each run, by order. `tied` documents have the score of another one of their query and so keep the
    presented order; None for methods without scores, or without the answers.
    """

    name: str
    measure: str
    given: float | None
    inverse: float | None
    shuffles: tuple[float, ...]
    mean: float | None
    sd: float | None
    drop: float | None
    query_sd: float | None
    tau: float | None
    overlap: float | None
    asks: Mapping[str, tuple[float, ...]]
    tied: int | None
    simulated: bool


def sensitivity(runs: Sequence[Run]) -> tuple[list[Sensitivity], list[str]]:
    """Return a row a method and measure, and notes about what is left out.

    Raises `InputError` if no two runs differ in their order alone.
    """
    rows, notes = list[Sensitivity](), list[str]()
    for name, group in by_method(runs, notes).items():
        orders = {order: [run for run in group if order_of(run) == order] for order in ("given", "inverse", "shuffle")}
        repeated = [order for order in ("given", "inverse") if len(orders[order]) > 1]
        if len(group) < 2 or repeated:
            why = f"there are several runs in {repeated[0]} order" if repeated else f"{group[0].name} is its only run"
            notes.append(f"{name}: left out: {why}")
            continue
        tied = _tied(name, group[0], notes)
        names = [name for name in group[0].measures if not name.startswith("Judged")]
        rows += [
            _row(name, measure, orders, tied) for measure in names if all(measure in run.measures for run in group)
        ]
    if not rows:
        remedy = "r2llm sweep grids/tutorial/sensitivity makes such runs"
        raise InputError(f"no two runs differ in first_stage.order and first_stage.seed alone; {remedy}")
    return rows, notes


def by_method(runs: Iterable[Run], notes: list[str]) -> dict[str, list[Run]]:
    """Return the reranked runs that differ in their order alone together, under names that tell these groups apart."""
    groups, unranked = dict[str, list[Run]](), list[str]()
    for run in runs:
        if run.reranked:
            groups.setdefault(json.dumps(without(run.config, SAME), sort_keys=True), []).append(run)
        else:
            unranked.append(run.name)
    if unranked:
        notes.append(f"{len(unranked)} runs left out: no config tells how they were reranked ({', '.join(unranked)})")
    named = {}
    for group in groups.values():
        config, method = flat(group[0].config), method_of(group[0])
        alike = [without(other[0].config, SAME) for other in groups.values() if method_of(other[0]) == method]
        keys = dict.fromkeys(key for other in alike for key in other)
        differing = [key for key in keys if any(other.get(key) != config.get(key) for other in alike)]
        named[", ".join([method, *(f"{key}={config.get(key)}" for key in differing)])] = group
    return named


def order_of(run: Run) -> str:
    """Return the order in which a run's candidates were presented: given, inverse or shuffle."""
    return str(run.config.get("first_stage", {}).get("order", "given"))


def method_of(run: Run) -> str:
    """Return the method's name, those of a cascade's stages joined by `>`."""
    return " > ".join(str(stage["ranker"]["method"]) for stage in run.config.get("stages") or [run.config])


def _row(name: str, measure: str, orders: Mapping[str, Sequence[Run]], tied: int | None) -> Sensitivity:
    runs = [run for group in orders.values() for run in group]
    queries = list(dict.fromkeys(query for run in runs for query in run.measures[measure]))
    values = {
        order: [[run.measures[measure].get(query, 0.0) for query in queries] for run in group]
        for order, group in orders.items()
    }
    given, inverse = (fmean(values[order][0]) if values[order] else None for order in ("given", "inverse"))
    means = tuple(map(fmean, values["shuffle"]))
    mean, several = fmean(means) if means else None, len(means) > 1
    shuffled = orders["shuffle"]
    alike = (
        likeness(shuffled, list(combinations((run.name for run in shuffled), 2)), queries).values() if several else ()
    )
    taus = [one.tau for one in alike if one.tau is not None]
    return Sensitivity(
        name=name,
        measure=measure,
        given=given,
        inverse=inverse,
        shuffles=means,
        mean=mean,
        sd=stdev(means) if several else None,
        drop=None if given is None or mean is None else given - mean,
        query_sd=fmean(map(stdev, zip(*values["shuffle"], strict=True))) if several else None,
        tau=fmean(taus) if taus else None,
        overlap=fmean(one.overlap for one in alike) if several else None,
        asks={order: tuple(fmean(run.costs["asks"].values()) for run in group) for order, group in orders.items()},
        tied=tied,
        simulated=any(run.simulated for run in runs),
    )


def _tied(name: str, run: Run, notes: list[str]) -> int | None:
    """Return the number of documents with tied scores in a run of one stage."""
    try:
        values = scores(run)
    except InputError as error:
        notes.append(f"{name}: tied scores are not counted: {error}")
        return None
    return None if values is None else sum(row.count(score) > 1 for row in values.values() for score in row)


def table(rows: Sequence[Sensitivity]) -> Table:
    """Return the table that people read."""
    header = ["method", "measure", "given", "inverse", "shuffled", "sd", "min-max", "shuffles", "drop", "sd of a query"]
    header += ["τ", "overlap@10", "asks", "tied scores"]
    lines = [
        [
            row.name + (" (simulated)" if row.simulated else ""),
            row.measure,
            *map(number, (row.given, row.inverse, row.mean, row.sd)),
            f"{min(row.shuffles):.4f}-{max(row.shuffles):.4f}" if row.shuffles else "-",
            str(len(row.shuffles)),
            *map(number, (row.drop, row.query_sd, row.tau, row.overlap)),
            " ".join(f"{order} {fmean(asks):.1f}" for order, asks in row.asks.items() if asks),
            "-" if row.tied is None else str(row.tied),
        ]
        for row in rows
    ]
    caption = "drop: from the given order to the mean of the shuffles; τ and overlap@10: between shuffles' outputs."
    return Table("orders", header, lines, marked(caption, [row.name for row in rows if row.simulated]))
