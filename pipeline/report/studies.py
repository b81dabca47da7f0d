"""What a report says of studies, out of their JSON files: a model as judge, attacks, abstention."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ..compare.sensitivity import number
from ..io.files import reason
from . import charts
from .parts import Group, Section, Table, marked

Json = Mapping[str, Any]


def group(path: Path) -> Group:
    """Return the sections about a study. Raises `InputError` if its file cannot be read, or is of no study."""
    try:
        content = json.loads(path.read_bytes())
        [(title, section)] = [(name, of) for key, (name, of) in STUDIES.items() if key in content]
        simulated = [str(content.get("judge") or content.get("name") or content["run"])] if content["simulated"] else []
        parts = section(content, simulated)
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"it is no file of judge, probe or abstain, or damaged ({type(error).__name__}: {error})"
        why = reason(error) if isinstance(error, OSError) else why
        raise InputError(f"{path}: cannot be reported: {why}") from error
    return Group(title, simulated, [Section(title, f"r2llm report {shlex.quote(str(path))}", *parts)])


Parts = tuple[Sequence[str], Sequence[charts.Chart], Sequence[Table]]
"""Notes, charts and tables."""


def _judged(content: Json, simulated: Sequence[str]) -> Parts:
    """Return people's figures, then those in which a model's judgements count."""
    judge, measure = content["judge"], content["measure"]
    rows = [
        [run["name"], run["kind"], *(number(run[key]) for key in ("human", "human_same", "model_same")), _filled(run)]
        for run in content["runs"]
    ]
    header = ["run", "kind", f"{measure} by people", "by people*", f"by {judge}*", f"people's, else {judge}'s"]
    caption = marked("* By the documents that both judged.", simulated)
    tables = [Table("judge-runs", header, rows, caption)]
    if agreement := content["agreement"]:
        kinds = {"kappa": "κ, four grades", "kappa_quadratic": "κ, quadratic", "kappa_binary": "κ, relevant or not"}
        kinds |= {"mean_difference": "mean difference, model's minus people's"}
        figures = [[word, number(agreement[key])] for key, word in kinds.items()]
        of = f"Agreement with people on {agreement['documents']:,} documents."
        tables.append(Table("judge-agreement", ["agreement", "value"], figures, marked(of, simulated)))
        if confusion := agreement["confusion"]:
            rows = [[f"people: {grade}", *map(str, row)] for grade, row in enumerate(confusion)]
            header = ["grade", *(f"{judge}: {grade}" for grade in range(len(confusion)))]
            tables.append(Table("judge-confusion", header, rows, marked("Documents by both grades.", simulated)))
    points = [
        {"run": run["name"], "series": f"by {who}", "value": run[key]}
        for run in content["runs"]
        for who, key in (("people", "human_same"), (judge, "model_same"))
        if run[key] is not None
    ]
    notes = [*content["warnings"]]
    if bias := content["bias"]:
        span = " to ".join(map(number, bias["interval"])) if bias["interval"] else "-"
        notes.append(
            f"the judge lifts rankers over first stages by {number(bias['difference'])} {measure}, 95 % {span}"
        )
    caption = f"{measure} by the documents that both judged."
    plot = charts.marks("judge", f"{measure} by people and by {judge}", points, measure, caption, bool(simulated))
    return notes, [plot] if points else [], tables


def _filled(run: Json) -> str:
    return f"{number(run['filled'])} {run['filled_name'].partition(' ')[2]}"


def _probed(content: Json, simulated: Sequence[str]) -> Parts:
    """Return how often each probe succeeds, and how far it moves rankings."""
    probes = content["probes"]
    points = [
        {"run": name, "series": "probes", "mean": found["success"]["rate"]}
        | dict(zip(("low", "high"), found["success"]["interval"], strict=True))
        for name, found in sorted(probes.items(), key=lambda item: -item[1].get("success", {"rate": 0})["rate"])
        if "success" in found
    ]
    rows = [
        [
            name,
            *_values(found.get("success"), "rate", "interval", "less_placebo"),
            *_values(found.get("damage"), "attacked", "drop", "interval"),
            *_values(found.get("victim"), "climb", "in_top_10", "first"),
            found["source"],
        ]
        for name, found in probes.items()
    ]
    header = ["probe", "success", "95 %", "less placebo", f"{content['measure']} attacked", "drop", "95 %"]
    header += ["ranks climbed", "in the top 10", "first", "source"]
    caption = (
        f"Share of {content['sets']} sets of four in which the attacked document is chosen, with Wilson's interval."
    )
    plot = charts.dots("probes", "Success of probes", points, "success", caption, ["probes"], simulated=bool(simulated))
    unread = content["unread_sets"]
    notes = [f"{unread} sets are not counted: the clean answer could not be read"] if unread else []
    return notes, [plot] if points else [], [Table("probes", header, rows, marked("", simulated))]


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
    caption = f"{content['measure']} of the queries kept; {content['queries']} queries."
    axes = ("share of queries left out", content["measure"])
    plot = charts.curves("abstention", "Abstention", points, axes, caption, bool(simulated))
    notes = ["these are few queries: the curves are uncertain"] if content["few"] else []
    return notes, [plot], [Table("abstention", header, rows, marked("", simulated))]


def _values(found: Json | None, *names: str) -> list[str]:
    values = [found[name] if found else None for name in names]
    return [" to ".join(map(number, value)) if isinstance(value, list) else number(value) for value in values]


STUDIES: Mapping[str, tuple[str, Callable[[Json, Sequence[str]], Parts]]] = {
    "judge": ("A model as judge", _judged),
    "probes": ("Probes", _probed),
    "curves": ("Abstention", _abstained),
}
"""Key of a study's file → its title and parts."""
