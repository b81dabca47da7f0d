"""Content hashes of what an experiment is about: its queries, candidates and judgements, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping

from ...rerankers.types import Candidates, Query


def digest(value: object) -> str:
    """The SHA-256 of a JSON value, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def queries(chosen: Mapping[str, Query]) -> str:
    """A hash of the queries' identifiers and texts, in their order: that of their JSON, never all in memory."""
    found = hashlib.sha256(b"[")
    for number, query in enumerate(chosen.values()):
        found.update(f"{', ' if number else ''}{json.dumps([query.id, query.text])}".encode())
    found.update(b"]")
    return found.hexdigest()


def qrels(judgements: Mapping[str, Mapping[str, int]] | None) -> str | None:
    """A hash of all the dataset's judgements, whatever their order; None where there are none."""
    return digest(judgements) if judgements else None


class CandidatesDigest:
    """Hashes candidates on their way to the ranker: query, document identifiers and texts, as they are presented."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def passing(self, candidates: Iterable[Candidates]) -> Iterator[Candidates]:
        """The same candidates, hashed as they pass: their texts are read once, and never all in memory."""
        for each in candidates:
            content = [each.query.id, each.query.text, [[doc.id, doc.text] for doc in each.docs]]
            self._digest.update(json.dumps(content).encode() + b"\n")
            yield each

    def hexdigest(self) -> str:
        """The hash of all that has passed."""
        return self._digest.hexdigest()
