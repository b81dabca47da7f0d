"""Drive the methods of many queries at once: pool their asks, answer equal ones once, deliver the answers.

With `pooled=False` queries run one at a time, nothing is shared or looked up, and a query's seconds are its latency;
only a query that an earlier execution finished is answered from the ledger.
"""

import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import islice

from .accounting import Tally, comparisons
from .answers.reading import Reply
from .backends.base import Backend, Request
from .errors import BackendError, R2llmError
from .flops import of_answer, readings
from .ledger import ELSEWHERE, Findings, Ledger, as_findings
from .ranker import RETRIES, Ranker, Requests
from .types import Answer, Ask, Candidates, Cost, Ranking, Steps, plus

IN_FLIGHT = 256
"""The most queries ranked at the same time: enough that even methods of one ask a round fill a batch."""


@dataclass(slots=True, eq=False)
class _Job:
    """A query being ranked: its method, the round it waits for, and what it has cost so far."""

    steps: Steps
    requests: Requests
    cost: Cost
    started: float
    asks: list[Ask] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)
    begun: bool = False
    timed: bool = True
    """False once an answer came out of an earlier execution, whose time is not known."""
    ranking: Ranking | None = None


@dataclass(slots=True, eq=False)
class _Place:
    """The slot of a job's round that waits for an answer, after so many attempts."""

    job: _Job
    slot: int
    attempt: int


@dataclass
class Scheduler:
    """Ranks queries with one ranker and one backend.

    `finished` are the queries that earlier executions of the run finished, all of whose answers the ledger has; None if
    it is no run's ledger: then whatever it has is cached.
    """

    ranker: Ranker
    backend: Backend
    ledger: Ledger
    pooled: bool = True
    finished: Set[str] | None = None
    tally: Tally = field(default_factory=Tally)
    _recalled: bool = field(default=False, init=False)
    """The query that runs alone is a finished one."""
    _waiting: dict[bytes, list[_Place]] = field(default_factory=dict, init=False)
    _new: list[Request] = field(default_factory=list, init=False)
    _findings: Findings = field(default_factory=dict, init=False)

    def rank(self, queries: Iterable[Candidates]) -> Iterator[tuple[Ranking, Cost]]:
        """Yield each query's ranking and cost as it is done; queries that are done together in the order given.

        Raises `BackendError` if the backend fails; the answers given until then are in the ledger.
        """
        self.ledger.add_model(self.backend.identity)
        source, active = iter(queries), list[_Job]()
        while True:
            active += map(self._start, islice(source, (IN_FLIGHT if self.pooled else 1) - len(active)))
            if not active:
                return
            done = [job for job in active if job.ranking is not None]
            if done:
                active = [job for job in active if job.ranking is None]
                yield from map(self._finish, done)
            else:
                self._answer_some()

    def _start(self, candidates: Candidates) -> _Job:
        self._recalled = candidates.query.id in (self.finished or ())
        requests = Requests(self.ranker, self.backend, candidates)
        cost = Cost(candidates.query.id, flops=None if self.backend.shape is None else 0)
        job = _Job(self.ranker.steps(candidates), requests, cost, time.perf_counter())
        self._advance(job)
        return job

    def _advance(self, job: _Job) -> None:
        """Take the method's next rounds until one has to wait for the backend, or the ranking is there."""
        while len(job.answers) == len(job.asks) and job.ranking is None:
            try:
                answers = [job.answers[slot] for slot in range(len(job.asks))]
                job.asks = job.steps.send(answers) if job.begun else next(job.steps)
            except StopIteration as stop:
                job.ranking = stop.value
                job.cost.seconds = time.perf_counter() - job.started if job.timed else None
                return
            job.begun, job.answers, before = True, {}, job.cost.asks
            job.cost.comparisons += comparisons(job.asks)
            for slot, ask in enumerate(job.asks):
                if ask.kind == "derive":
                    job.answers[slot] = Answer(note=job.requests.derive(ask))
                else:
                    self._pose(job, slot, ask)
            job.cost.rounds += job.cost.asks > before

    def _pose(self, job: _Job, slot: int, ask: Ask, attempt: int = 0) -> None:
        """Note an ask as new, or let it wait for an equal one that is under way."""
        request = job.requests.request(ask, attempt)
        job.cost.asks += 1
        places = self._waiting.setdefault(request.key, [])
        if places and self._shares:
            job.cost.cached += 1
        else:
            job.cost.calls += 1
            self._new.append(request)
        places.append(_Place(job, slot, attempt))

    @property
    def _shares(self) -> bool:
        """Return whether equal asks are answered once."""
        return (self.pooled or self._recalled) and self.backend.remembers

    def _answer_some(self) -> None:
        known = self._known() if self._shares else {}
        self.backend.submit([request for request in self._new if request.key not in known])
        self._new = []
        if known:
            self._hand_over(known.items())
            return
        replies = self.backend.collect()
        if self.backend.remembers:
            findings = as_findings(self.backend.identity, self.backend.findings)
            if findings != self._findings:
                self.ledger.adopt(findings)
                self._findings = findings
            rows = [(request.key, request.query.id, reply) for request, reply in replies]
            self.ledger.add(rows)
            if shared := self.ledger.shared:
                shared.findings |= findings
                shared.add(rows, self.backend.identity)
        self.tally.calls += len(replies)
        self._hand_over((request.key, reply) for request, reply in replies)

    def _known(self) -> dict[bytes, Reply]:
        """Return the replies to new asks that are there already, and copy those of other runs into the ledger.

        An earlier execution's call is a call of the run: of the first query that needs its reply.
        """
        keys = [request.key for request in self._new]
        recalled = self.ledger.recall(keys)
        if shared := self.ledger.shared:
            taken = shared.get_many([key for key in keys if key not in recalled])
            if taken:
                rows = [(each.key, each.query.id, taken[each.key]) for each in self._new if each.key in taken]
                self.ledger.adopt(shared.findings)
                self.ledger.add(rows, elsewhere=True)
                recalled |= {key: (reply, ELSEWHERE) for key, reply in taken.items()}
        for key, (_, execution) in recalled.items():
            jobs = [place.job for place in self._waiting[key]]
            for job in jobs:
                job.timed &= execution == self.ledger.execution
            calls_here = self.finished is not None and execution not in (ELSEWHERE, self.ledger.execution)
            if calls_here and key not in self.ledger.claimed:
                self.ledger.claimed.add(key)
            else:
                jobs[0].cost.calls -= 1
                jobs[0].cost.cached += 1
        return {key: reply for key, (reply, _) in recalled.items()}

    def _hand_over(self, replies: Iterable[tuple[bytes, Reply]]) -> None:
        """Give replies to the jobs that wait for them, and let each go on that has all it asked for."""
        for key, reply in replies:
            places = self._waiting.pop(key)
            if not self._shares and len(places) > 1:
                self._waiting[key] = places[1:]
                places = places[:1]
            for place in places:
                self._deliver(place, reply)
                self._advance(place.job)
        self.tally.listener(self.tally.answered)

    def _deliver(self, place: _Place, reply: Reply) -> None:
        job, cost = place.job, place.job.cost
        ask = job.asks[place.slot]
        answer = self.ranker.read(ask, reply, self.backend)
        cost.prompt_tokens = plus(cost.prompt_tokens, reply.prompt_tokens)
        cost.completion_tokens = plus(cost.completion_tokens, reply.completion_tokens)
        cost.flops = plus(cost.flops, self._flops(ask, reply))
        self.tally.add(ask.kind, answer)
        if not answer.parsed:
            cost.unparsed += 1
            policy = self.ranker.options.on_unparsed
            if policy == "fail":
                raise BackendError(
                    f"query {cost.query_id}: the answer {answer.text!r} about {', '.join(ask.docs)} cannot be "
                    "read; on_unparsed: keep_order or retry would go on"
                )
            if policy == "retry" and place.attempt < RETRIES:
                self._pose(job, place.slot, ask, place.attempt + 1)
                return
        job.answers[place.slot] = answer

    def _flops(self, ask: Ask, reply: Reply) -> int | None:
        """Return the operations of a reply, whenever it was given, or None if they are unknown."""
        if self.backend.shape is None or reply.prompt_tokens is None or reply.completion_tokens is None:
            return None
        times = readings(self.ranker.prompt_of(ask), ask) if reply.scores else 1
        return of_answer(self.backend.shape, reply.prompt_tokens, reply.completion_tokens, times)

    def _finish(self, job: _Job) -> tuple[Ranking, Cost]:
        ranking, cost = job.ranking, job.cost
        if ranking is None or sorted(ranking.docs) != sorted(job.requests.candidates.ids):
            raise R2llmError(
                f"query {cost.query_id}: {self.ranker.method.name} lost or invented documents, a fault in it"
            )
        cost.usd = self.backend.usd(cost.prompt_tokens, cost.completion_tokens)
        return ranking, cost
