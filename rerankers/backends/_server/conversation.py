"""A conversation with a server: who it is, in which form each ask is put, and what its refusals mean to the user.

A bounded number of asks is open. Where one fails for good, no more is sent, replies on their way are waited for and
handed over, and then the failure is raised.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from itertools import groupby
from threading import Thread
from typing import Any, TypeVar

from ...answers.reading import REFUSED, Reply, no_answer
from ...errors import InputError
from .._tokens.tokens import Tokens
from ..base import Answered, Request
from .chat import Chat
from .client import Client
from .completions import Completions
from .forms import Form, Group
from .limits import Budget, BudgetSpentError
from .refusals import LENGTH, DeclinedError, FailedError, RefusedError
from .rerank import Rerank
from .spec import ServerSpec

T = TypeVar("T")

WINDOW = 64  # requests that are prepared at once, at most
FORMS: dict[str, type[Form]] = {"chat": Chat, "completions": Completions, "relevance": Rerank}

NEUTRAL_SERVERS = {"vllm", "sglang"}  # as /models names them
# They take these from the model's generation config by default, and then text is no longer greedy.
NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
OPTIONAL = ("temperature", "top_p", "seed", "logprobs", "top_logprobs", "reasoning_effort")  # a server may refuse them
# Capabilities on which answers do not depend; the others must be the same for all answers of one ledger.
SPEED_OR_COUNT = {"log_probabilities", "several_prompts_a_request", "labels_not_listed", "renormalised_over_labels"}


class Conversation:
    """A conversation, which goes on while answers are collected; `tokens` loads the tokenizer, or returns None."""

    def __init__(self, spec: ServerSpec, tokens: Callable[[], Tokens | None]) -> None:
        self.spec, self._tokens = spec, tokens
        self.budget = Budget(spec.options.budget, spec.usd)
        self.client = Client(spec, self.budget)
        self._forms: dict[str, Form] = {}
        self._served: list[str] = []
        self._kind: str | None = None  # of server that it says it is
        # In a thread of its own Ctrl-C never comes within a step of its tasks, and a notebook's loop is no obstacle.
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._begun, self._open = False, 0
        self._groups: deque[Group] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        self._answered: Answered = []
        self._failure: BaseException | None = None

    @property
    def details(self) -> dict[str, object]:
        spent, price, pace = self.budget.spent, self.budget.usd(self.budget.spent), self.client.pace
        capabilities = {name: value for form in self._forms.values() for name, value in form.found.items()}
        seen = {f"{name}s_seen": sorted(values) for name, values in self.client.seen.items() if values}
        limits = {"rate_limits": {"refusals": pace.refusals, "seconds_paused": round(pace.paused, 1)}}
        counts: dict[str, float] = {name: spent[name] for name in ("calls", "prompt_tokens", "completion_tokens")}
        counts |= {} if price is None else {"usd": round(price, 6)}
        found: dict[str, object] = {"server": self._kind, "capabilities": capabilities, **seen}
        return found | (limits if pace.refusals else {}) | {"spent": counts}

    @property
    def findings(self) -> dict[str, object]:
        found = ((f"{name}.{key}", form.found[key]) for name, form in self._forms.items() for key in sorted(form.found))
        return {name: value for name, value in found if name.partition(".")[2] not in SPEED_OR_COUNT}

    async def begin(self) -> None:
        """Read which models are served. Raises `BackendError` where there is no answer or none without a valid key."""
        try:
            models = (await self.client.send("/models", None, lambda reply: reply))["data"]
            self._served = [str(model["id"]) for model in models]
            name = self.spec.options.name
            self._kind = next((str(model["owned_by"]) for model in models if model["id"] == name), None)
        except (RefusedError, FailedError, LookupError, TypeError):
            pass  # not every server lists its models; the first request tells whether it has this one

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        runs = groupby(requests, self._form_name)
        return [group for name, run in runs for group in self._form(name).prepare(list(run))]

    async def answer(self, group: Group) -> list[Reply]:
        try:
            return await self._form(self._form_name(group.requests[0])).answer(group)
        except DeclinedError as error:
            if len(group.requests) > 1:  # it is one of them
                return [reply for one in group.split() for reply in await self.answer(one)]
            reason = no_answer(REFUSED, error.reason)
            return [Reply(reason, None, error.prompt_tokens, error.completion_tokens)]
        except RefusedError as error:
            raise self._refused(error, group.requests[0]) from None

    def _form_name(self, request: Request) -> str:
        api, relevance = self.spec.options.api, request.ask.kind == "relevance"
        if relevance and api in ("chat", "completions"):
            remedy = "set model.api to auto, rerank or score"
            raise InputError(f"model.api: {api} does not serve cross-encoders' asks; {remedy}")
        if not relevance and api in ("rerank", "score"):
            use = "serves cross-encoders' asks alone, such as those of pointwise.cross_encoder"
            raise InputError(f"model.api: {api} {use}; set model.api to auto, chat or completions")
        return "relevance" if relevance else self.spec.api

    def _form(self, name: str) -> Form:
        if name not in self._forms:
            neutral = NEUTRAL if self._kind in NEUTRAL_SERVERS else {}
            self._forms[name] = FORMS[name](self.client, self.spec, self._tokens(), neutral)
        return self._forms[name]

    def _refused(self, error: RefusedError, request: Request) -> InputError:
        """Return the user's error that a refusal is, with its remedy."""
        name, where = self.spec.options.name, self.spec.where
        if error.status == 404:
            served = ", ".join(self._served[:20])
            if served and name not in self._served:
                return InputError(f"model.name: {where} does not serve '{name}'; it serves {served}")
            path = {"chat": "chat/completions", "relevance": "rerank"}.get(form := self._form_name(request), form)
            return InputError(f"model.api: {where} has no /{path} ({error.message}); set another model.api")
        blamed = next((name for name in OPTIONAL if name == error.blamed or f"'{name}'" in error.message), None)
        remedy = f"if it takes no `{blamed}`, set model.omit: [{blamed}]"
        if LENGTH.search(error.message) or error.status == 413:
            remedy = "where the prompt is too long, lower ranker.passage_tokens or the documents a prompt"
        elif blamed is None:
            remedy = "model.omit leaves a field out that it does not take, model.extra_body adds one"
        return InputError(f"query {request.query.id}: {where} refuses the request: {error.message}; {remedy}")

    def collect(self, waiting: list[Request]) -> Answered:
        """Return the next answers, or nothing if none is outstanding. Raise a failure when all others are returned."""
        answered = self._run(self._converse(waiting))
        if not answered and self._failure is not None:
            raise self._failure
        return answered

    async def _converse(self, waiting: list[Request]) -> Answered:
        """Send what waits, wait for answers, and return them."""
        await self._send(waiting)
        while self._open and not self._answered:
            self._progress.clear()
            await self._progress.wait()
            await self._send(waiting)
        answered, self._answered = self._answered, []
        return answered

    async def _send(self, waiting: list[Request]) -> None:
        """Send what waits, as far as so many asks may be open; a failure is kept for `collect`."""
        try:
            while self._failure is None and (self._groups or waiting):
                if not self._begun:
                    await self.begin()
                    self._begun = True
                if not self._groups:
                    requests, waiting[:WINDOW] = waiting[:WINDOW], []
                    self._groups.extend(self.prepare(requests))
                size = len(self._groups[0].requests)
                if self._open and self._open + size > self.spec.options.max_concurrency:
                    break
                self._open += size
                task = asyncio.create_task(self._ask(self._groups.popleft()))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, size))
        except Exception as error:  # noqa: BLE001 - raised where answers are collected
            self._fail(error)

    async def _ask(self, group: Group) -> None:
        try:
            replies = await self.answer(group)
            self._answered.extend(zip(group.requests, replies, strict=True))
        except BudgetSpentError:
            if len(group.requests) == 1:
                raise
            for one in group.split():  # some may still fit
                await self._ask(one)

    def _ended(self, asks: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open -= asks
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)
        self._progress.set()

    def _fail(self, error: BaseException) -> None:
        """Repeat and begin nothing from now on; only replies on their way are waited for."""
        self._failure = self._failure or error
        self.client.stopped = True
        for task in self._tasks - self.client.under_way:
            task.cancel()

    def close(self) -> None:
        """Close all connections."""
        if not self._loop.is_closed():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.client.close()
