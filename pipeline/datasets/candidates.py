"""Candidates with their text: a first stage and its documents in one file.

Three forms, told apart by their keys, in a JSON list (`.json`) or one object a line (`.jsonl`):

    {query: str, hits: [{qid, docid, content, score}]}                           RankLLM's, first form
    {query: {text, qid}, candidates: [{docid, score, doc: {title, text, …}}]}    RankLLM's, present form
    {qid, query: str, docs: [{docid, text, score}]}

The order of the list is the order of the first stage, as in RankLLM, whatever the scores say.
"""

import math
from functools import cached_property
from typing import Any

from ...rerankers.types import Query
from ..io.files import json_kind
from ..run.runfile import Run
from .base import Docs
from .local import Files, TextStore
from .records import DOC_IDS, QUERY_IDS, QueryList, Record, numeric, records

_LISTS = ("hits", "candidates", "docs")


class CandidatesFile(Files):
    """Candidates with text. Beside them there may be `qrels`."""

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
        path = self._files["candidates"]
        queries, docs, run = QueryList(path), TextStore(str(path)), Run()
        for record in records(path):
            listed = next((record.fields[name] for name in _LISTS if name in record.fields), None)
            if not isinstance(listed, list):
                raise record.fault("no list of candidates: `hits`, `candidates` or `docs` is expected")
            hits = [_hit(hit, record) for hit in listed]
            query = _query(record, listed)
            if query is None:
                queries.nameless.append(str(record.place))
                continue
            if query.id in run:
                raise record.fault(f"query {query.id} is there already")
            queries.add(query.id, query.text, record)
            ids = [id_ for id_, _, _ in hits]
            if len(set(ids)) < len(ids):
                raise record.fault(f"query {query.id} has candidate {max(ids, key=ids.count)} twice")
            scores = [score for _, _, score in hits if score is not None]
            if scores and len(scores) < len(hits):
                without = next(id_ for id_, _, score in hits if score is None)
                raise record.fault(f"query {query.id}: candidate {without} has no score, others have")
            run[query.id] = list(zip(ids, scores or map(float, range(len(ids), 0, -1)), strict=True))
            known = docs.lookup(ids)
            if changed := next((id_ for id_, text, _ in hits if known.get(id_, text) != text), None):
                raise record.fault(f"candidate {changed} has another text with an earlier query")
            docs.add((id_, text) for id_, text, _ in hits if id_ not in known)
        return queries, docs, run


def _hit(fields: Any, record: Record) -> tuple[str, str, float | None]:
    """Return a candidate's identifier, text and score."""
    if not isinstance(fields, dict):
        raise record.fault(f"a candidate is {json_kind(fields)}, not an object")
    hit = record._replace(fields=fields)
    id_ = hit.identifier(DOC_IDS)
    if wrong := hit.unfit(id_):
        raise wrong
    document = fields.get("doc", fields)
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, dict):
        raise hit.fault(f"candidate {id_}: `doc` is {json_kind(document)}, not an object")
    score = fields.get("score")
    if score is not None and not math.isfinite(numeric(score)):
        raise hit.fault(f"candidate {id_}: the score {score!r:.40} is not a finite number")
    return id_, hit._replace(fields=document).document(), None if score is None else numeric(score)


def _query(record: Record, hits: list[Any]) -> Query | None:
    """Return a record's query, or None where it has neither hits nor an identifier.

    The identifier stands beside the text, beside the query, or in each of the hits.
    """
    query = record.fields.get("query")
    holder = record._replace(fields=query) if isinstance(query, dict) else record
    if holder.fields.keys() & {*QUERY_IDS}:
        id_ = holder.identifier(QUERY_IDS)
    elif hits:
        ids = {record._replace(fields=hit).identifier(("qid",)) for hit in hits}
        if len(ids) != 1:
            raise record.fault(f"one query identifier is expected in the hits' `qid`, not {', '.join(sorted(ids))}")
        (id_,) = ids
    else:
        return None
    text = holder.text(("text", "query"))
    if text is None:
        raise record.fault("no text: `text` or `query` is expected")
    return Query(id_, text)
