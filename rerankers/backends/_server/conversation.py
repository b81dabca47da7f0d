"""What is said to a server: who it is, in which form each ask is put, and what its refusals mean to the user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...answers.reading import REFUSED, Reply, no_answer
from ...errors import InputError
from ..base import Request
from .budget import Budget
from .chat import Chat
from .completions import Completions
from .dispatch import Group
from .forms import DeclinedError, FailedError, Fields, Form, Probes, RefusedError
from .refusals import LENGTH
from .rerank_endpoints import Endpoint, RerankEndpoints

if TYPE_CHECKING:
    from ..openai import OpenAI
    from .server import Server

NEUTRAL_SERVERS = {"vllm", "sglang"}
"""As /models names them: those that take sampling parameters from the model's own config unless told."""

IN_REQUESTS = 16
"""In so many requests the open asks are put unless told: enough that one that ends leaves no gap at the server."""

OPTIONAL = ("temperature", "top_p", "seed", "logprobs", "top_logprobs", "reasoning_effort")
"""Fields that a server may refuse and a request can do without."""

CHANGE_ANSWERS = [
    "answer_prefix",
    "continuations",
    "label_scores",
    "relevance",
    "structured_outputs",
    "system_turn",
    "top_logprobs",
]
"""What probes find that changes answers: those of one ledger must have been given alike."""

PATHS = {"chat": "chat/completions", "completions": "completions"}

FIRST_RETRIES = 3
"""So often the first question is repeated at most: that a server is not there is to be known soon."""


class Conversation:
    """What is said to the server, in the event loop of the dispatch."""

    def __init__(self, backend: OpenAI, key: str | None) -> None:
        self.backend = backend
        self.key = key
        self.takes_long = backend.source is not None
        self.budget = Budget(backend.options.budget, backend.price.usd if backend.price else None)
        self._server: Server | None = None
        self._forms: dict[str, Form] = {}
        self._served: list[str] = []
        self._kind: str | None = None
        """What kind of server it says it is."""
        self._checked = Probes()

    @property
    def details(self) -> dict[str, object]:
        """What was found out, and what was spent."""
        spent, price = self.budget.spent, self.budget.price(self.budget.spent)
        found: dict[str, object] = {"server": self._kind, "capabilities": {}}
        for form in self._forms.values():
            found["capabilities"] = {**_mapping(found["capabilities"]), **form.found}
        if self._server is not None:
            found |= {f"{name}s_seen": sorted(values) for name, values in self._server.seen.items() if values}
            if self._server.pace.refusals:
                paused = round(self._server.pace.paused, 1)
                found["rate_limits"] = {"refusals": self._server.pace.refusals, "seconds_paused": paused}
        counts = {
            "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
        }
        return found | {"spent": counts | ({} if price is None else {"usd": round(price, 6)})}

    @property
    def findings(self) -> dict[str, object]:
        """What was found out on which answers depend."""
        forms = self._forms.items()
        return {
            f"{form}.{name}": each.found[name] for form, each in forms for name in CHANGE_ANSWERS if name in each.found
        }

    async def begin(self) -> None:
        """Reach the server and read which models it serves.

        Raises `BackendError` where it does not answer or takes no request without a valid key.
        """
        from .server import Access, Server

        options = self.backend.options
        access = Access(
            self.backend.urls,
            self.key,
            options.api_key_env,
            options.timeout,
            options.retries,
            options.requests_per_minute,
            options.tokens_per_minute,
        )
        self._server = Server(access, self.budget)
        try:
            models = (await self._server.get("/models", FIRST_RETRIES))["data"]
            self._served = [str(model["id"]) for model in models]
            self._kind = next((str(model["owned_by"]) for model in models if model["id"] == options.name), None)
        except (RefusedError, FailedError, LookupError, TypeError):
            pass  # not every server lists its models; the first request tells whether it has this one

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Groups of requests, ready to be sent."""
        groups: list[Group] = []
        some: list[Request] = []
        for request in requests:
            if some and self._form_name(some[0]) != self._form_name(request):
                groups += self._form(some[0]).prepare(some)
                some = []
            some.append(request)
        return groups + (self._form(some[0]).prepare(some) if some else [])

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""
        request = group.requests[0]
        form = self._form(request)
        try:
            await self._checked.once(f"{self._form_name(request)} {group.way}", lambda: form.check(group.way))
            return await form.answer(group)
        except DeclinedError as error:
            if len(group.requests) > 1:  # it is one of them
                return [reply for one in group.split() for reply in await self.answer(one)]
            reason = no_answer(REFUSED, str(error))
            return [Reply(reason, None, error.prompt_tokens, error.completion_tokens)]
        except RefusedError as error:
            raise self._refused(error, request) from None

    def _form_name(self, request: Request) -> str:
        api = self.backend.api
        if request.ask.kind == "relevance":
            if self.backend.options.api in ("chat", "completions"):
                raise InputError(
                    f"model.api: {api} does not serve cross-encoders' asks; set model.api to auto, rerank or score"
                )
            return "relevance"
        if api in ("rerank", "score"):
            raise InputError(
                f"model.api: {api} serves cross-encoders' asks alone, such as those of pointwise.cross_encoder; set "
                "model.api to auto, chat or completions"
            )
        return api

    def _form(self, request: Request) -> Form:
        name = self._form_name(request)
        if name not in self._forms:
            self._forms[name] = self._make_form(name)
        return self._forms[name]

    def _make_form(self, name: str) -> Form:
        options, tokens = self.backend.options, self.backend.tokens
        assert self._server is not None
        fields = Fields(
            name=options.name,
            extra_body=self.backend.extra_body,
            omit=frozenset(options.omit),
            top_logprobs=options.top_logprobs,
            group_size=options.prompts_per_request or max(1, options.max_concurrency // IN_REQUESTS),
            replicas=len(self.backend.urls),
            seed=self.backend.seed,
        )
        if name == "relevance":
            endpoint: Endpoint = options.api if options.api in ("rerank", "score") else "auto"
            return RerankEndpoints(self._server, fields, tokens, endpoint, group_scores=options.group_scores)
        neutral = self._kind in NEUTRAL_SERVERS
        if name == "completions":
            return Completions(self._server, fields, tokens, neutral=neutral)
        return Chat(self._server, fields, tokens, options.reasoning_effort, neutral=neutral)

    def _refused(self, error: RefusedError, request: Request) -> InputError:
        """The user's error that a refusal is, with its remedy."""
        options, where = self.backend.options, ", ".join(self.backend.urls)
        if error.status == 404:
            if self._served and options.name not in self._served:
                return InputError(
                    f"model.name: {where} does not serve '{options.name}'; it serves {', '.join(self._served[:20])}"
                )
            path = PATHS.get(self._form_name(request), "rerank")
            return InputError(f"model.api: {where} has no /{path} ({error.message}); set another model.api")
        blamed = next((name for name in OPTIONAL if name == error.blamed or f"'{name}'" in error.message), None)
        remedy = f"if it takes no `{blamed}`, set model.omit: [{blamed}]"
        if LENGTH.search(error.message) or error.status == 413:
            remedy = "where the prompt is too long, lower ranker.passage_tokens or the documents a prompt"
        elif blamed is None:
            remedy = "model.omit leaves a field out that it does not take, model.extra_body adds one"
        return InputError(f"query {request.query.id}: {where} refuses the request: {error.message}; {remedy}")

    def halt(self) -> set[asyncio.Task[Any] | None]:
        """Repeat nothing from now on; returns the tasks that a reply is on its way to."""
        if self._server is None:
            return set()
        self._server.replicas.stopped = True
        return set(self._server.replicas.attempting)

    async def end(self) -> None:
        """Close all connections."""
        if self._server is not None:
            await self._server.close()


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
