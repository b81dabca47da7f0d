"""How the results of `r2llm check` are shown: as lines for people, as JSON, and as JUnit XML for a CI server."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Any

from ..pipeline.baseline import EXACT, TOP
from ..pipeline.check import (
    Change,
    Comparison,
    DocMove,
    Failure,
    Figure,
    Judgement,
    QueryMove,
    Reproduction,
    Result,
    Updated,
)

SHOWN = 6
"""How many documents of a query, and queries of a cost, are shown before `and … more`."""

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def lines(result: Result) -> Iterator[str]:
    """A result as lines for people."""
    if isinstance(result, Comparison):
        queries = _count(result.queries, "query", "queries")
        yield f"{result.name}: {_verdict_on(result)} against {result.baseline} ({queries})"
        yield from _differences(result)
        if result.improvement:
            yield "  better, and by more than the tolerance: --update makes it the baseline"
    elif isinstance(result, Updated):
        yield f"{result.name}: baseline {result.baseline} written"
        yield from _differences(result.comparison) if result.comparison else ()
    elif isinstance(result, Reproduction):
        for judgement in result.judgements:
            yield f"{result.name}: {_judgement(judgement)}"
    else:
        yield f"{result.name}: not checked"
        return
    yield from (f"{result.name}: WARNING: {warning}" for warning in result.warnings)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """All results as one object."""
    return {"exit_code": max(result.exit_code for result in results), "checks": [_as_json(one) for one in results]}


def junit(results: Sequence[Result]) -> str:
    """All results as JUnit XML: a test case a measure, and one for each count and query that moved."""
    suite = ElementTree.Element("testsuite", name="r2llm check")
    for result in results:
        for name, verdict, text in _cases(result):
            case = ElementTree.SubElement(suite, "testcase", classname=_clean(result.name), name=_clean(name))
            if verdict in ("failure", "error"):
                ElementTree.SubElement(case, verdict, message=_clean(text)).text = _clean(text)
            elif text:
                ElementTree.SubElement(case, "system-out").text = _clean(text)
    suite.set("tests", str(len(suite)))
    for verdict in ("failure", "error"):
        suite.set(f"{verdict}s", str(len(suite.findall(f"*/{verdict}"))))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _verdict_on(result: Comparison) -> str:
    if result.improvement:
        return "IMPROVEMENT"
    return "REGRESSION" if result.regression else "within tolerance" if _changes(result) else "unchanged"


def _changes(result: Comparison) -> bool:
    return bool(result.moved) or any(change.moved for change in (*result.measures, *result.costs))


def _differences(result: Comparison) -> Iterator[str]:
    yield from (f"  {_measure(change)}" for change in result.measures if change.moved)
    yield from (f"  {_cost(change)}" for change in result.costs if change.moved)
    if result.moved:
        yield f"  {_count(len(result.moved), 'query', 'queries')} moved, tolerance {result.may_move}:"
        yield from (f"    {_query(move)}" for move in result.moved)
    if result.differing_parts:
        yield f"  another experiment than the baseline's: {', '.join(result.differing_parts)} differ"
    if result.unmeasured:
        yield f"  not in the baseline: {', '.join(result.unmeasured)}; --update adds them"


def _measure(change: Change) -> str:
    return f"{change.name} {_step(change.before, change.after)}, tolerance {change.tolerance:g}"


def _cost(change: Change) -> str:
    share = f"; {change.amount / change.before:.1%} moved" if change.amount and change.before else ""
    signed = "" if change.signed is None else f" ({change.signed:+,.0f}{share})"
    where = _some([f"{query} {by:+,.0f}" for query, by in change.by_query.items()])
    step = f"{change.name} {_whole(change.before)} → {_whole(change.after)}{signed}, tolerance {change.tolerance:.1%}"
    return f"{step}: {where}" if where else step


def _query(move: QueryMove) -> str:
    measures = [f"{name} {_step(*pair)}" for name, pair in move.measures.items()]
    if move.docs:
        docs = _some([_doc(doc) for doc in move.docs])
    elif move.reranked:
        docs = f"documents moved below rank {TOP} only"
    else:
        docs = "the ranking is the same: the judgements changed"
    return f"{move.query}: {'; '.join([docs, *measures])}"


def _doc(move: DocMove) -> str:
    before = f"outside {TOP}" if move.before is None else str(move.before)
    return f"{move.doc} {before} → {'gone' if move.after is None else move.after}"


def _judgement(judgement: Judgement) -> str:
    expected = judgement.expected
    return (
        f"{'reproduced' if judgement.reproduced else f'out by {judgement.out_by:.4f}'}: {judgement.measure} "
        f"{judgement.value:.4f}, published {_published(expected.value)} ± {_published(expected.tolerance)} "
        f"({expected.source})"
    )


def _published(value: float) -> str:
    """At least the three decimals that papers print: YAML does not keep the last zero of 0.670."""
    return f"{value:.3f}" if abs(value - round(value, 3)) < EXACT else f"{value:g}"


def _step(before: Figure, after: Figure) -> str:
    """A measure then and now, and the difference, with as many decimals as it takes to see it."""
    if before is None or after is None:
        return f"{_decimal(before, 4)} → {_decimal(after, 4)}"
    change = after - before
    if abs(change) <= EXACT:
        return _decimal(after, 4)
    decimals = 4 if abs(change) >= 0.0005 else 6
    return f"{_decimal(before, decimals)} → {_decimal(after, decimals)} ({change:+.{decimals}f})"


def _decimal(value: Figure, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _whole(value: Figure) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _some(words: Sequence[str]) -> str:
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _cases(result: Result) -> Iterator[tuple[str, str, str]]:
    """Each test case of a result: its name, what came of it (passed, failure or error), and what there is to say."""
    if isinstance(result, Comparison):
        for change in result.measures:
            yield change.name, _verdict(change.beyond), _measure(change)
        for change in result.costs:
            if change.moved:
                yield change.name, _verdict(change.beyond), _cost(change)
        for move in result.moved:
            yield move.query, _verdict(len(result.moved) > result.may_move), _query(move)
    elif isinstance(result, Reproduction):
        for judgement in result.judgements:
            yield judgement.measure, _verdict(not judgement.reproduced), _judgement(judgement)
    elif isinstance(result, Updated):
        yield "update", "passed", f"{result.baseline} written"
    else:
        yield "run", "error", str(result.error)


def _verdict(failed: bool) -> str:
    return "failure" if failed else "passed"


def _clean(text: str) -> str:
    return NOT_XML.sub("?", text)


def _as_json(result: Result) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"name": result.name, "exit_code": result.exit_code, "error": str(result.error)}
    shown: dict[str, Any] = {"name": result.name, "exit_code": result.exit_code, "run_dir": str(result.run_dir)}
    shown |= {"warnings": list(result.warnings)} if result.warnings else {}
    if isinstance(result, Reproduction):
        return shown | {"expected": {judged.measure: _judged_as_json(judged) for judged in result.judgements}}
    shown["baseline"] = str(result.baseline)
    if isinstance(result, Updated):
        return shown | {"updated": True, **(_compared_as_json(result.comparison) if result.comparison else {})}
    return shown | _compared_as_json(result)


def _judged_as_json(judged: Judgement) -> dict[str, Any]:
    figures = {"value": judged.value, "reproduced": judged.reproduced, "out_by": judged.out_by}
    return figures | {"published": judged.expected.model_dump(mode="json")}


def _compared_as_json(result: Comparison) -> dict[str, Any]:
    return {
        "regression": result.regression,
        "improvement": result.improvement,
        "measures": {change.name: _change_as_json(change) for change in result.measures},
        "costs": {change.name: _change_as_json(change) for change in result.costs},
        "queries": result.queries,
        "may_move": result.may_move,
        "moved": [_move_as_json(move) for move in result.moved],
        "differing_parts": result.differing_parts,
        "unmeasured": result.unmeasured,
    }


def _change_as_json(change: Change) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(change).items() if key != "name"}


def _move_as_json(move: QueryMove) -> dict[str, Any]:
    return dataclasses.asdict(move) | {"measures": {name: list(pair) for name, pair in move.measures.items()}}
