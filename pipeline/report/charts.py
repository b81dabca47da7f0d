"""Charts as Vega-Lite specifications: one view each, in colours that the page's style sheet or `for_paper` defines."""

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..compare.comparison import Column, Comparison
from ..compare.positions import Positions
from ..compare.runs import Run
from ..compare.sensitivity import Sensitivity, method_of
from ..compare.tables import letter
from ..io.tables import SIMULATED, file_name, label, some

Json = dict[str, Any]

LIGHT = {"fg": "#1b1f24", "grid": "#e3e6ea", "line": "#8a929c", "warn": "#a33b00"}
LIGHT |= {"c1": "#0072B2", "c2": "#D55E00", "c3": "#007a5a", "c4": "#b0568f", "c5": "#8a6d00", "c6": "#3a87ad"}
LIGHT |= {"c7": "#5b4bb3", "c8": "#4d4d4d"}
DARK = {"fg": "#e6e8eb", "grid": "#343a42", "line": "#7d8792", "warn": "#ffb37a"}
DARK |= {"c1": "#56B4E9", "c2": "#E69F00", "c3": "#2fc79a", "c4": "#e59cc8", "c5": "#F0E442", "c6": "#8cc9e8"}
DARK |= {"c7": "#b5a8ff", "c8": "#c8c8c8"}
"""Colours by name; the eight of series are Okabe and Ito's, darker or lighter where the background asks for it."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")

LOG = {"type": "log", "nice": False, "padding": 18}

NARROW = 46
"""Characters of a line of a title, which fits into 400 pixels."""

WIDTH = 620
"""Pixels of a chart outside the page, and in it without JavaScript."""

STYLE = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {"labelColor": "var(--fg)", "titleColor": "var(--fg)", "gridColor": "var(--grid)"}
    # However narrow the page, long names leave a place for the plot and its legend.
    | {"labelLimit": {"expr": "isFinite(containerSize()[0]) ? min(320, containerSize()[0] - 190) : 320"}}
    | {"domainColor": "var(--line)", "tickColor": "var(--line)"},
    "legend": {"labelColor": "var(--fg)", "titleColor": "var(--fg)", "orient": "bottom", "columns": 2},
    "title": {"color": "var(--fg)", "subtitleColor": "var(--warn)", "anchor": "start", "fontSize": 13},
    "text": {"color": "var(--fg)"},
    "rule": {"color": "var(--line)"},
}


@dataclass(frozen=True)
class About:
    """A chart's words: the name of its files, its title and caption, and whether answers in it were simulated."""

    name: str
    title: str
    caption: str
    simulated: bool


@dataclass(frozen=True)
class Chart:
    """A chart, the name of its files, and what a reader is told about it."""

    name: str
    spec: Json
    caption: str


def for_paper(spec: Json) -> Json:
    """Return the specification in light colours on white, at a fixed width."""
    text = json.dumps(spec)
    for name, colour in LIGHT.items():
        text = text.replace(f"var(--{name})", colour)
    return {**json.loads(text), "width": WIDTH, "background": "white"}


def _chart(about: About, layers: Sequence[Json], height: int) -> Chart:
    heading = {"text": textwrap.wrap(about.title, NARROW), **({"subtitle": SIMULATED} if about.simulated else {})}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": heading,
        "description": f"{about.title}. {about.caption}",
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "layer": list(layers),
        "config": STYLE,
    }
    return Chart(about.name, spec, about.caption + (f" {SIMULATED.capitalize()}." if about.simulated else ""))


def _layer(mark: str, data: Sequence[Json], encoding: Json, **properties: Any) -> Json:
    return {"data": {"values": list(data)}, "mark": {"type": mark, **properties}, "encoding": encoding}


def quantity(field: str, title: str, **scale: Any) -> Json:
    """Return the axis of a number, which need not begin at 0 unless its scale says so."""
    scale = scale or {"zero": False}
    # Vega's own format has no decimals where all values are equal.
    axis = {"tickCount": 8} | ({} if "type" in scale else {"format": ".6~g"})
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _tip(points: Sequence[Json]) -> list[Json]:
    """Return what a mark tells of itself: all that is known of its point."""
    return [
        {"field": key, **({} if isinstance(value, str) else {"format": ".4~g"})}
        for key, value in (points[0] if points else {}).items()
    ]


def _series(names: Iterable[str]) -> Json:
    """Return the colour and shape of each series."""
    domain = list(dict.fromkeys(names))
    colours = [f"var(--c{number % len(SHAPES) + 1})" for number in range(len(domain))]
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(domain))]
    legend = {"title": None} if len(domain) > 1 else None
    return {
        channel: {"field": "series", "type": "nominal", "scale": {"domain": domain, "range": range_}, "legend": legend}
        for channel, range_ in (("color", colours), ("shape", shapes))
    }


def series_of(run: Run) -> str:
    """Return what a run's mark stands for: its method's family, `cascade`, or `no reranking`."""
    if not run.reranked:
        return "no reranking"
    return "cascade" if run.config.get("stages") else method_of(run).partition(".")[0]


def _points(comparison: Comparison, table: Column) -> list[Json]:
    return [
        {
            "run": run.name,
            "letter": letter(number),
            "series": series_of(run),
            "mean": table.means[run.name],
            "low": table.intervals[run.name].low,
            "high": table.intervals[run.name].high,
        }
        for number, run in enumerate(comparison.runs)
    ]


def means(comparison: Comparison, table: Column, *, log: bool = False) -> Chart:
    """Return the mean of each run in a measure or cost, with its interval, best or cheapest first."""
    points = sorted(_points(comparison, table), key=lambda point: point["mean"], reverse=not log)
    if log:
        points = [point | {"low": point["low"] or point["mean"]} for point in points if point["mean"] > 0]
    title = label(table.name)
    caption = f"Mean {title} over {len(comparison.queries)} queries with 95% intervals{_left_out(comparison, points)}"
    name = f"{'cost' if log else 'means'}-{file_name(table.name)}"
    about = About(name, f"{title} of each run", caption, bool(comparison.simulated))
    scale: Json = LOG if log else {}
    return dots(about, points, title, series=tuple(map(series_of, comparison.runs)), **scale)


def dots(
    about: About,
    points: Sequence[Json],
    axis: str,
    *,
    series: Sequence[str] = (),
    ticks: Sequence[Json] = (),
    **scale: Any,
) -> Chart:
    """Return a dot (`mean`) with its interval (`low` to `high`), if known, in a row for each `run`, as they are given.

    Colours are of `series`, or else of the points' own; `ticks` are single values in the same rows.
    """
    names = list(dict.fromkeys(point["run"] for point in points))
    y = {"field": "run", "type": "nominal", "title": None, "sort": names}
    x, spans = quantity("mean", axis, **scale), [point for point in points if "low" in point]
    colours = _series(series or [point["series"] for point in points])
    layers = [
        _layer("rule", spans, {"y": y, "x": quantity("low", axis, **scale), "x2": {"field": "high"}}),
        # Thousands of ticks need no label each for a screen reader: it would be two thirds of the picture's size.
        _layer("tick", ticks, {"y": y, "x": x, "tooltip": _tip(ticks)}, color="var(--c2)", opacity=0.7, aria=False),
        _layer("point", points, {"y": y, "x": x, "tooltip": _tip(points)} | colours, filled=True, size=70),
    ]
    return _chart(about, [layer for layer in layers if layer["data"]["values"]], 30 + 22 * len(names))


def spread(about: About, ticks: Sequence[Json], axis: str) -> Chart:
    """Return values in rows: a tick (`mean`) for each, a line over the range of each row, and a dot for its mean."""
    rows: dict[str, list[float]] = {}
    for tick in ticks:
        rows.setdefault(tick["run"], []).append(tick["mean"])
    points: list[Json] = [
        {"run": row, "series": "mean", "mean": fmean(values), "low": min(values), "high": max(values)}
        for row, values in rows.items()
    ]
    points.sort(key=lambda point: -point["mean"])
    return dots(about, points, axis, ticks=ticks)


def lines(about: About, points: Sequence[Json], x: Json, y: Json, of: str = "series") -> Chart:
    """Return a line for each value of `of` through its points, in the colour of its `series`."""
    both = _series(point["series"] for point in points)
    detail = {"field": of, "type": "nominal"}
    layers = [
        _layer("line", points, {"x": x, "y": y, "detail": detail, "color": both["color"]}, strokeWidth=2),
        _layer("point", points, {"x": x, "y": y, "tooltip": _tip(points)} | both, filled=True, size=55),
    ]
    return _chart(about, layers, 280)


def tradeoff(comparison: Comparison, measure: Column, cost: Column) -> Chart:
    """Return a measure against a cost, with the Pareto front: runs that no other run beats in both."""
    points = [
        point | {"cost": cost.means[point["run"]]}
        for point in _points(comparison, measure)
        if cost.means[point["run"]] > 0
    ]
    front, best = [], float("-inf")
    for point in sorted(points, key=lambda point: (point["cost"], -point["mean"])):
        if point["mean"] > best:
            front.append(point)
            best = point["mean"]
    x = quantity("cost", f"{label(cost.name)} a query", **LOG)
    y = quantity("mean", measure.name, zero=False, padding=12)
    known = {"tooltip": _tip(points)} | _series(map(series_of, comparison.runs))
    layers = [
        _layer("line", front, {"x": x, "y": y}, interpolate="step-after", color="var(--line)", strokeDash=[4, 3]),
        _layer("point", points, {"x": x, "y": y} | known, filled=True, size=80),
        _layer("text", points, {"x": x, "y": y, "text": {"field": "letter"}}, dx=9, dy=-6, fontSize=11),
    ]
    letters = ", ".join(point["letter"] for point in front)
    caption = f"Letters are those of the results table; dashed: the Pareto front ({letters})"
    caption += _left_out(comparison, points)
    title = f"{measure.name} against {label(cost.name)}"
    name = f"tradeoff-{file_name(measure.name)}-{file_name(cost.name)}"
    return _chart(About(name, title, caption, bool(comparison.simulated)), layers, 300)


def _left_out(comparison: Comparison, points: Sequence[Json]) -> str:
    """Return the end of a caption: which runs a logarithmic axis has no place for."""
    drawn = {point["run"] for point in points}
    missing = [run.name for run in comparison.runs if run.name not in drawn]
    return f"; not drawn, since it is 0: {some(missing)}." if missing else "."


def differences(comparison: Comparison, table: Column, reference: Run) -> Chart:
    """Return each query's difference to a reference run, in a row a run."""
    before = reference.measures[table.name]
    ticks = [
        {"run": run.name, "query": query, "mean": round(after.get(query, 0.0) - before.get(query, 0.0), 6)}
        for run in comparison.runs
        for after in [run.measures[table.name]]
        if run is not reference
        for query in comparison.queries
    ]
    title = f"Query by query against {reference.name}: {table.name}"
    caption = f"A tick is one of {len(comparison.queries)} queries; the dot is the mean."
    about = About(f"differences-{file_name(table.name)}", title, caption, bool(comparison.simulated))
    return spread(about, ticks, f"difference in {table.name}")


def orders(rows: Sequence[Sensitivity]) -> Chart:
    """Return a method's measure in the given and the inverse order, and in each shuffle."""
    kinds = ("given", "inverse", "shuffle", "mean of shuffles")
    points = [
        {"run": row.name, "series": kind, "mean": value}
        for row in rows
        for kind, values in zip(kinds, ((row.given,), (row.inverse,), row.shuffles, (row.mean,)), strict=True)
        for value in values
        if value is not None
    ]
    measure, simulated = rows[0].measure, any(row.simulated for row in rows)
    caption = "Dots of one row far apart: the method depends on the order in which candidates are presented."
    title = f"Sensitivity to the initial order: {measure}"
    return dots(About(f"orders-{file_name(measure)}", title, caption, simulated), points, measure)


def slots(row: Positions, number: int) -> Chart:
    """Return the share of choices, or the mean rank, of each slot of a method's prompts."""
    points: list[Json] = [
        {"slot": slot, "series": series, "value": value}
        for slot, each in enumerate(row.slots, 1)
        for series, value in (
            ("all asks", each.value),
            ("best document here", each.best),
            ("best document elsewhere", each.other),
            ("without any preference", row.uniform),
        )
        if value is not None
    ]
    x = {"field": "slot", "type": "ordinal", "title": "slot in the prompt", "axis": {"labelAngle": 0}}
    y = quantity("value", "mean rank in the answers" if row.ranks else "share of choices", zero=True)
    caption = f"{row.asks:,} asks that show {row.docs} documents."
    title = f"Position bias: {row.name} ({row.kind})"
    return lines(About(f"positions-{number}", title, caption, row.simulated), points, x, y)


def moves(name: str, run: str, story: Mapping[str, Any], *, simulated: bool) -> Chart:
    """Return the documents of a query's new top in the order before and after."""
    stages = ("first stage", "reranked")
    ends: list[Json] = [
        {"doc": move["doc"], "stage": stage, "rank": rank, "series": f"grade {move['grade']}" if judged else "unjudged"}
        for move in story["moves"]
        for judged in [move["grade"] is not None]
        for stage, rank in zip(stages, (move["before"], move["rank"]), strict=True)
        if rank is not None
    ]
    ends.sort(key=lambda end: end["series"], reverse=True)
    x = {"field": "stage", "type": "nominal", "title": None, "sort": list(stages), "axis": {"labelAngle": 0}}
    y = {"field": "rank", "type": "quantitative", "title": "rank", "scale": {"reverse": True, "zero": False}}
    caption = "The documents ranked highest, before and after reranking."
    return lines(About(name, f"How the order moved: {run}", caption, simulated), ends, x, y, of="doc")
