"""Candidates with their text: a first stage and its documents in one file.

Three forms, told apart by their keys, in a JSON list (`.json`) or one object a line (`.jsonl`):

    {query: str, hits: [{qid, docid, content, score}]}                           RankLLM's, first form
    {query: {text, qid}, candidates: [{docid, score, doc: {title, text, …}}]}    RankLLM's, present form
    {qid, query: str, docs: [{docid, text, score}]}

The order of the list is the order of the first stage, as in RankLLM, whatever the scores say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from ...rerankers.types import Query
from ..io.files import fault, json_kind
from ..run.runfile import Run
from .base import Docs
from .corpus import TextStore
from .local import Files
from .records import DOC_IDS, QUERY_IDS, QueryList, Spot, document_text, identifier, numeric, plain_text, records, unfit

_LISTS = ("hits", "candidates", "docs")


class CandidatesFile(Files):
    """Candidates with text. Beside them there may be `qrels`, and `queries` that give the queries' text."""

    @property
    def query_list(self) -> QueryList:
        """All queries of the file."""
        return self._contents[0]

    def docs(self) -> Docs:
        """Return the candidates' documents."""
        return self._contents[1]

    def first_stage(self) -> Run:
        """Return the candidates in their order. Where none has a score, scores are n, n - 1, … 1."""
        return self._contents[2]

    @cached_property
    def _contents(self) -> tuple[QueryList, TextStore, Run]:
        path, texts = self._files["candidates"], super().query_list.queries if "queries" in self._files else None
        queries, docs, run = QueryList(path), TextStore(str(path)), Run()
        for spot, item in records(path):
            listed = next((item[name] for name in _LISTS if name in item), None)
            if not isinstance(listed, list):
                raise fault(*spot, "no list of candidates: `hits`, `candidates` or `docs` is expected")
            hits = [_hit(hit, spot) for hit in listed]
            query = _query(item, listed, texts, spot)
            if query is None:
                queries.nameless.append(str(spot[1]))
                continue
            if query.id in run:
                raise fault(*spot, f"query {query.id} is there already")
            queries.add(query.id, query.text, spot)
            run[query.id] = _ranked(query.id, hits, spot)
            known = docs.lookup([hit.id for hit in hits])
            for hit in hits:
                if known.get(hit.id, hit.text) != hit.text:
                    raise fault(*spot, f"candidate {hit.id} has another text with an earlier query")
            docs.add((hit.id, hit.text) for hit in hits if hit.id not in known)
        return queries, docs, run


class _Hit(NamedTuple):
    id: str
    text: str
    score: float | None


def _hit(hit: Any, spot: Spot) -> _Hit:
    if not isinstance(hit, dict):
        raise fault(*spot, f"a candidate is {json_kind(hit)}, not an object")
    id_ = identifier(hit, DOC_IDS, spot)
    if wrong := unfit(id_, spot):
        raise wrong
    document = hit.get("doc", hit)
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, dict):
        raise fault(*spot, f"candidate {id_}: `doc` is {json_kind(document)}, not an object")
    score = hit.get("score")
    if score is not None and not math.isfinite(numeric(score)):
        raise fault(*spot, f"candidate {id_}: the score {score!r:.40} is not a finite number")
    return _Hit(id_, document_text(document, spot), None if score is None else numeric(score))


def _query(item: Mapping[str, Any], hits: list[Any], texts: Mapping[str, Query] | None, spot: Spot) -> Query | None:
    """Return the item's query, or None where it has neither hits nor an identifier.

    The identifier stands beside the text, beside the query, or in each of the hits.
    """
    holder = item["query"] if isinstance(item.get("query"), dict) else item
    if holder.keys() & {*QUERY_IDS}:
        id_ = identifier(holder, QUERY_IDS, spot)
    elif hits:
        ids = {identifier(hit, ("qid",), spot) for hit in hits}
        if len(ids) != 1:
            raise fault(*spot, f"one query identifier is expected in the hits' `qid`, not {', '.join(sorted(ids))}")
        (id_,) = ids
    else:
        return None
    if texts is None:
        text = plain_text(holder, ("text", "query"), spot)
        if text is None:
            raise fault(*spot, "no text: `text` or `query` is expected")
        return Query(id_, text)
    if id_ not in texts:
        raise fault(*spot, f"query {id_} is not in the queries file")
    return texts[id_]


def _ranked(query: str, hits: list[_Hit], spot: Spot) -> list[tuple[str, float]]:
    ids = [hit.id for hit in hits]
    if len(set(ids)) < len(ids):
        twice = next(id_ for position, id_ in enumerate(ids) if id_ in ids[:position])
        raise fault(*spot, f"query {query} has candidate {twice} twice")
    scores = [hit.score for hit in hits if hit.score is not None]
    if scores and len(scores) < len(hits):
        without = next(hit.id for hit in hits if hit.score is None)
        raise fault(*spot, f"query {query}: candidate {without} has no score, others have")
    return list(zip(ids, scores or map(float, range(len(ids), 0, -1)), strict=True))
