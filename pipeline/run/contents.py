"""Content hashes of an experiment's queries, candidates and judgements, wherever they lie."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from ...rerankers.types import Candidates, Query


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def queries(chosen: Mapping[str, Query]) -> str:
    """Return the `digest` of the queries' identifiers and texts, in their order, without all of it in memory."""
    sha256 = hashlib.sha256(b"[")
    for number, query in enumerate(chosen.values()):
        sha256.update(f"{', ' if number else ''}{json.dumps([query.id, query.text])}".encode())
    sha256.update(b"]")
    return sha256.hexdigest()


def qrels(judgements: Mapping[str, Mapping[str, int]] | None) -> str | None:
    """Return a hash of all judgements, whatever their order; None where there are none."""
    return digest(judgements) if judgements else None


def hashed(candidates: Iterable[Candidates], sha256: "hashlib._Hash") -> Iterator[Candidates]:
    """Yield candidates, their query, identifiers and texts hashed as they pass: they are never all in memory."""
    for one in candidates:
        content = [one.query.id, one.query.text, [[doc.id, doc.text] for doc in one.docs]]
        sha256.update(json.dumps(content).encode() + b"\n")
        yield one
