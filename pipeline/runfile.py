"""TREC run files: the one reader and the one writer.

A run file has six columns, `query Q0 document rank score tag`. trec_eval ignores the rank: it orders by
score, read as a single-precision number, and puts the greater document identifier first where two are equal.
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

from ..rerankers.errors import InputError
from .files import fault, open_bytes, replacing

Run = dict[str, list[tuple[str, float]]]
"""Query identifier to (document identifier, score), best first."""

_Columns = tuple[list[bytes], list[bytes], list[bytes]]
"""The document, rank and score columns of a query, as they stand in the file."""


class _FaultyError(ValueError):
    """Something in the file is wrong; where is looked for afterwards."""


def read(path: Path, queries: Container[str] | None = None) -> tuple[Run, list[str]]:
    """A run in trec_eval's order, and warnings about tied scores and disagreeing ranks; `.gz` is read too.

    With `queries` only theirs: of other lines no more is looked at than the number of columns. Raises InputError with
    file and line for anything but six columns, an integer rank and a finite score, for a document given twice to a
    query, for blank and `#` lines, and for an empty file.
    """
    run: Run = {}
    tied, disagreeing = [], []
    try:
        with _collection_paused():
            columns = _columns(path, queries)
            for raw in list(columns):
                documents, ranks, scores = _values(columns.pop(raw))
                query = raw.decode()
                if not _decreasing(array("f", scores)):
                    order = _trec_eval_order(documents, scores)
                    documents, ranks = [documents[i] for i in order], [ranks[i] for i in order]
                    scores = [scores[i] for i in order]
                    if _tied(scores):
                        tied.append(query)
                if _disagree(ranks, scores):
                    disagreeing.append(query)
                run[query] = list(zip(documents, scores, strict=True))
    except ValueError:
        _find_fault(path)
        raise
    if not run and queries is None:
        raise InputError(f"{path}: the run file is empty")
    return run, _warnings(path, len(run), tied, disagreeing)


def _columns(path: Path, queries: Container[str] | None) -> dict[bytes, _Columns]:
    """Each query's columns. Bytes, unread: this loop decides how long a large file takes."""
    columns: dict[bytes, _Columns] = {}
    skipped: _Columns
    current = None
    with open_bytes(path) as stream:
        for line in stream:
            query, _, document, rank, score, _ = line.split()
            if query != current:
                current = query
                documents, ranks, scores = skipped = ([], [], [])
                if queries is None or query.decode() in queries:
                    documents, ranks, scores = columns.setdefault(query, skipped)
            documents.append(document)
            ranks.append(rank)
            scores.append(score)
    if any(query.startswith(b"#") for query in columns):
        raise _FaultyError
    return columns


def _values(columns: _Columns) -> tuple[list[str], list[int], list[float]]:
    """A query's columns as text and numbers, checked."""
    documents = b"\n".join(columns[0]).decode().split("\n")
    ranks = list(map(int, columns[1]))
    scores = list(map(float, columns[2]))
    if len(set(documents)) < len(documents) or not all(map(math.isfinite, array("f", scores))):
        raise _FaultyError
    return documents, ranks, scores


def _decreasing(scores: Sequence[float]) -> bool:
    return all(map(operator.gt, scores, islice(scores, 1, None)))


def _trec_eval_order(documents: Sequence[str], scores: Sequence[float]) -> list[int]:
    """Positions by descending score, then by descending identifier.

    trec_eval compares identifiers byte by byte, which in UTF-8 is the order of code points, Python's.
    """
    single = array("f", scores)
    return sorted(range(len(documents)), key=lambda i: (single[i], documents[i]), reverse=True)


def _tied(scores: Sequence[float]) -> bool:
    single = array("f", scores)
    return any(map(operator.eq, single, islice(single, 1, None)))


def _disagree(ranks: Sequence[int], scores: Sequence[float]) -> bool:
    """Whether a document with a lower score has the better rank. Ties may be ranked either way."""
    if all(map(operator.lt, ranks, islice(ranks, 1, None))):
        return False
    single = array("f", scores)
    by_score = sorted(range(len(ranks)), key=lambda i: (-single[i], ranks[i]))
    return any(ranks[a] > ranks[b] for a, b in pairwise(by_score))


def _warnings(path: Path, queries: int, tied: Sequence[str], disagreeing: Sequence[str]) -> list[str]:
    warnings = []
    if tied:
        warnings.append(
            f"{path}: {len(tied)} of {queries} queries have tied scores (the first is {tied[0]}); "
            "ties are ordered by document identifier, descending, as trec_eval does"
        )
    if disagreeing:
        warnings.append(
            f"{path}: the rank column disagrees with the scores in {len(disagreeing)} of {queries} queries "
            f"(the first is {disagreeing[0]}); the scores decide, as in trec_eval"
        )
    return warnings


def _find_fault(path: Path) -> None:
    """Raise InputError for the first line that is wrong. Slow, and only called when one is known to be."""
    first_seen: dict[tuple[bytes, bytes], int] = {}
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            wrong = _fault_of(line)
            if wrong is None:
                query, _, document, *_ = line.split()
                before = first_seen.setdefault((query, document), number)
                if before != number:
                    wrong = f"query {query.decode()} has document {document.decode()} on line {before} too"
            if wrong is not None:
                raise fault(path, number, wrong)


def _fault_of(line: bytes) -> str | None:
    """What is wrong with one line by itself."""
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return "not UTF-8; convert it"
    columns = line.split()
    if not columns:
        return "a blank line; a run file has none"
    if text.lstrip().startswith("#"):
        return "a comment; evaluators stumble over it, so keep metadata in a file beside the run"
    if len(columns) != 6:
        return f"{len(columns)} columns, not the six of `query Q0 document rank score tag`"
    rank, score = columns[3], columns[4]
    if not _is_number(int, rank):
        return f"the rank {rank.decode()} is not an integer"
    if not _is_number(float, score):
        return f"the score {score.decode()} is not a number"
    if not math.isfinite(_single(float(score))):
        return f"the score {score.decode()} is not finite in single precision, in which trec_eval compares"
    return None


def _is_number(kind: type[int] | type[float], text: bytes) -> bool:
    try:
        kind(text)
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
