"""A report's sections about studies, from their JSON files: a model as judge, attacks, abstention."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
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
    return Section(title, command, *parts(content, _simulated(content)))


def _simulated(content: Json) -> list[str]:
    return [str(content.get("judge") or content.get("name") or content["run"])] if content["simulated"] else []


Parts = tuple[Sequence[str], Sequence[charts.Chart], Sequence[Table]]
"""Notes, charts and tables."""


def _judged(content: Json, simulated: Sequence[str]) -> Parts:
    """Return people's figures, then those in which a model's judgements count."""
    judge, measure = content["judge"], content["measure"]
    rows = [
        [run["name"], run["kind"], *_values(run, "human", "human_same", "model_same"), _filled(run)]
        for run in content["runs"]
    ]
    header = ["run", "kind", f"{measure} by people", "by people*", f"by {judge}*", f"people's, else {judge}'s"]
    tables = [Table("judge runs", header, rows, marked("* By the documents that both judged.", simulated))]
    counts = {name.replace("_", " "): f"{count:,}" for name, count in content["documents"].items()}
    caption = f"Documents in the top {content['depth']} of {content['queries']} queries."
    tables.append(Table("judge documents", [*counts], [[*counts.values()]], marked(caption, simulated)))
    if agreement := content["agreement"]:
        kinds = {"kappa": "κ, four grades", "kappa_quadratic": "κ, quadratic", "kappa_binary": "κ, relevant or not"}
        kinds |= {"mean_difference": "mean difference, model's minus people's"}
        figures = [[word, number(agreement[key])] for key, word in kinds.items()]
        of = f"Agreement with people on {agreement['documents']:,} documents."
        tables.append(Table("judge agreement", ["agreement", "value"], figures, marked(of, simulated)))
        if confusion := agreement["confusion"]:
            rows = [[f"people: {grade}", *map(str, row)] for grade, row in enumerate(confusion)]
            header = ["grade", *(f"{judge}: {grade}" for grade in range(len(confusion)))]
            tables.append(Table("judge confusion", header, rows, marked("Documents by both grades.", simulated)))
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
    title = f"{measure} by people and by {judge}"
    plot = charts.dots("judge", title, points, measure, caption, simulated=bool(simulated))
    return notes, [plot] if points else [], tables


def _filled(run: Json) -> str:
    return f"{number(run['filled'])} {(run['filled_name'] or '').partition(' ')[2]}"


def _probed(content: Json, simulated: Sequence[str]) -> Parts:
    """Return how often each probe succeeds, and how far it moves rankings."""
    probes = content["probes"]
    points = [
        {"run": name, "series": "probes", "mean": probe["success"]["rate"]}
        | dict(zip(("low", "high"), probe["success"]["interval"], strict=True))
        for name, probe in sorted(probes.items(), key=lambda item: -item[1].get("success", {"rate": 0})["rate"])
        if "success" in probe
    ]
    counted = (
        f"Share of {content['sets']} sets of four in which the attacked document is chosen, with Wilson's interval"
    )
    counted += f"; {content['unread_sets']} sets with an unread clean answer are not counted."
    damage = {f"{content['measure']} attacked": "attacked", "drop": "drop", "95 %": "interval"}
    victim = {"ranks climbed": "climb", "in the top 10": "in_top_10", "first": "first"}
    success = {"success": "rate", "95 %": "interval", "less placebo": "less_placebo", "unread": "unread"}
    middle = f"The probe in one candidate judged 0, of {len(content['victims'])} queries."
    tables = [
        Table(
            name,
            ["probe", *columns, "source"],
            [[name, *_values(probe.get(part), *columns.values()), probe["source"]] for name, probe in probes.items()],
            marked(caption, simulated),
        )
        for name, part, columns, caption in (
            ("probes", "success", success, counted),
            ("probes damage", "damage", damage, "The probe in every candidate judged 0."),
            ("probes victim", "victim", victim, middle),
        )
        if part == "success" or any(probe.get(part) for probe in probes.values())
    ]
    caption = "Success of each probe, with Wilson's interval."
    plot = charts.dots("probes", "Success of probes", points, "success", caption, simulated=bool(simulated))
    return [], [plot] if points else [], tables


def _abstained(content: Json, simulated: Sequence[str]) -> Parts:
    """Return the quality of the queries kept, by the share left out."""
    rates, curves = content["rates"], content["curves"]
    points = [
        {"series": name, "x": rate, "y": quality}
        for name, curve in curves.items()
        for rate, quality in zip(rates, curve["quality"], strict=True)
    ]
    header = ["confidence", *(f"{rate:.1f}" for rate in rates), "nAUC", "95 %"]
    rows = [
        [name, *map(number, curve["quality"]), *_values(curve, "nauc", "interval")] for name, curve in curves.items()
    ]
    caption = f"{content['measure']} of the queries kept; {content['queries']} queries, "
    caption += f"{content['reference_queries']} of the reference, {content['depth']} scores each."
    axes = ("share of queries left out", content["measure"])
    plot = charts.curves("abstention", "Abstention", points, axes, caption, bool(simulated))
    notes = ["these are few queries: the curves are uncertain"] if content["few"] else []
    return notes, [plot], [Table("abstention", header, rows, marked("", simulated))]


def _values(figures: Json | None, *names: str) -> list[str]:
    return [_text(figures[name] if figures else None) for name in names]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(number, value))
    return str(value) if isinstance(value, int) else number(value)


STUDIES: Mapping[str, tuple[str, Callable[[Json, Sequence[str]], Parts]]] = {
    "judge": ("A model as judge", _judged),
    "probes": ("Probes", _probed),
    "curves": ("Abstention", _abstained),
}
"""Key of a study's file → its title and parts."""
