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


class CandidatesDigest:
    """A hash of candidates on their way to the ranker: query, document identifiers and texts, as presented."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def passing(self, candidates: Iterable[Candidates]) -> Iterator[Candidates]:
        """Yield the same candidates, hashed as they pass: their texts are never all in memory."""
        for one in candidates:
            content = [one.query.id, one.query.text, [[doc.id, doc.text] for doc in one.docs]]
            self._digest.update(json.dumps(content).encode() + b"\n")
            yield one

    def hexdigest(self) -> str:
        """Return the hash of all that has passed."""
        return self._digest.hexdigest()
