"""The data formats: one definition of field names, nulls, titles, white space and grades for all readers.

JSON lines, a JSON array, TSV and TREC topics are told apart by how a file begins; of a folder all JSON files are read.
Whatever it is written in, a record becomes a mapping of field names to values.
"""

import html
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...rerankers.errors import InputError
from ...rerankers.types import Query
from ..io.files import SUFFIXES, WHITE, Place, fault, json_kind, json_lines, lines, open_bytes, reason, words

Qrels = dict[str, dict[str, int]]
"""Query identifier to document identifier to grade."""

DOC_IDS = ("_id", "id", "pid", "docid", "doc_id", "docno", "segment_id")
QUERY_IDS = ("_id", "id", "qid", "query_id", *DOC_IDS[2:])
DOC_TEXTS = ("text", "contents", "segment", "body", "passage", "content")
QUERY_TEXTS = ("text", "query", "contents", "title")
"""Names of fields: of those that a record has, the first that is not null counts."""

TOPIC_PARTS = {
    "title": ("title", "query", "text"),
    "description": ("description", "desc", "question"),
    "narrative": ("narrative", "narr"),
}
"""The names of a topic's parts; any other goes by its own."""

JUDGEMENT = (
    ("qid", "query_id", "query"),
    ("corpus_id", *DOC_IDS[2:]),
    ("score", "label", "relevance", "rel", "grade"),
)
"""The names of qrels' columns in a header, `-` being `_`."""

JUDGE = "judge:"
"""The beginning of the iteration column of a judgement that a model made; the model's name follows."""

_LARGEST_GRADE = 10**7
"""The limit of a grade: trec_eval, which counts documents by grade in an array, may silently measure 0 above it."""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_TAG = re.compile(r"<!--.*?(?:-->|\Z)|<[?!][^<>]*>|<(/?)([A-Za-z][\w.-]*)((?:\s[^<>]*)?)/?>", re.DOTALL)
_ATTRIBUTE = re.compile(r"""([\w:.-]+)\s*=\s*["']([^"']*)["']""")
_INLINE = ("p", "b", "i", "u", "em", "strong", "sub", "sup", "br", "span")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
_LABEL = re.compile(r"^(?:number|topic|description|narrative)\s*:\s*", re.IGNORECASE)


class Record(NamedTuple):
    """A record of a file, whatever it is written in: its fields by name, and where it stands."""

    path: Path
    place: Place
    fields: Mapping[str, Any]

    def fault(self, problem: str) -> InputError:
        """Return the error for a mistake in it."""
        return fault(self.path, self.place, problem)

    def first(self, names: Sequence[str]) -> Any:
        """Return the first value under the names that is neither null nor, as pandas writes it, NaN; or None."""
        for name in names:
            if (value := self.fields.get(name)) is not None and value == value:
                return value
        return None

    def identifier(self, names: Sequence[str]) -> str:
        """Return its identifier, whether or not a run file can hold it. Raise InputError if it has none."""
        value = self.first(names)
        if value is None:
            raise self.fault(f"no identifier: {_any_of(names)} is expected")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.fault(f"the identifier is {json_kind(value)}, not a string or an integer")
        if not words(str(value)):
            raise self.fault(f"the identifier {value!r} is not one word")
        return str(value)

    def unfit(self, id_: str) -> InputError | None:
        """Return the error for an identifier that a run file cannot hold; None if it can."""
        if words(id_) == [id_] == [clean(id_)]:
            return None
        return self.fault(f"the identifier {id_!r} is not one word, without white space or half of a surrogate pair")

    def text(self, names: Sequence[str]) -> str | None:
        """Return its text; empty where it is null, None where it has none of the names."""
        value = self.first(names)
        if value is None:
            return "" if any(name in self.fields for name in names) else None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.fault(f"the text is {json_kind(value)}, not a string")
        return clean(str(value))

    def document(self) -> str:
        """Return a document's default text: title and headings, where it has them, and text, with spaces between.

        A title alone is a text.
        """
        text = self.text(DOC_TEXTS)
        if text is None and "title" not in self.fields:
            raise self.fault(f"no text: {_any_of((*DOC_TEXTS, 'title'))} is expected")
        before = [self.text((name,)) for name in ("title", "headings") if self.fields.get(name)]
        return " ".join(part for part in (*before, text) if part)


def records(path: Path, *, topics: bool = False) -> Iterator[Record]:
    """Yield the records of a file, or of all JSON files in a folder; markup only as `topics`."""
    if path.is_dir():
        for file in files_of(path):
            yield from records(file)
        return
    with open_bytes(path) as stream:
        start = stream.peek(1).lstrip()[:200]
    if start.startswith(b"[") and (_is_json(path) or re.match(rb"\[\s*\{", start)):
        rows: Iterator[tuple[Place, Mapping[str, Any]]] = _array(path)
    elif _is_json(path) or re.match(rb'\{\s*"', start):
        rows = iter(json_lines(path))
    elif not re.match(rb"<[?!A-Za-z][^\t>]*>", start):
        rows = _rows(path)
    elif topics:
        rows = _topics(path)
    else:
        raise fault(path, 1, "this is markup, which is read for queries only; convert it to JSON lines or TSV")
    for place, fields in rows:
        yield Record(path, place, fields)


def files_of(folder: Path) -> list[Path]:
    """Return the JSON files of a folder, in the order of their names."""
    if any(folder.glob("corpus.jsonl*")):
        raise InputError(f"{folder}: a BEIR folder; give it as the `dataset`, or its corpus.jsonl as `docs`")
    files = sorted(file for file in folder.rglob("[!.]*") if _is_json(file))
    if not files:
        raise InputError(f"{folder}: a folder without JSON lines (.jsonl, .json or .ndjson, compressed or not)")
    return files


def _is_json(path: Path) -> bool:
    return any(path.name.endswith(f"{kind}{suffix}") for kind in (".json", ".jsonl", ".ndjson") for suffix in SUFFIXES)


def _array(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    with open_bytes(path) as stream:
        try:
            items = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise fault(path, getattr(error, "lineno", 1), f"not JSON ({reason(error)})") from error
    if not items:
        raise InputError(f"{path}: a list with nothing in it")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise fault(path, f"item {number}", f"a JSON object is expected, not {json_kind(item)}")
        yield f"item {number}", item


def _rows(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield the rows of a TSV file. Without a header they are split at the first tab; `#` begins a comment."""
    header: list[str] = []
    for number, line in lines(path):
        first, tab, _ = line.partition("\t")
        if line.startswith("#") and (not tab or first == "#" or words(first) != [first]):
            continue
        if not header:
            names = [cell.strip(WHITE).lower() for cell in line.split("\t")]
            named = {*QUERY_IDS} & {*names} and {*DOC_TEXTS, *QUERY_TEXTS} & {*names}
            header = names if named else ["_id", "text"]
            if named:
                continue
        cells = line.split("\t", len(header) - 1)
        if len(cells) != len(header):
            problem = f"{len(cells)} tab-separated columns, not {len(header)} ({', '.join(header)})"
            raise fault(
                path, number, f"{problem}; TSV, JSON lines, a JSON array and, for queries, TREC topics are read"
            )
        yield number, dict(zip(header, cells, strict=True))


def _topics(path: Path) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield TREC topics: `<top>`, whose parts need no closing tags, XML, `<DOC>`. Attributes are parts too."""
    numbered = dict(lines(path))
    text = "\n".join(numbered.get(number, "") for number in range(1, max(numbered) + 1))
    text = _CDATA.sub(lambda section: html.escape(section[1]), text)
    topic: dict[str, str] | None = None
    kind = name = ""
    line, begin, last, end = 1, 0, 0, 0
    for tag in _TAG.finditer(text):
        if topic is not None:
            topic[name] = topic.get(name, "") + text[end : tag.start()]
        line += text.count("\n", last, tag.start())
        last, end = tag.start(), tag.end()
        here = (tag[2] or "").lower()
        if here in ("top", "topic", "doc") or here == (kind or "query"):
            if topic is not None:
                yield begin, _parts(topic)
            topic = None if tag[1] else {key.lower(): value for key, value in _ATTRIBUTE.findall(tag[3])}
            kind, name, begin = "" if tag[1] else here, "", line
        elif topic is not None and here and here not in _INLINE:
            # Of a part that is there again, such as a subtopic's, the first counts.
            name = "" if tag[1] else here if here not in topic else f"another {here}"
    if topic is not None:
        yield begin, _parts({**topic, name: topic.get(name, "") + text[end:]})
    if not kind and begin == 0:
        raise fault(path, 1, "markup without a topic: <top>, <topic>, <query> or <DOC> is expected")


def _parts(topic: Mapping[str, str]) -> dict[str, str]:
    """Return a topic's parts without labels such as `Number:`; its number is `_id`, its title or else body `text`."""
    parts = {name: _LABEL.sub("", " ".join(words(html.unescape(part))), 1) for name, part in topic.items()}
    number = parts.get("number") or parts.get("num")
    title = next((parts[name] for name in TOPIC_PARTS["title"] if name in parts), parts.pop("", ""))
    return {**parts, **({"_id": number} if number else {}), **({"text": title} if title else {})}


class QueryList:
    """The queries of one source in its order, and those that cannot be run."""

    def __init__(self, source: Path | str) -> None:
        self.source = source
        self.queries: dict[str, Query] = {}
        self.nameless: list[str] = []
        self._empty: list[str] = []
        self._repeated: list[str] = []
        self._faults: dict[str, InputError] = {}
        self._places: dict[str, Place] = {}

    def add(self, id_: str, text: str, record: Record) -> None:
        """Add a query, if it is not there yet; keep another text or an impossible identifier as a fault."""
        query = Query(id_, clean(text))
        if id_ not in self._places:
            self._places[id_] = record.place
            if wrong := record.unfit(id_):
                self._faults[id_] = wrong
            if query.text:
                self.queries[id_] = query
            else:
                self._empty.append(id_)
        elif self.queries.get(id_, Query(id_, "")) == query:
            self._repeated.append(id_)
        else:
            problem = f"query {id_} is there already, {at(self._places[id_])}, with another text"
            self._faults.setdefault(id_, record.fault(problem))

    def notes(self, chosen: Iterable[str], judged: Collection[str]) -> list[str]:
        """Return what is left out of the queries, a line each. Raise InputError where a chosen query has a fault."""
        for id_ in chosen:
            if id_ in self._faults:
                raise self._faults[id_]
        absent = [id_ for id_ in judged if id_ not in self._places]
        if len(absent) == len(judged):  # then nothing can be measured, which is an error of its own
            absent = []
        total = f"{len(self._places) + len(self.nameless)} queries"
        left_out = {
            f"{total}: no text": self._empty,
            f"{total}: neither candidates nor an identifier": self.nameless,
            f"{len(self._places) + len(self._repeated)} entries: the same query again": self._repeated,
            f"{total}: faulty, and not asked for": list(self._faults),
            f"{len(judged)} judged queries: not in it": absent,
        }
        lines = [f"{len(ids)} of {words} (the first is {ids[0]})" for words, ids in left_out.items() if ids]
        return [f"{self.source}: left out {line}" for line in lines]


def read_queries(path: Path, part: str | None = None) -> QueryList:
    """Return the queries of a file. `part` is the part of a topic that is its text, by default the title."""
    names = TOPIC_PARTS.get(part, (part,)) if part else QUERY_TEXTS
    queries = QueryList(path)
    without: InputError | None = None
    for record in records(path, topics=True):
        if (text := record.text(names)) is None:
            problem = f"no text: {_any_of(names)} is expected, and there is {', '.join(record.fields)}"
            without = without or record.fault(problem)
        queries.add(record.identifier(QUERY_IDS), text or "", record)
    if not queries.queries:
        raise without or InputError(f"{path}: no query with a text")
    return queries


def read_qrels(path: Path, models: dict[tuple[str, str], str] | None = None) -> Qrels:
    """Return judgements: TREC's four columns `query iteration document grade`, or BEIR's three, under a header or none.

    The same judgement twice is one; two grades for one document are an error. `#` begins a comment. Judgements that a
    model made are refused, unless `models` takes each one's model, by query and document; people's come before them.
    """
    qrels: Qrels = {}
    made: Qrels = {}
    columns: tuple[int, ...] = ()
    width = 0
    for number, line in lines(path):
        if line.lstrip(WHITE).startswith("#"):
            continue
        cells, tabbed = words(line), line.split("\t")
        if width and len(cells) != width == len(tabbed):
            cells = [cell.strip(WHITE) for cell in tabbed]  # an identifier with blanks
        if not columns:
            width = len(cells)
            columns = (0, width - 2, width - 1)
            names = [cell.lower().replace("-", "_") for cell in cells]
            if math.isnan(numeric(cells[-1])) and (width == 3 or {*sum(JUDGEMENT, ())} & {*names}):
                columns = tuple(
                    next((at for at, name in enumerate(names) if name in known), usual)
                    for known, usual in zip(JUDGEMENT, columns, strict=True)
                )
                continue
        if len(cells) != width or width not in (3, 4):
            expected = f"{width} as above" if width in (3, 4) else "4 (TREC) or 3 (BEIR)"
            raise fault(path, number, f"{len(cells)} columns, not {expected}")
        query, document, grade = (cells[column] for column in columns)
        value = numeric(grade)
        if abs(value) > _LARGEST_GRADE:
            raise fault(path, number, f"the grade {grade[:20]} is too large: trec_eval takes up to {_LARGEST_GRADE}")
        if not value.is_integer():
            raise fault(path, number, f"the grade {grade!r} is not an integer; ir-measures takes no others")
        model = cells[1].removeprefix(JUDGE) if width == 4 and cells[1].startswith(JUDGE) else None
        if model is not None and models is None:
            problem = f"a judgement that the model {model} made, in place of people's"
            raise fault(path, number, f"{problem}: r2llm evaluate --qrels measures with it, marked; leave it out here")
        if model is not None and models is not None:
            models[query, document] = model
        other = (qrels if model is None else made).setdefault(query, {}).setdefault(document, int(value))
        if other != value:
            raise fault(path, number, f"query {query} judges document {document} {grade}, and {other} before")
    for query, grades in made.items():
        people = qrels.setdefault(query, {})
        for document in grades.keys() & people.keys():
            (models or {}).pop((query, document), None)
        qrels[query] = grades | people
    if not qrels:
        raise fault(path, 1, "the qrels hold a header and no judgement")
    return qrels


def at(place: Place) -> str:
    """Return a place in words."""
    return f"on line {place}" if isinstance(place, int) else f"as {place}"


def numeric(value: object) -> float:
    """Return a number, also one written as a string; infinity where it is too large, NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not _NUMBER.fullmatch(str(value)):
        return math.nan
    return float(str(value))


def clean(text: str) -> str:
    """Return the text without white space around it; half of a surrogate pair, which no file takes, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.strip(WHITE)


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)
