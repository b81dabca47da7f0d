"""A cascade: stages that rank one after the other, each the first documents of the order that the last one left."""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import islice

from .accounting import Tally, total
from .backends.base import Backend
from .ledger import Ledger
from .ranker import Ranker
from .scheduler import IN_FLIGHT, Scheduler
from .types import Candidates, Cost, Doc, Ranking


@dataclass(frozen=True)
class Stage:
    """A ranker, the model that it asks, and how many of the first documents it ranks, or None for all."""

    ranker: Ranker
    backend: Backend
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A query's final ranking, with scores if the last stage gave every candidate one, and the cost of each stage."""

    ranking: Ranking
    costs: tuple[Cost, ...]

    @property
    def cost(self) -> Cost:
        """Return the cost of all stages."""
        return total(self.costs)


@dataclass(frozen=True, slots=True)
class _Order:
    """A query's candidates in the order that the stages so far leave, and the cost of those."""

    candidates: Candidates
    scores: tuple[float, ...] | None = None
    costs: tuple[Cost, ...] = ()

    def after(self, ranking: Ranking, cost: Cost) -> "_Order":
        """Return the candidates in the order this stage produced, then those below its depth, with first-stage scores.

        Split documents keep only their best passage.
        """
        before, count = self.candidates, len(ranking.docs)
        docs = {doc.id: doc for doc in before.docs}
        docs |= {doc: Doc(doc, text) for doc, text in zip(ranking.docs, ranking.passages, strict=False)}
        ids = (*ranking.docs, *before.ids[count:])
        first_stage = dict(zip(before.ids, before.scores, strict=True))
        candidates = Candidates(before.query, tuple(docs[id_] for id_ in ids), tuple(first_stage[id_] for id_ in ids))
        return _Order(candidates, ranking.scores if count == len(ids) else None, (*self.costs, cost))


@dataclass
class Cascade:
    """Ranks queries with one stage after the other, all of whose answers one ledger holds; see `Scheduler`.

    Between stages no more than `IN_FLIGHT` queries are in memory: so many pass all stages before the next ones begin.
    Two stages may have the same backend, for only one of them is at work at a time.
    """

    stages: Sequence[Stage]
    ledger: Ledger
    pooled: bool = True
    finished: Set[str] | None = None
    tally: Tally = field(default_factory=Tally)

    def rank(self, queries: Iterable[Candidates]) -> Iterator[Ranked]:
        """Yield each query's ranking and costs as it is done.

        Raises `BackendError` if a backend fails; the answers given until then are in the ledger.
        """
        *earlier, last = range(len(self.stages))
        for portion in self._portions(queries):
            orders: Iterable[_Order] = map(_Order, portion)
            for number in earlier:
                orders = list(orders)
                done = {order.candidates.query.id: order for order in self._through(number, orders)}
                # In the order given, whatever was done first: the next stage's batches are the same in every run.
                orders = [done[order.candidates.query.id] for order in orders]
            for order in self._through(last, orders):
                yield Ranked(Ranking(order.candidates.ids, order.scores), order.costs)

    def _portions(self, queries: Iterable[Candidates]) -> Iterator[Iterable[Candidates]]:
        """Yield so many queries as may be between stages at a time, or all at once if there is one stage."""
        source = iter(queries)
        if len(self.stages) == 1:
            yield source
        while portion := list(islice(source, IN_FLIGHT)):
            yield portion

    def _through(self, number: int, orders: Iterable[_Order]) -> Iterator[_Order]:
        stage, waiting = self.stages[number], dict[str, _Order]()

        def presented() -> Iterator[Candidates]:
            for order in orders:
                waiting[order.candidates.query.id] = order
                yield first(order.candidates, stage.depth)

        settings = self.ledger, self.pooled, self.finished, self.tally
        for ranking, cost in Scheduler(stage.ranker, stage.backend, *settings).rank(presented()):
            yield waiting.pop(cost.query_id).after(ranking, cost)


def first(candidates: Candidates, depth: int | None) -> Candidates:
    """Return the first `depth` candidates, or all if it is None."""
    return Candidates(candidates.query, candidates.docs[:depth], candidates.scores[:depth])
