"""A report's sections about studies, from their JSON files: a model as judge, attacks, abstention."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ..io.files import reason
from ..io.tables import Table, marked, number
from . import charts
from .page import Group, Section

Json = Mapping[str, Any]


def group(path: Path) -> Group:
    """Return the section about a study. Raises `InputError` if its file cannot be read, or is of no study."""
    try:
        content = json.loads(path.read_bytes())
        part = section(content, f"r2llm report {shlex.quote(str(path))}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it is no file of judge, probe or abstain, or damaged"
        raise InputError(f"{path}: cannot be reported: {why}") from error
    return Group(part.title, _simulated(content), [part])


def section(content: Json, command: str = "") -> Section:
    """Return what terminal and page say of a study."""
    [(title, parts)] = [study for key, study in STUDIES.items() if key in content]
    notes, plots, tables = parts(content)
    return Section(title, command, notes, plots, [_marked(table, content) for table in tables])


def _marked(table: Table, content: Json) -> Table:
    return replace(table, caption=marked(table.caption, _simulated(content)))


def _simulated(content: Json) -> list[str]:
    return [str(content.get("judge") or content.get("name") or content["run"])] if content["simulated"] else []


Parts = tuple[Sequence[str], Sequence[charts.Chart], Sequence[Table]]
"""Notes, charts and tables."""


def _judged(content: Json) -> Parts:
    """Return people's figures, then those in which a model's judgements count."""
    judge, measure = content["judge"], content["measure"]
    rows = [
        [run["name"], run["kind"], *_values(run, "human", "human_same", "model_same"), _filled(run)]
        for run in content["runs"]
    ]
    header = ["run", "kind", f"{measure} by people", "by people*", f"by {judge}*", f"people's, else {judge}'s"]
    tables = [Table("judge runs", header, rows, "* By the documents that both judged.")]
    counts = {name.replace("_", " "): f"{count:,}" for name, count in content["documents"].items()}
    caption = f"Documents in the top {content['depth']} of {content['queries']} queries."
    tables.append(Table("judge documents", [*counts], [[*counts.values()]], caption))
    if agreement := content["agreement"]:
        kinds = {"kappa": "κ, four grades", "kappa_quadratic": "κ, quadratic", "kappa_binary": "κ, relevant or not"}
        kinds |= {"mean_difference": "mean difference, model's minus people's"}
        figures = [[word, number(agreement[key])] for key, word in kinds.items()]
        caption = f"Agreement with people on {agreement['documents']:,} documents."
        tables.append(Table("judge agreement", ["agreement", "value"], figures, caption))
        if confusion := agreement["confusion"]:
            rows = [[f"people: {grade}", *map(str, row)] for grade, row in enumerate(confusion)]
            header = ["grade", *(f"{judge}: {grade}" for grade in range(len(confusion)))]
            tables.append(Table("judge confusion", header, rows, "Documents by both grades."))
    points = [
        {"run": run["name"], "series": f"by {who}", "mean": run[key]}
        for run in content["runs"]
        for who, key in (("people", "human_same"), (judge, "model_same"))
        if run[key] is not None
    ]
    notes = [f"WARNING: {warning}" for warning in content["warnings"]]
    if ranks := content["rankings"]:
        tau, half = _values(ranks, "tau", "tau_top_half")
        notes.append(f"the order of runs by both: Kendall's τ {tau}, of the better half {half}")
    if bias := content["bias"]:
        lift, span = _values(bias, "difference", "interval")
        notes.append(
            f"the judge lifts rankers over first stages by {lift} {measure}, 95 % {span}, {bias['queries']} queries"
        )
    caption = f"{measure} by the documents that both judged."
    about = charts.About("judge", f"{measure} by people and by {judge}", caption, content["simulated"])
    return notes, [charts.dots(about, points, measure)] if points else [], tables


def _filled(run: Json) -> str:
    return f"{number(run['filled'])} {(run['filled_name'] or '').partition(' ')[2]}"


def _probed(content: Json) -> Parts:
    """Return how often each probe succeeds, and how far it moves rankings."""
    probes = content["probes"]
    succeeded = {name: probe["success"] for name, probe in probes.items() if "success" in probe}
    points = [
        {"run": name, "series": "probes", "mean": success["rate"], "low": low, "high": high}
        for name, success in sorted(succeeded.items(), key=lambda item: -item[1]["rate"])
        for low, high in [success["interval"]]
    ]
    counted = f"Share of {content['sets']} sets of four in which the attacked document is chosen, with Wilson's "
    counted += f"interval; {content['unread_sets']} sets with an unread clean answer are not counted."
    damage = {f"{content['measure']} attacked": "attacked", "drop": "drop", "95 %": "interval"}
    victim = {"ranks climbed": "climb", "in the top 10": "in_top_10", "first": "first"}
    success = {"success": "rate", "95 %": "interval", "less placebo": "less_placebo", "unread": "unread"}
    middle = f"The probe in one candidate judged 0, of {len(content['victims'])} queries."
    tables = [
        Table(
            name,
            ["probe", *columns, "source"],
            [[name, *_values(probe.get(part), *columns.values()), probe["source"]] for name, probe in probes.items()],
            caption,
        )
        for name, part, columns, caption in (
            ("probes", "success", success, counted),
            ("probes damage", "damage", damage, "The probe in every candidate judged 0."),
            ("probes victim", "victim", victim, middle),
        )
        if part == "success" or any(probe.get(part) for probe in probes.values())
    ]
    caption = "Success of each probe, with Wilson's interval."
    about = charts.About("probes", "Success of probes", caption, content["simulated"])
    return [], [charts.dots(about, points, "success")] if points else [], tables


def _abstained(content: Json) -> Parts:
    """Return the quality of the queries kept, by the share left out."""
    rates, curves, measure = content["rates"], content["curves"], content["measure"]
    points = [
        {"series": name, "x": rate, "y": quality}
        for name, curve in curves.items()
        for rate, quality in zip(rates, curve["quality"], strict=True)
    ]
    header = ["confidence", *(f"{rate:.1f}" for rate in rates), "nAUC", "95 %"]
    rows = [
        [name, *map(number, curve["quality"]), *_values(curve, "nauc", "interval")] for name, curve in curves.items()
    ]
    caption = f"{measure} of the queries kept; {content['queries']} queries, "
    caption += f"{content['reference_queries']} of the reference, {content['depth']} scores each."
    x, y = charts.quantity("x", "share of queries left out"), charts.quantity("y", measure)
    plot = charts.lines(charts.About("abstention", "Abstention", caption, content["simulated"]), points, x, y)
    notes = ["these are few queries: the curves are uncertain"] if content["few"] else []
    return notes, [plot], [Table("abstention", header, rows)]


def _values(figures: Json | None, *names: str) -> list[str]:
    return [_text(figures[name] if figures else None) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(number, value))
    return str(value) if isinstance(value, int) else number(value)


STUDIES: Mapping[str, tuple[str, Callable[[Json], Parts]]] = {
    "judge": ("A model as judge", _judged),
    "probes": ("Probes", _probed),
    "curves": ("Abstention", _abstained),
}
"""Key of a study's file → its title and parts."""
