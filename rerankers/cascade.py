"""A cascade: stages that rank one after the other, each the first documents of the order that the last one left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from itertools import islice

from .backends.base import Backend
from .ledger import Ledger
from .passages import PassageRanking
from .ranker import Ranker
from .scheduler import IN_FLIGHT, Scheduler
from .shared_ledger import SharedLedger
from .types import AskKind, Candidates, Cost, Doc, Ranking, plus


@dataclass(frozen=True)
class Stage:
    """A ranker, the model that it asks, and how many documents of the order so far it ranks."""

    ranker: Ranker
    backend: Backend
    depth: int | None = None
    """All of them where it is None; those below keep their order."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A query's final ranking, and what each stage of it cost."""

    ranking: Ranking
    """With scores where the last stage gave every candidate one."""
    costs: tuple[Cost, ...]

    @property
    def cost(self) -> Cost:
        """What the query cost in all."""
        return total(self.costs)


@dataclass(frozen=True, slots=True)
class _Order:
    """A query's candidates in the order that the stages so far leave, and what those cost."""

    candidates: Candidates
    scores: tuple[float, ...] | None = None
    """Those that the last stage gave, where it gave every candidate one."""
    costs: tuple[Cost, ...] = ()

    @property
    def query_id(self) -> str:
        """The query's identifier."""
        return self.candidates.query.id

    def after(self, ranking: Ranking, cost: Cost) -> _Order:
        """The order that a stage leaves: its documents, each as its best passage where it split them, then the rest.

        First-stage scores stay with their documents.
        """
        found, count = self.candidates, len(ranking.docs)
        docs = {doc.id: doc for doc in found.docs}
        if isinstance(ranking, PassageRanking):
            docs |= {doc: Doc(doc, text) for doc, text in zip(ranking.docs, ranking.passages, strict=True)}
        ids = (*ranking.docs, *found.ids[count:])
        first_stage = dict(zip(found.ids, found.scores, strict=True))
        candidates = Candidates(found.query, tuple(docs[id_] for id_ in ids), tuple(first_stage[id_] for id_ in ids))
        return _Order(candidates, ranking.scores if count == len(ids) else None, (*self.costs, cost))


class Cascade:
    """Ranks queries with one stage after the other, all of whose answers one ledger holds.

    Between stages no more than `IN_FLIGHT` queries are in memory: so many pass all stages before the next ones begin.
    Two stages may have the same backend, for only one of them is at work at a time.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        ledger: Ledger,
        *,
        pooled: bool = True,
        shared: SharedLedger | None = None,
        finished: Set[str] | None = None,
    ) -> None:
        self.stages = stages
        self.ledger = ledger
        self.schedulers = [
            Scheduler(stage.ranker, stage.backend, ledger, pooled=pooled, shared=shared, finished=finished)
            for stage in stages
        ]
        self.on_answers: Callable[[int], None] = lambda answered: None  # noqa: ARG005
        """Told how many asks have been answered, in all stages, whenever there are more."""

    @property
    def unparsed(self) -> Counter[AskKind]:
        """How many answers to each kind of ask could not be read."""
        return sum((scheduler.unparsed for scheduler in self.schedulers), Counter())

    @property
    def calls(self) -> int:
        """How many asks the models have answered."""
        return sum(scheduler.calls for scheduler in self.schedulers)

    @property
    def unread(self) -> Counter[str]:
        """How many texts could not be read for which reason: `<kind>: <form>`."""
        return sum((scheduler.unread for scheduler in self.schedulers), Counter())

    @property
    def examples(self) -> dict[str, str]:
        """A text that could not be read for each reason."""
        return {reason: text for scheduler in self.schedulers for reason, text in scheduler.examples.items()}

    @property
    def forms(self) -> Counter[str]:
        """How many texts were read in which form, or for which reason not: `<kind>: <form>`."""
        return sum((scheduler.forms for scheduler in self.schedulers), Counter())

    def rank(self, queries: Iterable[Candidates]) -> Iterator[Ranked]:
        """Yield each query's ranking and costs as it is done.

        Raises `BackendError` where a backend fails; the answers given until then are in the ledger.
        """
        for stage, scheduler in zip(self.stages, self.schedulers, strict=True):
            self.ledger.add_model(stage.backend.identity)
            scheduler.on_answers = lambda _: self.on_answers(sum(each.answered for each in self.schedulers))
        last = len(self.stages) - 1
        for some in self._portions(queries):
            orders: Iterable[_Order] = (_Order(candidates) for candidates in some)
            for number in range(last):
                orders = list(orders)
                done = {order.query_id: order for order in self._through(number, orders)}
                # In the order given, whatever was done first: the next stage's batches are the same in every run.
                orders = [done[order.query_id] for order in orders]
            for order in self._through(last, orders):
                yield Ranked(Ranking(order.candidates.ids, order.scores), order.costs)

    def _portions(self, queries: Iterable[Candidates]) -> Iterator[Iterable[Candidates]]:
        if len(self.stages) == 1:
            yield queries
            return
        source = iter(queries)
        while some := list(islice(source, IN_FLIGHT)):
            yield some

    def _through(self, number: int, orders: Iterable[_Order]) -> Iterator[_Order]:
        """The orders that a stage leaves, as they are done."""
        waiting: dict[str, _Order] = {}

        def presented() -> Iterator[Candidates]:
            for order in orders:
                waiting[order.query_id] = order
                yield first(order.candidates, self.stages[number].depth)

        for ranking, cost in self.schedulers[number].rank(presented()):
            yield waiting.pop(cost.query_id).after(ranking, cost)


def first(candidates: Candidates, depth: int | None) -> Candidates:
    """So many of the candidates, the first ones; all where it is None."""
    return Candidates(candidates.query, candidates.docs[:depth], candidates.scores[:depth])


def total(costs: Sequence[Cost]) -> Cost:
    """What stages cost together: they wait for each other, so their rounds and seconds add up. Unknown is unknown."""
    return Cost(
        query_id=costs[0].query_id,
        asks=sum(cost.asks for cost in costs),
        calls=sum(cost.calls for cost in costs),
        cached=sum(cost.cached for cost in costs),
        rounds=sum(cost.rounds for cost in costs),
        comparisons=sum(cost.comparisons for cost in costs),
        prompt_tokens=reduce(plus, [cost.prompt_tokens for cost in costs]),
        completion_tokens=reduce(plus, [cost.completion_tokens for cost in costs]),
        unparsed=sum(cost.unparsed for cost in costs),
        seconds=reduce(plus, [cost.seconds for cost in costs]),
        flops=reduce(plus, [cost.flops for cost in costs]),
        usd=reduce(plus, [cost.usd for cost in costs]),
    )
