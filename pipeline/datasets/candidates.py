"""Candidates with their text: a first stage and its documents in one file.

Three forms, told apart by their keys, in a JSON list (`.json`) or one object a line (`.jsonl`):

    {query: str, hits: [{qid, docid, content, score}]}                           RankLLM's, first form
    {query: {text, qid}, candidates: [{docid, score, doc: {title, text, …}}]}    RankLLM's, present form
    {qid, query: str, docs: [{docid, text, score}]}

The order of the list is the order of the first stage, as in RankLLM, whatever the scores say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ...rerankers.digests import file_digest
from ...rerankers.errors import InputError
from ...rerankers.types import Query
from ..files import Place, fault, json_kind, json_lines, open_bytes, reason
from ..runfile import Run
from .base import Dataset, Docs, Qrels
from .corpus import TextStore, batches
from .records import QUERY_IDS, identifier, plain_text, read_qrels, read_queries, titled_text

_LISTS = ("hits", "candidates", "docs")
_DOC_IDS = ("docid", "doc_id", "_id", "id")
_DOC_TEXTS = ("text", "content", "contents", "segment", "passage", "body")


class CandidatesFile(Dataset):
    """Candidates with text. Beside them there may be `qrels`, and `queries` that give the queries' text."""

    def __init__(self, name: str, files: Mapping[str, Path]) -> None:
        self.name = name
        self._files = files

    def queries(self) -> dict[str, Query]:
        """The queries that have candidates, in the file's order."""
        return self._contents.queries

    def qrels(self) -> Qrels | None:
        """The judgements, where a file of them is given."""
        return self._qrels

    def docs(self) -> Docs:
        """The candidates' documents."""
        return self._contents.docs

    def first_stage(self) -> Run:
        """The candidates in their order. Where none has a score, scores are n, n - 1, … 1."""
        return self._contents.run

    def identity(self) -> dict[str, object]:
        """The SHA-256 of each file."""
        return {kind: file_digest(path) for kind, path in self._files.items()}

    @cached_property
    def _qrels(self) -> Qrels | None:
        return read_qrels(self._files["qrels"]) if "qrels" in self._files else None

    @cached_property
    def _contents(self) -> _Contents:
        texts = read_queries(self._files["queries"]) if "queries" in self._files else None
        return _read(self._files["candidates"], texts)


class _CandidateDocs:
    """The documents of a candidates file. See `base.Docs`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.store = TextStore()

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those identifiers that no query has among its candidates."""
        absent = []
        for batch in batches(dict.fromkeys(ids), 1000):
            found = self.store.texts(batch)
            absent += [id_ for id_ in batch if id_ not in found]
        return absent

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The text of some candidates."""
        found = self.store.texts(ids)
        for id_ in ids:
            if id_ not in found:
                raise InputError(f"{self._path}: no candidate {id_}")
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All candidates of all queries, each once."""
        return iter(self.store)


@dataclass
class _Contents:
    """What a candidates file holds."""

    docs: _CandidateDocs
    queries: dict[str, Query] = field(default_factory=dict)
    run: Run = field(default_factory=dict)


def _read(path: Path, texts: Mapping[str, Query] | None) -> _Contents:
    contents = _Contents(_CandidateDocs(path))
    for place, item in _items(path):
        listed = next((item[name] for name in _LISTS if name in item), None)
        if not isinstance(listed, list):
            raise fault(path, place, "no list of candidates: `hits`, `candidates` or `docs` is expected")
        hits = [_Hit.read(hit, path, place) for hit in listed]
        query = _query(item, listed, texts, path, place)
        if query.id in contents.queries:
            raise fault(path, place, f"query {query.id} is there already")
        contents.queries[query.id] = query
        contents.run[query.id] = _ranked(query.id, hits, path, place)
        contents.docs.store.add(_new_documents(contents.docs.store, hits, path, place))
    return contents


@dataclass(frozen=True, slots=True)
class _Hit:
    """One candidate."""

    id: str
    text: str
    score: float | None

    @classmethod
    def read(cls, hit: Any, path: Path, place: Place) -> _Hit:
        if not isinstance(hit, dict):
            raise fault(path, place, f"a candidate is {json_kind(hit)}, not an object")
        id_ = identifier(hit, _DOC_IDS, path, place)
        document = hit.get("doc", hit)
        if isinstance(document, str):
            document = {"text": document}
        if not isinstance(document, dict):
            raise fault(path, place, f"candidate {id_}: `doc` is {json_kind(document)}, not an object")
        score = hit.get("score")
        if score is not None and not _is_finite(score):
            raise fault(path, place, f"candidate {id_}: the score {score!r} is not a finite number")
        text = titled_text(document, _DOC_TEXTS, path, place)
        return cls(id_, text, None if score is None else float(score))


def _items(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The file's objects, each with its line, or in a JSON list with its position."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        yield from json_lines(path)
        return
    with open_bytes(path) as stream:
        try:
            items = json.load(stream)
        except (ValueError, RecursionError) as error:
            what = f"not JSON ({reason(error)}); name it .jsonl if it has one object a line"
            raise InputError(f"{path}: {what}") from error
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}: a list with an object for each query is expected")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise fault(path, f"item {number}", f"an object is expected, not {json_kind(item)}")
        yield f"item {number}", item


def _query(
    item: Mapping[str, Any], hits: list[Any], texts: Mapping[str, Query] | None, path: Path, place: Place
) -> Query:
    """The item's query. Its identifier stands beside the text, beside the query, or in each of the hits."""
    given = item.get("query")
    holder = given if isinstance(given, dict) else item
    if any(name in holder for name in QUERY_IDS):
        id_ = identifier(holder, QUERY_IDS, path, place)
    else:
        ids = {identifier(hit, ("qid",), path, place) for hit in hits}
        if len(ids) != 1:
            found = ", ".join(sorted(ids)) or "none"
            raise fault(path, place, f"one query identifier is expected in the hits' `qid`, not {found}")
        (id_,) = ids
    if texts is None:
        text = plain_text(holder, ("text", "query"), path, place)
        if not text:
            raise fault(path, place, f"query {id_} has no text")
        return Query(id_, text)
    if id_ not in texts:
        raise fault(path, place, f"query {id_} is not in the queries file")
    return texts[id_]


def _ranked(query: str, hits: list[_Hit], path: Path, place: Place) -> list[tuple[str, float]]:
    ids = [hit.id for hit in hits]
    if len(set(ids)) < len(ids):
        twice = next(id_ for position, id_ in enumerate(ids) if id_ in ids[:position])
        raise fault(path, place, f"query {query} has candidate {twice} twice")
    scores = [hit.score for hit in hits if hit.score is not None]
    if scores and len(scores) < len(hits):
        without = next(hit.id for hit in hits if hit.score is None)
        raise fault(path, place, f"query {query}: candidate {without} has no score, others have")
    return list(zip(ids, scores or map(float, range(len(ids), 0, -1)), strict=True))


def _new_documents(store: TextStore, hits: list[_Hit], path: Path, place: Place) -> list[tuple[str, str]]:
    """The documents not seen with an earlier query. One that was must have the same text."""
    known = store.texts([hit.id for hit in hits])
    for hit in hits:
        if known.get(hit.id, hit.text) != hit.text:
            raise fault(path, place, f"candidate {hit.id} has another text with an earlier query")
    return [(hit.id, hit.text) for hit in hits if hit.id not in known]


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
