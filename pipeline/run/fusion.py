"""What a reranked order is fused with: the first stage, or a run that is given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...rerankers import fusion
from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ...rerankers.types import Ranking
from ..configs.load import FIRST_STAGE, Config, Fuse
from ..first_stage.retrieve import FirstStage
from ..io.progress import Listener
from . import runfile
from .runfile import Run

RERANKED = "reranked.trec"
"""The file that holds the order before it was fused, with the scores that were fused."""


@dataclass(frozen=True)
class Partner:
    """The other run, and how it is joined."""

    fuse: Fuse
    run: Run

    @property
    def identity(self) -> dict[str, object]:
        """What makes the fused order what it is, given the reranked one: part of the experiment's fingerprint."""
        given: object = self.fuse.other
        if given != FIRST_STAGE:
            given = {"run": file_digest(Path(self.fuse.other))}
        return {"method": self.fuse.method, "with": given, **self.fuse.parameters}

    def joined(self, reranked: Run) -> dict[str, list[str]]:
        """Each query's documents by both; `reranked` has its scores as `reranked.trec` has them."""
        return {query: self._joined(ranked, self.run.get(query, ())) for query, ranked in reranked.items()}

    def _joined(self, ranked: fusion.Scored, other: fusion.Scored) -> list[str]:
        if self.fuse.method == "interpolate":
            return fusion.interpolate(ranked, other, self.fuse.alpha or 0.0)
        return fusion.rrf(ranked, other, self.fuse.k)


def partner(config: Config, first_stage: FirstStage, listener: Listener) -> Partner | None:
    """What the config fuses with; None where it does not.

    The first stage takes part in its own order, however it was presented. Raises `InputError` where a run is missing
    or of other queries.
    """
    if config.fuse is None:
        return None
    if config.fuse.other == FIRST_STAGE:
        return Partner(config.fuse, runfile.strict(first_stage.run))
    run = read(config.fuse, listener)
    candidates = {query: {doc for doc, _ in found} for query, found in first_stage.run.items()}
    ranked = first_stage.queries if first_stage.shard else candidates
    if not ranked.keys() & run.keys():
        raise InputError(
            f"{config.fuse.other}: none of its {len(run)} queries is reranked; fuse with a run of the same"
        )
    strange = sum(doc not in docs for query, docs in candidates.items() for doc, _ in run.get(query, ()))
    missing = sum(len(docs - {doc for doc, _ in run.get(query, ())}) for query, docs in candidates.items())
    if strange or missing:
        listener.note(
            f"{config.fuse.other}: {strange} documents are no candidates and are ignored; {missing} candidates are not "
            "in it and get nothing from it"
        )
    return Partner(config.fuse, run)


def read(fuse: Fuse, listener: Listener) -> Run:
    """The given run. Raises `InputError` where it is missing or no run."""
    if not Path(fuse.other).is_file():
        raise InputError(f"fuse.with: no file {fuse.other}; name a TREC run, or first_stage")
    run, warnings = runfile.read(Path(fuse.other))
    for warning in warnings:
        listener.note(warning)
    return run


def scored(rankings: Mapping[str, Ranking]) -> Run:
    """Each query's documents with the scores that they are fused by, as a run file can hold them.

    Those of the ranking where the method gave each document one, minus the rank where not. A document that was not
    rated gets the lowest score that another one of the query got.
    """
    found: Run = {}
    for query, ranking in rankings.items():
        scores = [float(-rank) for rank in range(1, len(ranking.docs) + 1)]
        if ranking.scores is not None and any(map(math.isfinite, ranking.scores)):
            lowest = min(filter(math.isfinite, ranking.scores))
            scores = [score if math.isfinite(score) else lowest for score in ranking.scores]
        found[query] = list(zip(ranking.docs, scores, strict=True))
    return runfile.strict(found)
