"""`r2llm inspect`: a query's story."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ..rerankers.errors import InputError
from . import console, options

SHOWN = 20
"""Documents of the first stage that are printed; --json has all."""

COUNTS = ("asks", "calls", "cached", "rounds", "comparisons", "unparsed")

COLUMNS = ("ask", "round", "kind", "presented", "answer", "read as", "tokens", "from")


def inspect(
    run_dir: options.RunDir,
    query: Annotated[str | None, typer.Option("--query", metavar="ID", help="The query's identifier.")] = None,
    worst: Annotated[int | None, typer.Option(metavar="N", min=1, help="The verdicts on the N worst queries.")] = None,
    asks: Annotated[int | None, typer.Option(metavar="N", min=0, help="Only the first N asks; default all.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The documents' texts too.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Each ask's prompt too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell a query's story: what reranking did to it, the first stage, each ask and its answer, how the order moved.

    Answers come from the run's ledger: no model is needed.
    """
    from ..pipeline import inspect as inspection

    if (query is None) == (worst is None):
        raise InputError("inspect needs one of --query ID and --worst N")
    content = (
        inspection.worst(run_dir, worst or 0) if query is None else inspection.story(run_dir, query, prompts=prompts)
    )
    texts = content.pop("texts", {})
    if as_json:
        console.as_json(content)
        return
    for verdict in content.get("worst", [content]):
        _show_verdict(verdict)
    if query is not None:
        _show(content, len(content["asks"]) if asks is None else asks)
        docs = [each["doc"] for each in (*content["moves"], *content["judged"])]
        for doc in dict.fromkeys(docs) if text else ():
            console.line(f"text of {doc}: {texts.get(doc, '')}")
        _show_costs(content)
    for warning in content["warnings"]:
        console.line(f"WARNING: {warning}")
    for note in content.get("notes", ()):
        console.line(f"note: {note}")


def _show_verdict(verdict: Mapping[str, Any]) -> None:
    from ..pipeline.inspect import FATES, TOP

    console.line(f"query {verdict['query']['id']}: {verdict['query']['text']}")
    for name, (before, after) in verdict["measures"].items():
        console.line(f"{name} {before:.4f} → {after:.4f} ({after - before:+.4f})")
    judged = verdict["judged"]
    for words, relevant in (("relevant", True), ("not relevant", False)):
        fates = Counter(each["fate"] for each in judged if (each["grade"] > 0) is relevant)
        if fates:
            counts = ", ".join(f"{fates[fate]} {fate}" for fate in FATES)
            console.line(f"{words} documents in the first {TOP}: {counts}")
    if verdict["missed"]:
        console.line(f"relevant documents that are no candidates: {verdict['missed']}")
    if judged:
        columns = ["document", "grade", "before", "after", "is"]
        rows = [_cells(each, "doc", "grade", "before", "after", "fate") for each in judged]
        console.table(f"judged documents in the first {TOP}", columns, rows)


def _show(story: Mapping[str, Any], count: int) -> None:
    stages = story.get("stages", [])
    for number, stage in enumerate(stages or [story], 1):
        ranker, model = stage["ranker"], stage["model"]
        named = " ".join(str(model[key]) for key in ("backend", "name", "answers") if key in model)
        depth = f"; the first {stage['depth']} documents" if stage.get("depth") else ""
        which = f"stage {number}: {ranker['method']}" if stages else ranker["method"]
        console.line(f"{which}, prompt {ranker['prompt']}, scoring {ranker['scoring']}; model: {named}{depth}")
    hits = [hit | {"score": f"{hit['score']:.4f}"} for hit in story["first_stage"]]
    rows = [_cells(hit, "rank", "doc", "score", "grade") for hit in hits[:SHOWN]]
    console.table(f"first stage, {len(rows)} of {len(hits)} documents", ["rank", "document", "score", "grade"], rows)
    asks = story["asks"][:count]
    if len(asks) < len(story["asks"]):
        console.line(f"the first {len(asks)} of {len(story['asks'])} asks")
    if asks:
        columns = ["ask", "stage", *COLUMNS[1:]] if stages else [*COLUMNS]
        rows = [_row(ask) for ask in asks]
        console.table(f"{len(asks)} asks", columns, [row if stages else [row[0], *row[2:]] for row in rows])
    for ask in asks:
        if "prompt" in ask:
            size = f", {ask['prompt_tokens']} tokens" if ask["prompt_cut"] else ""
            console.block(f"----- prompt of ask {ask['ask']}{size}\n{ask['prompt']}\n----- end of the prompt")
    if story["moves"]:
        rows = [_cells(move, "rank", "before", "doc", "grade") for move in story["moves"]]
        console.table("the order", ["rank", "before", "document", "grade"], rows)


def _row(ask: Mapping[str, Any]) -> list[str]:
    if ask["text"] is not None:
        answer = repr(ask["text"])
    else:
        pairs = zip(ask["labels"] or ("",), ask["scores"] or (), strict=False)
        answer = " ".join(f"{label} {score:.4f}".strip() for label, score in pairs)
    counts = (ask["prompt_tokens"], ask["completion_tokens"])
    return [
        *_cells(ask, "ask", "stage"),
        f"{ask['round']}{' (again)' if ask['again'] else ''}",
        ask["kind"],
        " ".join(f"{each['label']}={each['doc']}" if each["label"] else each["doc"] for each in ask["docs"]),
        answer,
        ask["read_as"],
        "-" if None in counts else "+".join(map(str, counts)),
        f"ask {ask['same_as']}" if ask["same_as"] else "ledger",
    ]


def _show_costs(story: Mapping[str, Any]) -> None:
    stages = {f"stage {number}": stage["cost"] for number, stage in enumerate(story.get("stages", ()), 1)}
    for title, cost in {"last execution": story["cost"], **stages}.items():
        if cost:
            counts = ", ".join(f"{cost[name]} {name}" for name in COUNTS)
            seconds = "" if cost["seconds"] is None else f", {cost['seconds']:.3f} s"
            console.line(f"{title}: {counts}{seconds}")


def _cells(values: Mapping[str, Any], *names: str) -> list[str]:
    return ["-" if values[name] is None else str(values[name]) for name in names]
