"""TREC run files: the one reader and the one writer.

A run file has six columns, `query Q0 document rank score tag`. trec_eval ignores the rank: it orders by
score, up to 9.0.4 in single precision, and puts the greater document identifier first where two are equal.
So a run is read in that order, and written with scores that say the order even in single precision.
"""

from __future__ import annotations

import gc
import math
import operator
import struct
from array import array
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path

from ...rerankers.errors import InputError
from ..io.files import fault, open_bytes, replacing

Run = dict[str, list[tuple[str, float]]]
"""Query identifier to (document identifier, score), best first."""

_Columns = tuple[list[bytes], list[bytes], list[bytes]]
"""The document, rank and score columns of a query, as they stand in the file."""


TIED = (
    "{} have tied scores (the first is {}); ties are ordered by document identifier, descending, as trec_eval does: "
    "9.0.4 and ir-measures compare in single precision, 9.0.8 in double"
)
DOUBLE = (
    "{} have scores that differ only in double precision (the first is {}); their order, which the ranks have too, is "
    "kept: trec_eval 9.0.8 has it so, 9.0.4 and ir-measures take the scores for ties"
)
DISAGREEING = "the rank column disagrees with the scores in {} (the first is {}); the scores decide, as in trec_eval"
UNRANKED = "{} have ranks that are no integers (the first is {}); the scores decide, as in trec_eval"
"""What can be odd about a query's lines."""

COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
"""The columns of a run."""

MSMARCO = ("query", "document", "rank")
"""The columns of a run as MS MARCO has them."""


class _FaultyError(ValueError):
    """Something in the file is wrong; where is looked for afterwards."""


def read(path: Path, queries: Container[str] | None = None) -> tuple[Run, list[str]]:
    """Return a run in trec_eval's order, and notes about what is odd in it; `.gz` is read too.

    What trec_eval reads is read, the rank column not being needed; of an MS MARCO run, which has three columns and goes
    by its name, the rank is all there is. With `queries` only theirs: of other lines no more is looked at than the
    number of columns. Raises InputError with file and line for anything that would change the ranking: another number
    of columns, a score that is not finite, a document given twice to a query, and for `#` lines and an empty file.
    """
    run: Run = {}
    odd: dict[str, list[str]] = {}
    try:
        with _collection_paused():
            columns, notes = _columns(path, queries)
            for raw in list(columns):
                written = columns.pop(raw)
                documents, ranks, scores = _values(written)
                query = raw.decode()
                if not all(map(bytes.isdigit, written[1])):
                    odd.setdefault(UNRANKED, []).append(query)
                if not _decreasing(array("f", scores)):
                    order, kind = _trec_eval_order(documents, ranks, scores)
                    documents, ranks = [documents[i] for i in order], [ranks[i] for i in order]
                    scores = [scores[i] for i in order]
                    if kind:
                        odd.setdefault(kind, []).append(query)
                if _disagree(ranks, scores):
                    odd.setdefault(DISAGREEING, []).append(query)
                run[query] = list(zip(documents, scores, strict=True))
    except ValueError:
        _find_fault(path)
        raise
    if not run and queries is None:
        raise InputError(f"{path}: the run file is empty")
    notes += [what.format(f"{len(ids)} of {len(run)} queries", ids[0]) for what, ids in odd.items()]
    return run, [f"{path}: {note}" for note in notes]


def _columns(path: Path, queries: Container[str] | None) -> tuple[dict[bytes, _Columns], list[str]]:
    """Each query's columns, and notes. Bytes, unread: this loop decides how long a large file takes."""
    columns: dict[bytes, _Columns] = {}
    skipped: _Columns
    current, tag, tags, blank = None, b"", set(), False
    msmarco = _is_msmarco(path)
    with open_bytes(path) as stream:
        try:
            for line in stream:
                if msmarco:
                    query, document, rank = line.split()
                    score = b"%.17g" % (1 / int(rank))
                else:
                    query, _, document, rank, score, tag = line.split(None, 5)
                if query != current:
                    current = query
                    documents, ranks, scores = skipped = ([], [], [])
                    if queries is None or query.decode() in queries:
                        documents, ranks, scores = columns.setdefault(query, skipped)
                documents.append(document)
                ranks.append(rank)
                scores.append(score)
                tags.add(tag)
        except (ValueError, ZeroDivisionError) as error:
            blank = not line.strip() and not any(map(bytes.strip, stream))
            if not blank:
                raise _FaultyError from error
    if any(query.startswith(b"#") for query in columns):
        raise _FaultyError
    notes = {
        "an MS MARCO run: a document's score is 1 / rank": msmarco,
        "blank lines at the end": blank,
        "words after the sixth column are not looked at": any(len(words.split()) > 1 for words in tags),
    }
    return columns, [note for note, applies in notes.items() if applies]


def _is_msmarco(path: Path) -> bool:
    """Whether a file is a run as MS MARCO has them, by its name and first line: query, document and rank."""
    if not (path.name.removesuffix(".gz").endswith(".tsv") or "msmarco" in path.name):
        return False
    with open_bytes(path) as stream:
        return len(stream.readline().split()) == len(MSMARCO)


def _rank(text: bytes) -> float:
    """The rank, which some tools write as 1.0; not a number where it is none."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return math.nan


def _values(columns: _Columns) -> tuple[list[str], list[float], list[float]]:
    """A query's columns as text and numbers, checked."""
    documents = b"\n".join(columns[0]).decode().split("\n")
    ranks = list(map(_rank, columns[1]))
    scores = list(map(float, columns[2]))
    if len(set(documents)) < len(documents) or not all(map(math.isfinite, array("f", scores))):
        raise _FaultyError
    if any(b"_" in score for score in columns[2]):  # Python's digits may be grouped, C's may not
        raise _FaultyError
    return documents, ranks, scores


def _decreasing(scores: Sequence[float]) -> bool:
    return all(map(operator.gt, scores, islice(scores, 1, None)))


def _trec_eval_order(
    documents: Sequence[str], ranks: Sequence[float], scores: Sequence[float]
) -> tuple[list[int], str]:
    """Positions by descending score, then by descending identifier, and what is odd about it; empty where nothing is.

    trec_eval compares identifiers byte by byte, which in UTF-8 is the order of code points, Python's. Where ranks and
    scores in double precision agree on an order, that is taken, though scores are equal in single precision.
    """
    single = array("f", scores)
    places = range(len(documents))
    by_single = sorted(places, key=lambda i: (single[i], documents[i]), reverse=True)
    by_double = sorted(places, key=lambda i: (scores[i], documents[i]), reverse=True)
    if by_double != by_single and _increasing([ranks[i] for i in by_double]):
        return by_double, DOUBLE
    return by_single, TIED if _tied([scores[i] for i in by_single]) else ""


def _tied(scores: Sequence[float]) -> bool:
    single = array("f", scores)
    return any(map(operator.eq, single, islice(single, 1, None)))


def _increasing(ranks: Sequence[float]) -> bool:
    return all(map(operator.lt, ranks, islice(ranks, 1, None)))


def _disagree(ranks: Sequence[float], scores: Sequence[float]) -> bool:
    """Whether a document with a lower score has the better rank. Ties may be ranked either way."""
    if _increasing(ranks) or any(map(math.isnan, ranks)):
        return False
    single = array("f", scores)
    by_score = sorted(range(len(ranks)), key=lambda i: (-single[i], ranks[i]))
    return any(ranks[a] > ranks[b] for a, b in pairwise(by_score))


def _find_fault(path: Path) -> None:
    """Raise InputError for the first line that is wrong. Slow, and only called when one is known to be."""
    first_seen: dict[tuple[bytes, bytes], int] = {}
    msmarco = _is_msmarco(path)
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            wrong = _fault_of(line, msmarco=msmarco)
            if wrong is None:
                query, document = operator.itemgetter(0, 1 if msmarco else 2)(line.split())
                before = first_seen.setdefault((query, document), number)
                if before != number:
                    wrong = f"query {query.decode()} has document {document.decode()} on line {before} too"
            if wrong is not None:
                raise fault(path, number, wrong)


def _fault_of(line: bytes, *, msmarco: bool) -> str | None:
    """What is wrong with one line by itself."""
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return "not UTF-8; convert it"
    columns = line.split()
    if not columns:
        return "a blank line; a run file has none but at its end"
    if text.lstrip().startswith("#"):
        return "a comment; evaluators stumble over it, so keep metadata in a file beside the run"
    if msmarco:
        if len(columns) != len(MSMARCO):
            return f"{len(columns)} columns, not the three of an MS MARCO run: {', '.join(MSMARCO)}"
        return None if columns[2].isdigit() and int(columns[2]) else f"the rank {columns[2].decode()} is not 1 or more"
    if len(columns) < len(COLUMNS):
        hint = "; a run of MS MARCO's three columns has a name that ends in .tsv" if len(columns) == 3 else ""
        return f"{len(columns)} columns, not the six of `{' '.join(COLUMNS)}`{hint}"
    score = columns[4]
    if b"_" in score or not _is_number(score):
        return f"the score {score.decode()} is not a number"
    if not math.isfinite(_single(float(score))):
        return f"the score {score.decode()} is not finite in single precision, in which trec_eval compares"
    return None


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _single(score: float) -> float:
    """The score as trec_eval holds it, in single precision."""
    return array("f", [score])[0]


@contextmanager
def _collection_paused() -> Iterator[None]:
    """No garbage collection meanwhile: it would visit millions of new tuples again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def write(path: Path, rankings: Mapping[str, Sequence[str]], candidates: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write rankings, best first, as a run file with scores n, n - 1, … 1, so that the score says the rank.

    `candidates` are each query's documents before ranking. Raises InputError, and leaves an existing file as
    it is, where a ranking is not a permutation of them, and for an identifier or tag with white space.
    """
    _check_word("the tag", tag)
    _check_same_queries(rankings, candidates)
    for query, ranking in rankings.items():
        _check_permutation(query, ranking, candidates[query])
    scored = {query: list(zip(r, range(len(r), 0, -1), strict=True)) for query, r in rankings.items()}
    _write(path, scored, tag)


def write_scored(path: Path, run: Run, tag: str) -> int:
    """Write a first stage in its own order with its own scores; return how many of them had to be lowered.

    Where a score is not below the one before it (a tie, or an order that is not by score), an evaluator would
    read another order than the one that was reranked. Such a score is lowered: see `strict`.
    """
    _check_word("the tag", tag)
    for query, ranking in run.items():
        documents = [document for document, _ in ranking]
        _check_permutation(query, documents, documents)
    written = strict(run)
    _write(path, written, tag)
    return sum(map(operator.ne, _scores(run), _scores(written)))


def strict(run: Run) -> Run:
    """The run in its own order, its scores as `write_scored` writes them.

    Where a score is not below the one before it, it becomes the next single-precision number below that one, the
    smallest change that keeps the order; all others are as they are.
    """
    found: Run = {}
    for query, ranking in run.items():
        documents = [document for document, _ in ranking]
        below = _strictly_decreasing(query, documents, [score for _, score in ranking])
        found[query] = list(zip(documents, below, strict=True))
    return found


def _scores(run: Run) -> Iterator[float]:
    return (score for ranking in run.values() for _, score in ranking)


def _strictly_decreasing(query: str, documents: Sequence[str], scores: Sequence[float]) -> list[float]:
    """The scores, each lowered where it is not below the one before it in single precision."""
    result: list[float] = []
    last = math.inf
    for document, score in zip(documents, scores, strict=True):
        kept = float(score) if _single(score) < last else _next_below(last)
        last = _single(kept)
        if not math.isfinite(_single(score)) or not math.isfinite(last):
            raise InputError(f"query {query}: single precision cannot hold document {document}'s score {score}")
        result.append(kept)
    return result


def _next_below(value: float) -> float:
    """The greatest single-precision number below one."""
    if value == 0:
        return -math.ldexp(1, -126)  # not a subnormal number: some libraries make the process take those for zero
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    (below,) = struct.unpack("<f", struct.pack("<i", bits - 1 if value > 0 else bits + 1))
    return float(below)


def _write(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    if not any(run.values()):
        raise InputError(f"{path}: nothing to write: no query has a document")
    with replacing(path) as stream:
        for query, ranking in run.items():
            stream.writelines(
                f"{query} Q0 {document} {rank} {score!r} {tag}\n" for rank, (document, score) in enumerate(ranking, 1)
            )


def _check_same_queries(rankings: Mapping[str, Sequence[str]], candidates: Mapping[str, Sequence[str]]) -> None:
    for query in candidates:
        if query not in rankings:
            raise InputError(f"query {query} has candidates but no ranking: the run would lose it")
    for query in rankings:
        if query not in candidates:
            raise InputError(f"query {query} has a ranking but no candidates: the run would invent it")


def _check_permutation(query: str, ranking: Sequence[str], candidates: Sequence[str]) -> None:
    """Refuse a ranking that is not of the candidates, each once, and identifiers that are not one word."""
    _check_word("the query identifier", query)
    expected = set(candidates)
    seen: set[str] = set()
    for document in ranking:
        _check_word(f"query {query}: the document identifier", document)
        if document in seen:
            raise InputError(f"query {query}: document {document} is ranked twice")
        if document not in expected:
            raise InputError(f"query {query}: document {document} is ranked but was no candidate")
        seen.add(document)
    for document in candidates:
        if document not in seen:
            raise InputError(f"query {query}: candidate {document} is lost from the ranking")


def _check_word(what: str, text: str) -> None:
    if text.split() != [text]:
        raise InputError(f"{what} {text!r} is not one word: a run file is split at white space")
