"""Results of `r2llm check` as lines for people, as JSON, and as JUnit XML for a CI server."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Any

from ..pipeline.compare.check import Change, Comparison, Figure, Judgement, QueryMove, Result, some
from ..pipeline.run.baseline import TOP
from ..pipeline.run.measures import EXACT

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 cannot hold these


def lines(result: Result) -> Iterator[str]:
    """Yield a result as lines for people."""
    comparison = result.comparison
    if result.error:
        yield f"{result.name}: not checked"
    elif result.updated:
        yield f"{result.name}: baseline {result.baseline} written"
    elif comparison:
        yield f"{result.name}: {_verdict(comparison)} against {result.baseline} ({_queries(comparison.queries)})"
    yield from (f"{result.name}: {_judgement(judgement)}" for judgement in result.judgements)
    yield from _differences(comparison) if comparison else ()
    if comparison and comparison.improvement and not result.updated:
        yield "  better, and by more than the tolerance: --update makes it the baseline"
    warnings = result.run.manifest.warnings if result.run else ()
    yield from (f"{result.name}: WARNING: {warning}" for warning in warnings)


def _verdict(comparison: Comparison) -> str:
    if comparison.improvement:
        return "IMPROVEMENT"
    if comparison.regression:
        return "REGRESSION"
    moved = comparison.moved or any(change.moved for change in (*comparison.measures, *comparison.costs))
    return "within tolerance" if moved else "unchanged"


def _differences(comparison: Comparison) -> Iterator[str]:
    yield from (f"  {_measure(change)}" for change in comparison.measures if change.moved)
    yield from (f"  {_cost(change)}" for change in comparison.costs if change.moved)
    if comparison.moved:
        yield f"  {_queries(len(comparison.moved))} moved, tolerance {comparison.may_move}:"
        yield from (f"    {_query(move)}" for move in comparison.moved)
    if comparison.differing_parts:
        yield f"  another experiment than the baseline's: {', '.join(comparison.differing_parts)} differ"
    if comparison.unmeasured:
        yield f"  not in the baseline: {', '.join(comparison.unmeasured)}; --update adds them"


def _queries(number: int) -> str:
    return f"{number} {'query' if number == 1 else 'queries'}"


def _measure(change: Change) -> str:
    return f"{change.name} {_step(change.before, change.after)}, tolerance {change.tolerance:g}"


def _cost(change: Change) -> str:
    before, after = ("-" if count is None else f"{count:,.0f}" for count in (change.before, change.after))
    share = f"; {change.amount / change.before:.1%} moved" if change.amount and change.before else ""
    signed = "" if change.signed is None else f" ({change.signed:+,.0f}{share})"
    where = some([f"{query} {by:+,.0f}" for query, by in change.by_query.items()])
    step = f"{change.name} {before} → {after}{signed}, tolerance {change.tolerance:.1%}"
    return f"{step}: {where}" if where else step


def _query(move: QueryMove) -> str:
    docs = [f"{doc.doc} {doc.before or f'outside {TOP}'} → {doc.after or 'gone'}" for doc in move.docs]
    below = f"documents moved below rank {TOP} only"
    unmoved = below if move.reranked else "the ranking is the same: the judgements changed"
    measures = [f"{name} {_step(*pair)}" for name, pair in move.measures.items()]
    return f"{move.query}: {'; '.join([some(docs) or unmoved, *measures])}"


def _judgement(judgement: Judgement) -> str:
    expected = judgement.expected
    verdict = "within tolerance" if judgement.within_tolerance else f"out of tolerance, by {judgement.out_by:.4f}"
    # At least the three decimals that papers print: YAML does not keep the last zero of 0.670.
    figures = [f"{x:.3f}" if abs(x - round(x, 3)) < EXACT else f"{x:g}" for x in (expected.value, expected.tolerance)]
    return f"{verdict}: {judgement.measure} {judgement.value:.4f}, published {' ± '.join(figures)} ({expected.source})"


def _step(before: Figure, after: Figure) -> str:
    """Return a measure before and after, and the difference, with as many decimals as it takes to see it."""
    if before is None or after is None:
        return " → ".join("-" if value is None else f"{value:.4f}" for value in (before, after))
    change = after - before
    if abs(change) <= EXACT:
        return f"{after:.4f}"
    decimals = 4 if abs(change) >= 0.0005 else 6
    return f"{before:.{decimals}f} → {after:.{decimals}f} ({change:+.{decimals}f})"


def junit(results: Sequence[Result]) -> str:
    """Return the results as JUnit XML: a test case for each measure, and for each count and query that moved."""
    suite = ElementTree.Element("testsuite", name="r2llm check")
    for result in results:
        for name, verdict, text in _cases(result):
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


def _cases(result: Result) -> Iterator[tuple[str, str, str]]:
    """Yield the name, verdict (the tag of its element) and text of each test case."""
    tags, comparison = ("system-out", "failure"), result.comparison
    if result.error:
        yield "run", "error", str(result.error)
    elif result.updated:
        yield "update", "system-out", f"{result.baseline} written"
    elif comparison:
        yield from ((change.name, tags[change.beyond], _measure(change)) for change in comparison.measures)
        yield from ((change.name, tags[change.beyond], _cost(change)) for change in comparison.costs if change.moved)
        tag = tags[len(comparison.moved) > comparison.may_move]
        yield from ((move.query, tag, _query(move)) for move in comparison.moved)
    for judgement in result.judgements:
        yield judgement.measure, tags[not judgement.within_tolerance], _judgement(judgement)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return the results as one object."""
    return {"exit_code": max(result.exit_code for result in results), "checks": [_as_json(one) for one in results]}


def _as_json(result: Result) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": result.name, "exit_code": result.exit_code}
    if result.error:
        shown["error"] = str(result.error)
    if result.run:
        shown["run_dir"] = str(result.run.run_dir)
        shown |= {"warnings": result.run.manifest.warnings} if result.run.manifest.warnings else {}
    if result.judgements:
        judged = [
            (j.measure, j.value, j.within_tolerance, j.out_by, j.expected.model_dump(mode="json"))
            for j in result.judgements
        ]
        keys = ("value", "within_tolerance", "out_by", "published")
        shown["expected"] = {name: dict(zip(keys, figures, strict=True)) for name, *figures in judged}
    if result.baseline:
        shown |= {"baseline": str(result.baseline)} | ({"updated": True} if result.updated else {})
    if result.comparison:
        shown |= {"regression": result.comparison.regression, "improvement": result.comparison.improvement}
        shown |= dataclasses.asdict(result.comparison)
        shown |= {kind: {change.pop("name"): change for change in shown[kind]} for kind in ("measures", "costs")}
    return shown
