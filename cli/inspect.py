"""`r2llm inspect`: a query's story."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..rerankers.errors import InputError
from . import console, heading, options

if TYPE_CHECKING:
    from ..pipeline.inspect import Asked, StageTold, Story
    from ..pipeline.run.verdicts import Verdict
    from ..rerankers.types import Cost

SHOWN = 20
"""How much of the first stage is printed; --json has all of it."""


def inspect(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    query: Annotated[str | None, typer.Option("--query", metavar="ID", help="The query's identifier.")] = None,
    worst: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The verdicts on the N queries that lost most, instead.")
    ] = None,
    asks: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Only the first N asks; all unless given.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="The documents' texts too.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Each ask's prompt too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell a query's story: what reranking did to it, the first stage, each ask and its answer, how the order moved.

    Answers come from the run's ledger: no model is needed.
    """
    from ..pipeline import inspect as inspection
    from ..pipeline.run import verdicts

    if (query is None) == (worst is None):
        raise InputError("inspect needs one of --query ID and --worst N")
    if query is None:
        found = verdicts.worst(run_dir, worst or 0)
        if as_json:
            console.as_json({"run_dir": str(run_dir), "worst": [_verdict_as_json(one) for one in found]})
            return
        for one in found:
            _show_verdict(one)
        return
    story = inspection.story(run_dir, query, prompts=prompts)
    if as_json:
        console.as_json(_as_json(story))
    else:
        _show(story, len(story.asks) if asks is None else asks, texts=text)


def _show_verdict(verdict: Verdict) -> None:
    from ..pipeline.run.verdicts import FATES, TOP

    console.line(f"query {verdict.query.id}: {verdict.query.text}")
    for name, (before, after) in verdict.measures.items():
        console.line(f"{name} {heading.change(before, after)}")
    for which, judged in verdict.by_relevance.items():
        fates = Counter(one.fate for one in judged)
        console.line(f"{which} documents in the first {TOP}: {', '.join(f'{fates[fate]} {fate}' for fate in FATES)}")
    if verdict.missed:
        console.line(f"relevant documents that are no candidates: {verdict.missed}")
    if verdict.judged:
        console.table(
            f"judged documents in the first {TOP}",
            ["document", "grade", "before", "after", "is"],
            [[one.doc, str(one.grade), _number(one.before), _number(one.after), one.fate] for one in verdict.judged],
        )


def _show(story: Story, asks: int, *, texts: bool) -> None:
    _show_verdict(story.verdict)
    cascade = len(story.stages) > 1
    for number, stage in enumerate(story.stages, 1):
        console.line((f"stage {number}: " if cascade else "") + _stage(stage))
    found = list(enumerate(story.first_stage, 1))[:SHOWN]
    console.table(
        f"first stage, {len(found)} of {len(story.first_stage)} documents",
        ["rank", "document", "score", "grade"],
        [[str(rank), doc, f"{score:.4f}", _grade(story.grades.get(doc))] for rank, (doc, score) in found],
    )
    shown = list(enumerate(story.asks, 1))[:asks]
    if len(shown) < len(story.asks):
        console.line(f"the first {len(shown)} of {len(story.asks)} asks")
    if shown:
        console.table(
            f"{len(shown)} asks",
            [
                "ask",
                *(["stage"] if cascade else []),
                *("round", "kind", "presented", "answer", "read as"),
                "tokens",
                "from",
            ],
            [_row(number, asked, story) for number, asked in shown],
        )
    for number, asked in shown:
        if asked.prompt:
            size = "" if asked.prompt.tokens is None else f", {len(asked.prompt.tokens)} tokens"
            console.block(f"----- prompt of ask {number}{size}\n{asked.prompt.text}\n----- end of the prompt")
    if story.moves:
        console.table(
            "the order",
            ["rank", "before", "document", "grade"],
            [[str(move.rank), _number(move.before), move.doc, _grade(move.grade)] for move in story.moves],
        )
    if texts:
        for doc in dict.fromkeys([*(move.doc for move in story.moves), *(one.doc for one in story.verdict.judged)]):
            console.line(f"text of {doc}: {story.texts.get(doc, '')}")
    if story.cost:
        console.line(f"last execution: {_spent(story.cost)}")
        for number, stage in enumerate(story.stages, 1):
            if cascade and stage.cost:
                console.line(f"stage {number}: {_spent(stage.cost)}")
    for warning in story.warnings:
        console.line(f"WARNING: {warning}")
    for note in story.notes:
        console.line(f"note: {note}")


def _stage(stage: StageTold) -> str:
    ranker = stage.ranker
    model = " ".join(str(stage.model[key]) for key in ("backend", "name", "answers") if key in stage.model)
    depth = "" if stage.depth is None else f"; the first {stage.depth} documents"
    return f"{ranker.method.name}, prompt {ranker.prompt.name}, scoring {ranker.scoring}; model: {model}{depth}"


def _spent(cost: Cost) -> str:
    seconds = "" if cost.seconds is None else f", {cost.seconds:.3f} s"
    return (
        f"{cost.asks} asks, {cost.calls} calls, {cost.cached} cached, {cost.rounds} rounds, "
        f"{cost.comparisons} comparisons, {cost.unparsed} unparsed{seconds}"
    )


def _row(number: int, asked: Asked, story: Story) -> list[str]:
    docs = [f"{label}={doc}" if label else doc for label, doc in _presented(asked)]
    counts = (asked.reply.prompt_tokens, asked.reply.completion_tokens)
    tokens = "-" if None in counts else "+".join(map(str, counts))
    source = f"ask {asked.same_as}" if asked.same_as else "ledger"
    return [
        str(number),
        *([str(asked.stage)] if len(story.stages) > 1 else []),
        str(asked.round) + (" (again)" if asked.retried else ""),
        asked.request.ask.kind,
        " ".join(docs),
        _answer(asked),
        _read_as(asked, story),
        tokens,
        source,
    ]


def _presented(asked: Asked) -> list[tuple[str | None, str]]:
    """The documents in the order of presentation, with their labels where each has one."""
    docs, labels = asked.request.ask.docs, asked.request.labels
    if isinstance(asked.request.prompt.labels, dict) or len(labels) != len(docs):
        return [(None, doc) for doc in docs]
    return list(zip(labels, docs, strict=True))


def _answer(asked: Asked) -> str:
    """The raw answer: the text as it came, or the labels' log-probabilities."""
    if asked.reply.text is not None:
        return repr(asked.reply.text)
    labels = asked.request.labels or ("",)
    pairs = zip(labels, asked.reply.scores or (), strict=False)
    return " ".join(f"{label} {score:.4f}".strip() for label, score in pairs)


def _read_as(asked: Asked, story: Story) -> str:
    ask, answer = asked.request.ask, asked.answer
    if not answer.parsed:
        return f"unread: {story.stages[asked.stage - 1].ranker.options.on_unparsed}"
    if ask.kind in ("choose", "compare"):
        return ask.docs[answer.choice]
    if ask.kind in ("permute", "select"):
        return " > ".join(ask.docs[i] for i in answer.order)
    return answer.note or " ".join(f"{score:.4f}" for score in answer.scores)


def _grade(grade: int | None) -> str:
    return "-" if grade is None else str(grade)


def _number(rank: int | None) -> str:
    return "-" if rank is None else str(rank)


def _as_json(story: Story) -> dict[str, Any]:
    import dataclasses

    stages = [_stage_as_json(stage) for stage in story.stages]
    return {
        "run_dir": str(story.run_dir),
        **_verdict_as_json(story.verdict),
        **({"stages": stages} if len(stages) > 1 else {key: stages[0][key] for key in ("ranker", "model")}),
        "first_stage": [
            {"rank": rank, "doc": doc, "score": score, "grade": story.grades.get(doc)}
            for rank, (doc, score) in enumerate(story.first_stage, 1)
        ],
        "asks": [_ask_as_json(number, asked, story) for number, asked in enumerate(story.asks, 1)],
        "moves": [dataclasses.asdict(move) for move in story.moves],
        "cost": dataclasses.asdict(story.cost) if story.cost else None,
        "notes": list(story.notes),
        "warnings": list(story.warnings),
    }


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    import dataclasses

    return {
        "query": dataclasses.asdict(verdict.query),
        "measures": {name: list(pair) for name, pair in verdict.measures.items()},
        "judged": [dataclasses.asdict(one) | {"fate": one.fate} for one in verdict.judged],
        "missed": verdict.missed,
    }


def _stage_as_json(stage: StageTold) -> dict[str, Any]:
    import dataclasses

    ranker = stage.ranker
    return {
        "ranker": {"method": ranker.method.name, "prompt": ranker.prompt.name, "scoring": ranker.scoring},
        "model": dict(stage.model),
        "depth": stage.depth,
        "cost": dataclasses.asdict(stage.cost) if stage.cost else None,
    }


def _ask_as_json(number: int, asked: Asked, story: Story) -> dict[str, Any]:
    reply = asked.reply
    found = {
        "ask": number,
        "stage": asked.stage,
        "round": asked.round,
        "again": asked.retried,
        "same_as": asked.same_as,
        "kind": asked.request.ask.kind,
        "docs": [{"label": label, "doc": doc} for label, doc in _presented(asked)],
        "labels": list(asked.request.labels),
        "text": reply.text,
        "scores": None if reply.scores is None else list(reply.scores),
        "read_as": _read_as(asked, story),
        "parsed": asked.answer.parsed,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }
    if asked.prompt:
        found |= {"prompt": asked.prompt.text, "prompt_cut": asked.prompt.tokens is not None}
    return found
