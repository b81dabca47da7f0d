"""`r2llm inspect`: a query's story."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, options

if TYPE_CHECKING:
    from ..pipeline.runs.inspection import Asked, StageTold, Story
    from ..rerankers.types import Cost

SHOWN = 20
"""How much of the first stage is printed; --json has all of it."""


def inspect(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run.")],
    query: Annotated[str, typer.Option("--query", metavar="ID", help="The query's identifier.")],
    prompts: Annotated[bool, typer.Option("--prompts", help="Each ask's prompt too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Tell a query's story: the first stage, each ask with its answer and how it was read, how the order moved.

    Answers come from the run's ledger: no model is needed.
    """
    from ..pipeline.runs import inspection

    story = inspection.story(run_dir, query, prompts=prompts)
    if as_json:
        console.as_json(_as_json(story))
    else:
        _show(story)


def _show(story: Story) -> None:
    console.line(f"query {story.query.id}: {story.query.text}")
    cascade = len(story.stages) > 1
    for number, stage in enumerate(story.stages, 1):
        console.line((f"stage {number}: " if cascade else "") + _stage(stage))
    found = list(enumerate(story.first_stage, 1))[:SHOWN]
    console.table(
        f"first stage, {len(found)} of {len(story.first_stage)} documents",
        ["rank", "document", "score", "grade"],
        [[str(rank), doc, f"{score:.4f}", _grade(story.grades.get(doc))] for rank, (doc, score) in found],
    )
    if story.asks:
        console.table(
            f"{len(story.asks)} asks",
            [
                "ask",
                *(["stage"] if cascade else []),
                *("round", "kind", "presented", "answer", "read as"),
                "tokens",
                "from",
            ],
            [_row(number, asked, story) for number, asked in enumerate(story.asks, 1)],
        )
    for number, asked in enumerate(story.asks, 1):
        if asked.prompt:
            size = "" if asked.prompt.tokens is None else f", {len(asked.prompt.tokens)} tokens"
            console.block(f"----- prompt of ask {number}{size}\n{asked.prompt.text}\n----- end of the prompt")
    if story.moves:
        console.table(
            "the order",
            ["rank", "before", "document", "grade"],
            [[str(move.rank), _number(move.before), move.doc, _grade(move.grade)] for move in story.moves],
        )
    if story.cost:
        console.line(f"last execution: {_spent(story.cost)}")
        for number, stage in enumerate(story.stages, 1):
            if cascade and stage.cost:
                console.line(f"stage {number}: {_spent(stage.cost)}")
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
        "query": dataclasses.asdict(story.query),
        **({"stages": stages} if len(stages) > 1 else {key: stages[0][key] for key in ("ranker", "model")}),
        "first_stage": [
            {"rank": rank, "doc": doc, "score": score, "grade": story.grades.get(doc)}
            for rank, (doc, score) in enumerate(story.first_stage, 1)
        ],
        "asks": [_ask_as_json(number, asked, story) for number, asked in enumerate(story.asks, 1)],
        "moves": [dataclasses.asdict(move) for move in story.moves],
        "cost": dataclasses.asdict(story.cost) if story.cost else None,
        "notes": list(story.notes),
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
