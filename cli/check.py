"""`r2llm check`: run experiments again and compare them with baselines or with published figures."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, options

if TYPE_CHECKING:
    from ..pipeline.compare.check import Result

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 cannot hold these


def check(
    config: Annotated[
        list[str], options.config("A YAML file or a shipped config; with --expected also a grid. Repeatable.")
    ],
    baseline: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="The baseline of each --config: a JSON file, or a run's folder."),
    ] = None,
    expected: Annotated[bool, typer.Option("--expected", help="Compare a full run with published figures.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Write the baseline anew; its tolerances are kept.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JUnit XML too.")] = None,
    settings: options.Settings = None,
    queries: options.QueryLimit = None,
    output: options.Output = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run experiments and compare each with its baseline; exit with 1 and say what moved if one has changed.

    Tolerances stand in the baseline, to be edited: `measures` (of a mean), `costs` (a share of the total: 0.05 is five
    per cent), `queries` (how many may move). With several configs, --output holds a folder for each, and the highest
    exit code counts.
    """
    from ..pipeline.compare import check as checks
    from ..pipeline.io.files import save
    from ..rerankers.errors import InputError

    if expected == bool(baseline):
        raise InputError("check needs one of --baseline FILE and --expected")
    plan = checks.Plan(tuple(config), tuple(baseline or ()), update, tuple(settings or ()), queries, output)
    results = []
    for result in checks.check_each(plan, console.listener(quiet)):
        results.append(result)
        if result.error:
            console.error(f"{result.name}: {result.error}" if len(config) > 1 else str(result.error))
        if not as_json:
            _show(result)
    code = max(result.exit_code for result in results)
    if as_json:
        console.as_json({"exit_code": code, "checks": list(map(_as_json, results))})
    if junit is not None:
        save(junit, _junit(results))
    raise typer.Exit(code)


def _show(result: "Result") -> None:
    changes = result.comparison
    if result.error:
        console.line(f"{result.name}: not checked")
    elif result.updated:
        console.line(f"{result.name}: baseline {result.baseline} written")
    for _, _, _, text in _findings(result) if result.published else ():
        console.line(f"{result.name}: {text}")
    if result.baseline and changes:
        rows = [[what, text] for what, moved, _, text in _findings(result) if moved]
        verdict = "IMPROVEMENT" if changes.improvement else "REGRESSION" if changes.regression else "within tolerance"
        if not result.updated:
            of = f"against {result.baseline} ({changes.queries} queries)"
            console.line(f"{result.name}: {verdict if rows else 'unchanged'} {of}")
        if rows:
            console.table("what changed", ["measure, cost or query", "change"], rows)
        if changes.moved:
            console.line(f"{len(changes.moved)} of {changes.queries} queries moved, tolerance {changes.may_move}")
        if changes.differing_parts:
            console.line(f"another experiment than the baseline's: {', '.join(changes.differing_parts)} differ")
        if changes.unmeasured:
            console.line(f"not in the baseline: {', '.join(changes.unmeasured)}; --update adds them")
        if changes.improvement and not result.updated:
            console.line("better, and by more than the tolerance: --update makes it the baseline")
    for warning in result.run.manifest.warnings if result.run else ():
        console.line(f"{result.name}: WARNING: {warning}")


def _findings(result: "Result") -> Iterator[tuple[str, bool, bool, str]]:
    """Yield each measure, each cost and the queries that moved: whether it moved, and beyond tolerance, and how."""
    from ..pipeline.compare import tables

    if not (changes := result.comparison):
        return
    for change in (*changes.measures, *changes.costs):
        figure = result.published.get(change.name)
        text = tables.published(change, figure) if figure else tables.change(change)
        yield change.name, change.moved, change.beyond, text
    for move in changes.moved:
        yield move.query, True, len(changes.moved) > changes.may_move, tables.move(move)


def _junit(results: Sequence["Result"]) -> str:
    """Return the results as JUnit XML: a test case for each measure and cost, and each query that moved."""
    suite = ElementTree.Element("testsuite", name="r2llm check")
    for result in results:
        cases = [(what, ("system-out", "failure")[beyond], text) for what, _, beyond, text in _findings(result)]
        if result.error:
            cases = [("run", "error", str(result.error))]
        elif result.updated:
            cases = [("update", "system-out", f"{result.baseline} written")]
        for name, verdict, text in cases:
            name, text = NOT_XML.sub("?", name), NOT_XML.sub("?", text)
            case = ElementTree.SubElement(suite, "testcase", classname=NOT_XML.sub("?", result.name), name=name)
            attributes = {} if verdict == "system-out" else {"message": text}
            ElementTree.SubElement(case, verdict, attributes).text = text
    suite.set("tests", str(len(suite)))
    for verdict in ("failure", "error"):
        suite.set(f"{verdict}s", str(len(suite.findall(f"*/{verdict}"))))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _as_json(result: "Result") -> dict[str, Any]:
    shown: dict[str, Any] = {"name": result.name, "exit_code": result.exit_code}
    changes = result.comparison
    if result.error:
        shown["error"] = str(result.error)
    if result.run:
        shown["run_dir"] = str(result.run.run_dir)
        shown |= {"warnings": result.run.manifest.warnings} if result.run.manifest.warnings else {}
    if result.baseline:
        shown |= {"baseline": str(result.baseline)} | ({"updated": True} if result.updated else {})
    if changes and result.published:
        shown["expected"] = {
            change.name: {
                "value": change.after,
                "within_tolerance": not change.beyond,
                "reproduced": not change.beyond,  # its name of old
                "out_by": change.amount,
                "published": result.published[change.name].model_dump(mode="json"),
            }
            for change in changes.measures
        }
    elif changes:
        shown |= {"regression": changes.regression, "improvement": changes.improvement, **dataclasses.asdict(changes)}
        shown |= {kind: {change.pop("name"): change for change in shown[kind]} for kind in ("measures", "costs")}
    return shown
