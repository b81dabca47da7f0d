"""TREC run files: the one reader and the one writer.

A run file has six columns, `query Q0 document rank score tag`. trec_eval ignores the rank: it orders by
score, up to 9.0.4 in single precision, and puts the greater document identifier first where two are equal.
So a run is read in that order, and written with scores that decrease strictly even in single precision.
"""

import gc
import math
import operator
import sys
from array import array
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

from ...rerankers.errors import InputError
from ..io.files import fault, open_bytes, replacing

Run = dict[str, list[tuple[str, float]]]
"""Query identifier to (document identifier, score), best first."""

Hits = tuple[str, list[tuple[str, float]]]
"""A query of a run: its identifier, and (document identifier, score), best first."""

Rankings = Mapping[str, Sequence[str]]
"""Query identifier to document identifiers, best first."""

_Columns = tuple[list[bytes], list[bytes], list[bytes]]
"""The document, rank and score columns of a query, as they stand in the file; an item holds one word or many."""

COLUMNS = ("query", "Q0", "document", "rank", "score", "tag")
MSMARCO = ("query", "document", "rank")
"""The columns of a run as TREC and as MS MARCO have them."""

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


def read(path: Path, queries: Container[str] | None = None, *, intern: bool = False) -> tuple[Run, list[str]]:
    """Return a run in trec_eval's order, and notes about what is odd in it. Compressed files are read too.

    What trec_eval reads is read. An MS MARCO run goes by its name and has three columns; its scores are 1 / rank. With
    `queries`, of other queries' lines only the number of columns is checked. To `intern` documents takes longer, and
    less memory where queries or runs share them. Raise InputError with file and line for what would change the
    ranking: a wrong number of columns, a score that is not finite, a repeated document, `#`.
    """
    run: Run = {}
    odd: dict[str, list[str]] = {}
    msmarco = _is_msmarco(path)
    collects = gc.isenabled()
    gc.disable()  # it would visit millions of new tuples again and again
    try:
        columns, notes = _columns(path, queries, msmarco=msmarco)
        for raw in list(columns):
            query = raw.decode()
            hits, kinds = _ordered(columns.pop(raw))
            run[query] = [(sys.intern(document), score) for document, score in hits] if intern else hits
            for kind in kinds:
                odd.setdefault(kind, []).append(query)
    except ValueError:
        _raise_fault(path, msmarco=msmarco)
        raise
    finally:
        if collects:
            gc.enable()
    if not run and queries is None:
        raise InputError(f"{path}: the run file is empty")
    notes += [kind.format(f"{len(ids)} of {len(run)} queries", ids[0]) for kind, ids in odd.items()]
    return run, [f"{path}: {note}" for note in notes]


def _columns(path: Path, queries: Container[str] | None, *, msmarco: bool) -> tuple[dict[bytes, _Columns], list[str]]:
    """Return each query's columns, and notes. Bytes, unparsed: this loop decides how long a large file takes."""
    columns: dict[bytes, _Columns] = {}
    skipped: _Columns = ([], [], [])
    documents, ranks, scores = skipped
    current, tag, tags, blank = None, b"", set(), False
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
                    for column in documents, ranks, scores:  # of many queries, one text each is far smaller
                        column[:] = [b" ".join(column)]
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
                raise ValueError from error
    if any(query.startswith(b"#") for query in columns):
        raise ValueError
    notes = {
        "an MS MARCO run: a document's score is 1 / rank": msmarco,
        "blank lines at the end": blank,
        "words after the sixth column are not looked at": any(len(words.split()) > 1 for words in tags),
    }
    return columns, [note for note, applies in notes.items() if applies]


def _is_msmarco(path: Path) -> bool:
    if not (path.name.removesuffix(".gz").endswith(".tsv") or "msmarco" in path.name):
        return False
    with open_bytes(path) as stream:
        return len(stream.readline().split()) == len(MSMARCO)


def _ordered(columns: _Columns) -> tuple[list[tuple[str, float]], list[str]]:
    """Return a query's documents in trec_eval's order, and what is odd about them. Raise ValueError for faulty ones.

    trec_eval compares identifiers byte by byte, which in UTF-8 is the order of code points, Python's. Where ranks and
    scores in double precision agree on an order, it is kept, though scores are equal in single precision.
    """
    documents = b" ".join(columns[0]).decode().split(" ")
    rank_words, score_words = (b" ".join(column).split() for column in columns[1:])
    ranks, scores = _ranks(rank_words), list(map(float, score_words))
    single, odd = array("f", scores), []
    if len(set(documents)) < len(documents) or not all(map(math.isfinite, single)):
        raise ValueError
    if b"_" in b"".join(score_words):  # Python's digits may be grouped, C's may not
        raise ValueError
    if not all(map(bytes.isdigit, rank_words)):
        odd.append(UNRANKED)
    if not _monotonic(operator.gt, single):
        order = sorted(range(len(documents)), key=lambda i: (single[i], documents[i]), reverse=True)
        by_double = sorted(range(len(documents)), key=lambda i: (scores[i], documents[i]), reverse=True)
        if by_double != order and _monotonic(operator.lt, [ranks[i] for i in by_double]):
            order = by_double
            odd.append(DOUBLE)
        elif len(set(single)) < len(single):
            odd.append(TIED)
        documents = [documents[i] for i in order]
        ranks = [ranks[i] for i in order]
        scores = [scores[i] for i in order]
    if not _monotonic(operator.lt, ranks) and not any(map(math.isnan, ranks)):
        # Ties may be ranked either way.
        by_score = sorted(zip(map(operator.neg, array("f", scores)), ranks, strict=True))
        if any(a > b for (_, a), (_, b) in pairwise(by_score)):
            odd.append(DISAGREEING)
    return list(zip(documents, scores, strict=True)), odd


def _monotonic(compare: Callable[[float, float], bool], values: Sequence[float]) -> bool:
    return all(map(compare, values, islice(values, 1, None)))


def _ranks(texts: Sequence[bytes]) -> list[float]:
    """Return ranks, which some tools write as 1.0; NaN where one is no number."""
    try:
        return list(map(_rank, texts))
    except ValueError:
        return [math.nan if len(texts) == 1 else _ranks([text])[0] for text in texts]


_rank = lru_cache(1 << 14)(float)  # the same few thousand in all queries


def _raise_fault(path: Path, *, msmarco: bool) -> None:
    """Raise InputError for the first faulty line; slow, and only called when there is one."""
    first_seen: dict[tuple[bytes, bytes], int] = {}
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            wrong = _fault_of(line, msmarco=msmarco)
            if wrong:
                raise fault(path, number, wrong)
            query, document = operator.itemgetter(0, 1 if msmarco else 2)(line.split())
            before = first_seen.setdefault((query, document), number)
            if before != number:
                problem = f"query {query.decode()} has document {document.decode()} on line {before} too"
                raise fault(path, number, problem)


def _fault_of(line: bytes, *, msmarco: bool) -> str | None:
    try:
        columns = [column.decode() for column in line.split()]
    except UnicodeDecodeError:
        return "not UTF-8; convert the file"
    if not columns:
        return "a blank line; a run file has none but at its end"
    if columns[0].startswith("#"):
        return "a comment; evaluators cannot read it, so keep metadata in a file beside the run"
    if msmarco:
        if len(columns) != len(MSMARCO):
            return f"{len(columns)} columns, not the three of an MS MARCO run: {', '.join(MSMARCO)}"
        return None if columns[2].encode().isdigit() and int(columns[2]) else f"the rank {columns[2]} is not 1 or more"
    if len(columns) < len(COLUMNS):
        hint = "; a run of MS MARCO's three columns has a name that ends in .tsv" if len(columns) == 3 else ""
        return f"{len(columns)} columns, not the six of `{' '.join(COLUMNS)}`{hint}"
    score, problem = columns[4], "a number"
    with suppress(ValueError):
        if "_" not in score and math.isfinite(_single(float(score.encode()))):
            return None
        problem = problem if "_" in score else "finite in single precision, in which trec_eval compares"
    return f"the score {score} is not {problem}"


def _single(score: float) -> float:
    return array("f", [score])[0]


def write(path: Path, rankings: Rankings, candidates: Rankings, tag: str) -> None:
    """Write rankings, best first, as a run file with scores n, n - 1, … 1.

    `candidates` are each query's documents before ranking. Raise InputError, and leave an existing file as it is, where
    `check` does, and for a tag with white space.
    """
    _write(path, rankings, candidates, descending(rankings), tag)


def write_scored(path: Path, run: Run, tag: str) -> None:
    """Write a first stage in its order, with scores as `strict` makes them."""
    docs = documents(run)
    _write(path, docs, docs, strict(run), tag)


def documents(run: Run) -> dict[str, list[str]]:
    """Return each query's documents, best first."""
    return {query: [doc for doc, _ in hits] for query, hits in run.items()}


def descending(rankings: Rankings) -> Iterator[Hits]:
    """Yield rankings, best first, with scores n, n - 1, … 1."""
    return ((query, list(zip(docs, range(len(docs), 0, -1), strict=True))) for query, docs in rankings.items())


def strict(run: Run) -> Iterator[Hits]:
    """Yield the run in its order with scores that decrease strictly in single precision.

    A score that is not below the one before it (a tie, or an order that is not by score) becomes the next
    single-precision number below that one, the smallest change by which evaluators keep the order.
    """
    for query, ranking in run.items():
        lowered, last = [], math.inf
        for document, score in ranking:
            kept = float(score) if _single(score) < last else _next_below(last)
            last = _single(kept)
            if not math.isfinite(_single(score)) or not math.isfinite(last):
                raise InputError(f"query {query}: single precision cannot hold document {document}'s score {score}")
            lowered.append((document, kept))
        yield query, lowered


def _next_below(value: float) -> float:
    import numpy as np

    # Never a subnormal number below zero: some libraries make the process take those for zero.
    return float(np.nextafter(np.float32(value), np.float32(-np.inf))) if value else -math.ldexp(1, -126)


def _write(path: Path, rankings: Rankings, candidates: Rankings, run: Iterable[Hits], tag: str) -> None:
    check(rankings, candidates)
    _check_word("the tag", tag)
    if not any(rankings.values()):
        raise InputError(f"{path}: nothing to write: no query has a document")
    with replacing(path) as stream:
        stream.writelines(f"{line}\n" for line in lines(run, tag))


def lines(run: Iterable[Hits], tag: str) -> Iterator[str]:
    """Yield the lines of a run file."""
    for query, hits in run:
        for rank, (document, score) in enumerate(hits, 1):
            yield f"{query} Q0 {document} {rank} {score!r} {tag}"


def check(rankings: Rankings, candidates: Rankings) -> None:
    """Raise InputError unless rankings are permutations of candidates, with identifiers that are words."""
    for query in {**candidates, **rankings}:
        if query not in rankings:
            raise InputError(f"query {query} has candidates but no ranking: the run would lose it")
        if query not in candidates:
            raise InputError(f"query {query} has a ranking but no candidates: the run would invent it")
        _check_permutation(query, rankings[query], candidates[query])


def _check_permutation(query: str, ranking: Sequence[str], candidates: Sequence[str]) -> None:
    _check_word("the query identifier", query)
    expected, seen = set(candidates), set()
    for document in ranking:
        _check_word(f"query {query}: the document identifier", document)
        if document in seen:
            raise InputError(f"query {query}: document {document} is ranked twice")
        if document not in expected:
            raise InputError(f"query {query}: document {document} is ranked but was no candidate")
        seen.add(document)
    if lost := [document for document in candidates if document not in seen]:
        raise InputError(f"query {query}: candidate {lost[0]} is lost from the ranking")


def _check_word(name: str, text: str) -> None:
    if text.split() != [text]:
        raise InputError(f"{name} {text!r} is not one word: a run file is split at white space")
