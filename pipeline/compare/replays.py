"""A run's first stage of reranking, driven once more with the answers of its ledger: no model is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...rerankers.backends.base import Request
from ...rerankers.passages import scores_documents
from ...rerankers.types import Answer, Ranking
from .. import inspect
from ..first_stage.retrieve import retrieve
from ..io.progress import Listener
from ..run import manifest
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
    loaded, about = inspect.config_of(run.path), manifest.read(run.path / manifest.NAME)
    with inspect.replaying(run.path, about, loaded, 1) as (cascade, [replay]):
        first_stage, ranker = retrieve(loaded, Listener()), loaded.rankers[0]
        qrels = first_stage.dataset.qrels() or {}
        for ranked in cascade.rank(first_stage):
            asked = tuple((request, ranker.read(request.ask, reply, replay)) for _, request, reply in replay.answered)
            replay.answered.clear()
            query = ranked.cost.query_id
            yield Replay(query, ranked.ranking, asked, qrels.get(query, {}))


def scores(run: Run) -> dict[str, Sequence[float]] | None:
    """Return the scores by query that a run of one stage gives its documents, or None if its method gives none.

    Raises `InputError` as `replayed` does.
    """
    ranker, *others = inspect.config_of(run.path).rankers
    if others or not scores_documents(lambda docs: ranker.method.run(docs, ranker.params)):
        return None
    return {one.query: one.ranking.scores or () for one in replayed(run)}
