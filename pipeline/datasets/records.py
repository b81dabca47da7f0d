"""The local file formats: documents, queries and qrels, one record a line, read and checked.

JSON lines where the name says so (`.json`, `.jsonl`, `.ndjson`), else tab-separated; `.gz` may follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rerankers.types import Query
from ..files import Place, fault, json_kind, json_lines, lines
from .base import Qrels

DOC_IDS = ("_id", "id")
DOC_TEXTS = ("text", "contents")
QUERY_IDS = ("_id", "id", "qid", "query_id")
QUERY_TEXTS = ("text", "query", "title")


def read_docs(path: Path) -> Iterator[tuple[int, str, str]]:
    """Documents as (line number, identifier, text), streamed.

    JSON lines of BEIR (`_id`, `text`, `title`) or Anserini (`id`, `contents`), or `id<TAB>text`; the text may
    be empty.
    """
    if _is_json(path):
        for number, record in json_lines(path):
            id_ = identifier(record, DOC_IDS, path, number)
            yield number, id_, titled_text(record, DOC_TEXTS, path, number)
    else:
        for number, (id_, text) in _two_columns(path):
            yield number, id_, text.strip()


def read_queries(path: Path) -> dict[str, Query]:
    """Queries in the file's order: JSON lines, or `id<TAB>text`. Each has its own identifier and a text."""
    queries: dict[str, Query] = {}
    first_seen: dict[str, int] = {}
    for number, id_, text in _query_records(path):
        if not text:
            raise fault(path, number, f"query {id_} has no text")
        if id_ in queries:
            raise fault(path, number, f"query {id_} is there already, on line {first_seen[id_]}")
        queries[id_] = Query(id_, text)
        first_seen[id_] = number
    return queries


def _query_records(path: Path) -> Iterator[tuple[int, str, str]]:
    if _is_json(path):
        for number, record in json_lines(path):
            id_ = identifier(record, QUERY_IDS, path, number)
            yield number, id_, plain_text(record, QUERY_TEXTS, path, number)
    else:
        for number, (id_, text) in _two_columns(path):
            yield number, id_, text.strip()


def read_qrels(path: Path) -> Qrels:
    """Judgements: TREC's four columns `query iteration document grade`, or BEIR's three under a header line.

    The same judgement twice is one; two grades for one document are an error.
    """
    qrels: Qrels = {}
    width = 0
    for number, line in lines(path):
        columns = line.split()
        if not width:
            width = len(columns)
            if width == 3 and not _is_integer(columns[2]):
                continue  # BEIR's header: query-id corpus-id score
        if len(columns) != width or width not in (3, 4):
            expected = f"{width} as above" if width in (3, 4) else "4 (TREC) or 3 (BEIR)"
            raise fault(path, number, f"{len(columns)} columns, not {expected}")
        query, document, grade = columns[0], columns[-2], columns[-1]
        if not _is_integer(grade):
            raise fault(path, number, f"the grade {grade!r} is not an integer")
        judged = qrels.setdefault(query, {})
        if judged.setdefault(document, int(grade)) != int(grade):
            other = judged[document]
            raise fault(path, number, f"query {query} judges document {document} {grade}, and {other} before")
    if not qrels:
        raise fault(path, 1, "the qrels hold a header and no judgement")
    return qrels


def identifier(record: Mapping[str, Any], names: Sequence[str], path: Path, place: Place) -> str:
    """The record's identifier, under the first of `names` that it has: one word, as run files need it."""
    value = next((record[name] for name in names if name in record), None)
    if value is None:
        raise fault(path, place, f"no identifier: {_any_of(names)} is expected")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise fault(path, place, f"the identifier is {json_kind(value)}, not a string or an integer")
    return _one_word(str(value), path, place)


def plain_text(record: Mapping[str, Any], names: Sequence[str], path: Path, place: Place) -> str:
    """The text under the first of `names` that the record has, without white space around it."""
    value = next((record[name] for name in names if name in record), None)
    if value is None:
        raise fault(path, place, f"no text: {_any_of(names)} is expected")
    if not isinstance(value, str):
        raise fault(path, place, f"the text is {json_kind(value)}, not a string")
    return _encodable(value).strip()


def titled_text(record: Mapping[str, Any], names: Sequence[str], path: Path, place: Place) -> str:
    """A document's default text: title, a space, text; the text alone where the title is empty."""
    text = plain_text(record, names, path, place)
    if not record.get("title"):
        return text
    return f"{plain_text(record, ('title',), path, place)} {text}".strip()


def _encodable(text: str) -> str:
    """The text with each half of a broken surrogate pair, which no tokenizer or file takes, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _two_columns(path: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, line in lines(path):
        columns = line.split("\t")
        if len(columns) != 2:
            what = f"{len(columns)} tab-separated columns, not 2 (identifier, text)"
            raise fault(path, number, f"{what}; the name of a file of JSON lines ends in .jsonl")
        yield number, (_one_word(columns[0], path, number), columns[1])


def _one_word(id_: str, path: Path, place: Place) -> str:
    if id_.split() != [id_]:
        raise fault(path, place, f"the identifier {id_!r} is not one word without white space")
    return id_


def _is_json(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return name.endswith((".json", ".jsonl", ".ndjson"))


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)
