"""Ranking from Python: the objects the command line uses, for candidates in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError

from . import catalog
from .backends.base import Backend, Grades, Setting, closed_after
from .errors import InputError, reason
from .ledger import Ledger
from .ranker import Ranker, RankerOptions
from .scheduler import Scheduler
from .types import Candidates, Cost, Doc, Query

if TYPE_CHECKING:
    import pandas as pd

Texts = Mapping[str, str] | Sequence[tuple[str, str]] | Sequence[tuple[str, str, float]]
"""A query's candidates, best first: id → text, or (id, text), or (id, text, first-stage score)."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """A query's ranking, best first, and its cost."""

    docs: tuple[str, ...]
    cost: Cost


def open_model(
    options: Mapping[str, Any], *, grades: Grades | None = None, seed: int = 0, weights: bool = True
) -> Backend:
    """Return a model to rank with, several times if need be, from the keys of a config's `model` section.

    An oracle answers from `grades` (query id → document id → grade). Without `weights` the model renders and counts
    prompts only, and its device need not be here. Raises `InputError` if a key is unknown or the backend is or cannot
    be opened.
    """
    if "backend" not in options:
        raise InputError(f"model: backend is missing; one of {', '.join(catalog.names('backend'))}")
    module = catalog.backend(options["backend"])
    with _input_errors("model", module.Options):
        own = module.Options.model_validate({key: value for key, value in options.items() if key != "backend"})
    return cast("Backend", module.open(own, Setting(seed, grades, weights)))


def rerank(
    queries: Mapping[str, str],
    candidates: Mapping[str, Texts],
    ranker: Mapping[str, Any],
    model: Mapping[str, Any] | Backend,
    *,
    ledger: Path | str | None = None,
) -> dict[str, Reranked]:
    """Return each query's ranking, by query id.

    `ranker` and `model` hold the keys of a config's sections of these names; a model may also be one that
    `open_model` opened. With a `ledger`, answers are kept in that file and never asked for twice. Raises `InputError`
    for an unknown key, a text that is none or a document given twice, and `BackendError` if the model fails.

    >>> import r2llm
    >>> ranked = r2llm.rerank(
    ...     {"q": "capital of France"},
    ...     {"q": {"d1": "Rome is in Italy.", "d2": "Paris is the capital of France."}},
    ...     ranker={"method": "setwise.heapsort"},
    ...     model=r2llm.open_model({"backend": "simulated", "answers": "oracle"}, grades={"q": {"d2": 1}}),
    ... )
    >>> ranked["q"].docs
    ('d2', 'd1')
    """
    if "method" not in ranker:
        raise InputError("ranker: method is missing, such as setwise.heapsort")
    with _input_errors("ranker", RankerOptions, catalog.method(ranker["method"]).params):
        chosen = Ranker.create(ranker)
    of_queries = list(_candidates(queries, candidates))
    backend = open_model(model) if isinstance(model, Mapping) else model
    answers = Ledger(Path(ledger) if ledger is not None else None)
    with closed_after([backend] if isinstance(model, Mapping) else []), contextlib.closing(answers):
        rankings = Scheduler(chosen, backend, answers).rank(of_queries)
        ranked = {cost.query_id: Reranked(ranking.docs, cost) for ranking, cost in rankings}
    return {query_id: ranked[query_id] for query_id in candidates}


def rerank_frame(
    frame: pd.DataFrame,
    ranker: Mapping[str, Any],
    model: Mapping[str, Any] | Backend,
    *,
    ledger: Path | str | None = None,
    costs: list[Cost] | None = None,
) -> pd.DataFrame:
    """Return a frame of candidates, one a row, as PyTerrier passes them, with each query's rows in their new order.

    The columns qid, query, docno and text are needed; others are kept. Rows are taken by descending `score` if there is
    such a column, else in the order given. In the result `rank` counts from 0 and `score` falls with it. Each query's
    cost is added to `costs`. Raises `InputError` if a column is missing.
    """
    if missing := [column for column in ("qid", "query", "docno", "text") if column not in frame.columns]:
        raise InputError(f"the frame has no column {', '.join(missing)}; qid, query, docno and text are needed")
    frame = frame.assign(qid=frame["qid"].astype(str), docno=frame["docno"].astype(str))
    columns = ["docno", "text", *(["score"] if "score" in frame.columns else [])]
    ordered = frame.sort_values("score", ascending=False, kind="stable") if "score" in columns else frame
    groups = {str(qid): rows for qid, rows in ordered.groupby("qid", sort=False)}
    queries = {qid: rows["query"].iloc[0] for qid, rows in groups.items()}
    candidates = {qid: list(zip(*(rows[column] for column in columns), strict=True)) for qid, rows in groups.items()}
    ranked = rerank(queries, candidates, ranker, model, ledger=ledger)
    place = {pair: number for number, pair in enumerate(zip(frame["qid"], frame["docno"], strict=True))}
    result = frame.iloc[[place[qid, doc] for qid in frame["qid"].unique() for doc in ranked[qid].docs]]
    rank = result.groupby("qid", sort=False).cumcount()
    result = result.assign(rank=rank, score=result.groupby("qid")["docno"].transform("size") - rank.astype(float))
    if costs is not None:
        costs += [one.cost for one in ranked.values()]
    return result.reset_index(drop=True)


def _candidates(queries: Mapping[str, str], candidates: Mapping[str, Texts]) -> Iterator[Candidates]:
    for query_id, texts in candidates.items():
        if query_id not in queries:
            raise InputError(f"query {query_id} has candidates but no text")
        _check_text(queries[query_id], f"query {query_id}")
        rows: list[Any] = list(texts.items()) if isinstance(texts, Mapping) else list(texts)
        for row in rows:
            if isinstance(row, str) or len(row) < 2:
                raise InputError(f"query {query_id}: a candidate is an id and a text, not {row!r:.100}")
            _check_text(row[1], f"query {query_id}: document {row[0]}")
            if len(row) > 2 and not isinstance(row[2], Real):
                raise InputError(f"query {query_id}: document {row[0]}: the score is {row[2]!r:.100}, not a number")
        ids = [str(row[0]) for row in rows]
        if len(set(ids)) < len(ids):
            raise InputError(f"query {query_id}: document {max(ids, key=ids.count)} is given twice")
        yield Candidates(
            query=Query(query_id, queries[query_id]),
            docs=tuple(Doc(str(row[0]), row[1]) for row in rows),
            scores=tuple(float(row[2]) if len(row) > 2 else float(-rank) for rank, row in enumerate(rows)),
        )


def _check_text(text: object, name: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{name}: its text is {text!r:.100}, which is no text; leave it out or give a string")


@contextlib.contextmanager
def _input_errors(section: str, *models: type[BaseModel]) -> Iterator[None]:
    """Raise `InputError`, with the nearest key of these models, if options of a section are wrong."""
    try:
        yield
    except ValidationError as error:
        for one in error.errors():
            if one["type"] == "extra_forbidden":
                known = {name for model in models for name in model.model_fields}
                near = catalog.nearest(key := ".".join(map(str, one["loc"])), known, 0.6, "keys")
                raise InputError(f"{section}: unknown key {key}{near}") from error
        raise InputError(f"{section}: {reason(error)}") from error
