"""The fusion of a reranked order with the first stage, or with a given run."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...rerankers import fusion
from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ...rerankers.types import Ranking
from ..configs.schema import FIRST_STAGE, Config, Fuse
from ..first_stage.retrieve import FirstStage
from ..io.progress import Listener
from . import runfile
from .runfile import Run

RERANKED = "reranked.trec"
"""The file that holds the order before it was fused, with the scores that were fused."""


@dataclass(frozen=True)
class Partner:
    """The other run, and how it is fused."""

    fuse: Fuse
    run: Run

    @property
    def identity(self) -> dict[str, object]:
        """The part of the experiment's fingerprint that decides the fused order, given the reranked one."""
        other = self.fuse.other
        source: object = other if other == FIRST_STAGE else {"run": file_digest(Path(other))}
        return {"method": self.fuse.method, "with": source, **self.fuse.parameters}

    def joined(self, reranked: Run) -> dict[str, list[str]]:
        """Return each query's documents in the fused order; `reranked` has its scores as `reranked.trec` has them."""
        fused = partial(fusion.rrf, k=self.fuse.k)
        if self.fuse.method == "interpolate":
            fused = partial(fusion.interpolate, alpha=self.fuse.alpha or 0.0)
        return {query: fused(hits, self.run.get(query, ())) for query, hits in reranked.items()}


def partner(config: Config, first_stage: FirstStage, listener: Listener) -> Partner | None:
    """Return the run that the config fuses with, or None. The first stage takes part in its own order.

    Raises `InputError` if a run is missing or of other queries.
    """
    if config.fuse is None:
        return None
    if config.fuse.other == FIRST_STAGE:
        return Partner(config.fuse, dict(runfile.strict(first_stage.run)))
    if not Path(config.fuse.other).is_file():
        raise InputError(f"fuse.with: no file {config.fuse.other}; name a TREC run, or first_stage")
    run, warnings = runfile.read(Path(config.fuse.other))
    for warning in warnings:
        listener.note(warning)
    candidates = {query: set(docs) for query, docs in first_stage.documents.items()}
    ranked = first_stage.queries if first_stage.shard else candidates
    if not ranked.keys() & run.keys():
        raise InputError(
            f"{config.fuse.other}: none of its {len(run)} queries is reranked; fuse with a run of the same"
        )
    fused = {query: {doc for doc, _ in run.get(query, ())} for query in candidates}
    strange = sum(len(fused[query] - docs) for query, docs in candidates.items())
    missing = sum(len(docs - fused[query]) for query, docs in candidates.items())
    if strange or missing:
        listener.note(
            f"{config.fuse.other}: {strange} documents are no candidates and are ignored; {missing} candidates are not "
            "in it and get nothing from it"
        )
    return Partner(config.fuse, run)


def scored(rankings: Mapping[str, Ranking]) -> Run:
    """Return each query's documents with the scores that they are fused by, as a run file can hold them.

    They are the method's scores, or minus the rank where it gave none. A document without a score among others that
    have one gets the query's lowest.
    """
    run: Run = {}
    for query, ranking in rankings.items():
        scores = [float(-rank) for rank in range(1, len(ranking.docs) + 1)]
        finite = [score for score in ranking.scores or () if math.isfinite(score)]
        if ranking.scores is not None and finite:
            scores = [score if math.isfinite(score) else min(finite) for score in ranking.scores]
        run[query] = list(zip(ranking.docs, scores, strict=True))
    return dict(runfile.strict(run))
