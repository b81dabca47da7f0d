"""Drives the methods of many queries at once: pools their asks, answers equal ones once, hands over the answers.

One query's method knows nothing of the others. With `pooled=False` queries run one at a time, nothing is shared or
looked up, and a query's seconds are its latency; only a query that an earlier execution finished is answered from the
ledger.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property

from .answers.reading import Reply
from .backends.base import Backend, Request
from .errors import BackendError, R2llmError
from .flops import Shape, of_answer, readings
from .ledger import ELSEWHERE, Ledger
from .ranker import RETRIES, Ranker, Requests
from .shared_ledger import SharedLedger
from .types import Answer, Ask, AskKind, Candidates, Cost, Ranking, Steps, plus

IN_FLIGHT = 256
"""How many queries are ranked at the same time: enough that even methods of one ask a round fill a batch."""

GROUP_KINDS = {"choose", "permute", "select", "rate"}


@dataclass
class _Job:
    """A query being ranked: its method, the round it waits for, and what it has cost so far."""

    steps: Steps
    requests: Requests
    cost: Cost
    started: float
    asks: list[Ask] = field(default_factory=list)
    answers: list[Answer | None] = field(default_factory=list)
    missing: int = 0
    begun: bool = False
    timed: bool = True
    """Whether no answer came out of an earlier execution, whose time is not known."""
    ranking: Ranking | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an answer is waited for: the slot of a job's round, and how often it was asked before."""

    job: _Job
    slot: int
    attempt: int


@dataclass
class Scheduler:
    """Ranks queries with one ranker and one backend."""

    ranker: Ranker
    backend: Backend
    ledger: Ledger
    pooled: bool = True
    shared: SharedLedger | None = None
    """Answers of other runs: read, where queries are pooled, before the backend is asked."""

    on_answers: Callable[[int], None] = lambda answered: None  # noqa: ARG005
    """Told how many asks have been answered, by whomever, whenever there are more."""

    finished: Set[str] | None = None
    """Queries that earlier executions of the run finished: the ledger has all their answers. None where it is no run's
    ledger: then whatever it has is cached."""

    calls: int = field(default=0, init=False)
    """How many asks the backend has answered."""

    answered: int = field(default=0, init=False)
    """How many asks have been answered, by whomever."""

    unread: Counter[str] = field(default_factory=Counter, init=False)
    """How many texts could not be read for which reason: `<kind>: <form>`."""

    examples: dict[str, str] = field(default_factory=dict, init=False)
    """The first text that could not be read for each reason."""

    unparsed: Counter[AskKind] = field(default_factory=Counter, init=False)
    """How many answers to each kind of ask could not be read."""

    forms: Counter[str] = field(default_factory=Counter, init=False)
    """How many texts were read in which form, or for which reason not: `<kind>: <form>`."""

    _recalled: bool = field(default=False, init=False)
    """Whether the query that runs alone is a finished one."""
    _waiting: dict[bytes, list[_Place]] = field(default_factory=dict, init=False)
    _new: list[Request] = field(default_factory=list, init=False)
    _findings: object = field(default=None, init=False)

    def rank(self, queries: Iterable[Candidates]) -> Iterator[tuple[Ranking, Cost]]:
        """Yield each query's ranking and cost as it is done; queries that are done together in the order given.

        Raises `BackendError` where the backend fails; the answers given until then are in the ledger.
        """
        self.ledger.add_model(self.backend.identity)
        source = iter(queries)
        active: dict[int, _Job] = {}
        started = 0
        exhausted = False
        while active or not exhausted:
            while not exhausted and len(active) < (IN_FLIGHT if self.pooled else 1):
                candidates = next(source, None)
                if candidates is None:
                    exhausted = True
                else:
                    active[started] = self._start(candidates)
                    started += 1
            done = [number for number, job in active.items() if job.ranking is not None]
            for number in done:
                yield self._finish(active.pop(number))
            if active and not done:
                self._answer_some()

    def _start(self, candidates: Candidates) -> _Job:
        self._recalled = candidates.query.id in (self.finished or ())
        requests = Requests(self.ranker, self.backend, candidates)
        cost = Cost(candidates.query.id, flops=None if self._shape is None else 0)
        job = _Job(self.ranker.steps(candidates), requests, cost, time.perf_counter())
        self._advance(job)
        return job

    def _advance(self, job: _Job) -> None:
        """Take the method's next rounds until one has to wait for the backend, or the ranking is there."""
        while job.missing == 0 and job.ranking is None:
            answers = [answer for answer in job.answers if answer is not None]
            try:
                job.asks = job.steps.send(answers) if job.begun else next(job.steps)
            except StopIteration as stop:
                job.ranking = stop.value
                job.cost.seconds = time.perf_counter() - job.started if job.timed else None
                return
            job.begun = True
            job.cost.comparisons += comparisons(job.asks)
            job.answers = [None] * len(job.asks)
            job.missing = len(job.asks)
            before = job.cost.asks
            for slot, ask in enumerate(job.asks):
                if ask.kind == "derive":
                    job.answers[slot] = Answer(note=job.requests.derive(ask))
                    job.missing -= 1
                else:
                    self._pose(job, slot, ask)
            job.cost.rounds += job.cost.asks > before

    def _pose(self, job: _Job, slot: int, ask: Ask, attempt: int = 0) -> None:
        """Note an ask as new, or let it wait for an equal one that is under way."""
        request = job.requests.request(ask, attempt)
        job.cost.asks += 1
        place = _Place(job, slot, attempt)
        if self._shares and request.key in self._waiting:
            job.cost.cached += 1
            self._waiting[request.key].append(place)
        else:
            job.cost.calls += 1
            self._waiting.setdefault(request.key, []).append(place)
            self._new.append(request)

    @property
    def _shares(self) -> bool:
        """Whether equal asks are answered once."""
        return (self.pooled or self._recalled) and self.backend.remembers

    def _answer_some(self) -> None:
        """Answer what the ledger knows, or let the backend answer some of the rest; then the methods go on."""
        known = self._known() if self._shares else {}
        self.backend.submit([request for request in self._new if request.key not in known])
        self._new = []
        if known:
            self._hand_over(known.items())
            return
        replies = self.backend.collect()
        if self.backend.remembers:
            self._agree()
            rows = [(request.key, request.query.id, reply) for request, reply in replies]
            self.ledger.add(rows)
            if self.shared:
                self.shared.add(rows, self.backend.identity, getattr(self.backend, "findings", None))
        self.calls += len(replies)
        self._hand_over((request.key, reply) for request, reply in replies)

    def _agree(self) -> None:
        """Note on what new answers depend besides their keys; see `Ledger.agree`."""
        findings = self.backend.findings
        if findings and findings != self._findings:
            self.ledger.agree(self.backend.identity, findings)
            self._findings = findings

    def _known(self) -> dict[bytes, Reply]:
        """The replies to new asks that are there already; those of other runs are copied into this one's ledger.

        An earlier execution's call is a call of the run: of the first query that needs its reply.
        """
        keys = [request.key for request in self._new]
        recalled = self.ledger.recall(keys)
        if self.shared:
            taken = self.shared.get_many([key for key in keys if key not in recalled])
            if taken:
                rows = [(each.key, each.query.id, taken[each.key]) for each in self._new if each.key in taken]
                self.ledger.adopt(self.shared.findings)
                self.ledger.add(rows, elsewhere=True)
                recalled |= {key: (reply, ELSEWHERE) for key, reply in taken.items()}
        for key, (_, execution) in recalled.items():
            jobs = [place.job for place in self._waiting[key]]
            if execution != self.ledger.execution:
                for job in jobs:
                    job.timed = False
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
            for place in self._places(key):
                self._deliver(place, reply)
                self._advance(place.job)
        self.on_answers(self.answered)

    def _places(self, key: bytes) -> list[_Place]:
        """Take the places that an answer under this key is for: all that wait for it, or the first."""
        places = self._waiting.pop(key)
        if not self._shares and len(places) > 1:
            self._waiting[key] = places[1:]
        return places if self._shares else places[:1]

    def _deliver(self, place: _Place, reply: Reply) -> None:
        """Read a reply and put the answer in its place, or ask again where the ranker says so."""
        self.answered += 1
        job = place.job
        ask = job.asks[place.slot]
        answer = self.ranker.read(ask, reply, self.backend)
        job.cost.prompt_tokens = plus(job.cost.prompt_tokens, answer.prompt_tokens)
        job.cost.completion_tokens = plus(job.cost.completion_tokens, answer.completion_tokens)
        job.cost.flops = plus(job.cost.flops, self._flops(ask, reply))
        if answer.form:
            self.forms[f"{ask.kind}: {answer.form}"] += 1
        if not answer.parsed:
            job.cost.unparsed += 1
            self.unparsed[ask.kind] += 1
            reason = f"{ask.kind}: {answer.form}"
            self.unread[reason] += 1
            self.examples.setdefault(reason, answer.text or "")
            policy = self.ranker.options.on_unparsed
            if policy == "fail":
                raise BackendError(
                    f"query {job.cost.query_id}: the answer {answer.text!r} about {', '.join(ask.docs)} cannot be "
                    "read; on_unparsed: keep_order or retry would go on"
                )
            if policy == "retry" and place.attempt < RETRIES:
                self._pose(job, place.slot, ask, place.attempt + 1)
                return
        job.answers[place.slot] = answer
        job.missing -= 1

    @cached_property
    def _shape(self) -> Shape | None:
        return self.backend.shape

    def _flops(self, ask: Ask, reply: Reply) -> int | None:
        """The operations of a reply, whenever it was given: they follow from what the ledger keeps of it."""
        if self._shape is None or reply.prompt_tokens is None or reply.completion_tokens is None:
            return None
        times = readings(self.ranker.prompt_of(ask), ask) if reply.scores else 1
        return of_answer(self._shape, reply.prompt_tokens, reply.completion_tokens, times)

    def _finish(self, job: _Job) -> tuple[Ranking, Cost]:
        """The ranking, which must be a permutation of the candidates, and its cost."""
        ranking = job.ranking
        candidates = job.requests.candidates
        if ranking is None or sorted(ranking.docs) != sorted(candidates.ids):
            raise R2llmError(
                f"query {job.cost.query_id}: {self.ranker.method.name} lost or invented documents, a fault in it"
            )
        job.cost.usd = self.backend.usd(job.cost.prompt_tokens, job.cost.completion_tokens)
        return ranking, job.cost


def comparisons(asks: Iterable[Ask]) -> int:
    """A round's comparisons as the papers count them.

    Unordered pairs for pairwise asks, prompts for setwise, listwise and other groups, none for pointwise.
    """
    pairs = {frozenset(ask.docs) for ask in asks if ask.kind == "compare"}
    return len(pairs) + sum(ask.kind in GROUP_KINDS for ask in asks)
