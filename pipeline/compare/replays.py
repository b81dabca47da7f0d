"""A run's first stage of reranking, driven once more with the answers of its ledger: no model is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from ...rerankers.backends.base import Request
from ...rerankers.cascade import Cascade, Stage
from ...rerankers.errors import InputError
from ...rerankers.ledger import Ledger
from ...rerankers.types import Answer, Ranking
from .. import inspect
from ..first_stage.retrieve import retrieve
from ..io.progress import Listener
from ..run import manifest
from ..run.folder import LEDGER
from .runs import Run


@dataclass(frozen=True)
class Replay:
    """A query's ranking after the first stage of reranking, its asks as they were answered, and its judgements."""

    query: str
    ranking: Ranking
    asked: tuple[tuple[Request, Answer], ...]
    grades: Mapping[str, int]


def replayed(run: Run) -> Iterator[Replay]:
    """Yield each query of a run folder. Raises `InputError` without its ledger, its dataset or an answer."""
    loaded, path = inspect.config_of(run.path), run.path / LEDGER
    if not all(options.remembers for options in loaded.models):
        raise InputError(inspect.REPLAYED_TEXTS)
    if not path.is_file():
        raise InputError(f"there is no {LEDGER} in {run.path}")
    first_stage = retrieve(loaded, Listener())
    qrels, ranker, stage = first_stage.dataset.qrels() or {}, loaded.rankers[0], loaded.stages[0]
    identity = manifest.read(run.path / manifest.NAME).stages[0].model if len(loaded.stages) > 1 else None
    with closing(inspect.Recording(path, identity)) as replay, closing(Ledger(None)) as unused:
        # One query at a time: every ask is put, in the method's order.
        cascade = Cascade([Stage(ranker, replay, stage.depth)], unused, pooled=False)
        for ranked in cascade.rank(first_stage):
            asked = tuple((request, ranker.read(request.ask, reply, replay)) for _, request, reply in replay.answered)
            replay.answered.clear()
            query = ranked.cost.query_id
            yield Replay(query, ranked.ranking, asked, qrels.get(query, {}))
