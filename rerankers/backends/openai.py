"""Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, TEI, and the services of OpenAI, Jina, Cohere.

With `tokenizer` prompts are rendered, cut and tokenised here, as for the backend `transformers`, and go through
/completions as token ids: the model reads the same tokens, and labels are scored over the whole vocabulary. Without one
they go through /chat/completions as messages, nothing is cut, and labels are scored by the most probable tokens that
the server lists. Cross-encoders are asked through /rerank or /score. What a server can do is found out before the first
ask that is not in the ledger, and said in the manifest.

A bounded number of asks is open, or answered and not yet in the ledger: a killed process loses no more. Where one
fails for good, no more is sent, replies on their way are waited for and handed over, and then the failure is raised.
"""

import asyncio
import os
import re
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, groupby
from threading import Thread
from typing import Any, TypeVar

import yarl

from ..answers.reading import REFUSED, Reply, no_answer
from ..errors import InputError
from ..prices import price_of
from ._local.loading import TOKENIZER, TOKENIZER_FILES, load, locate
from ._server.chat import Chat
from ._server.client import Client
from ._server.completions import Completions
from ._server.forms import Form
from ._server.limits import BudgetSpentError
from ._server.refusals import LENGTH, AttemptError, FailedError
from ._server.rerank import Rerank
from ._server.spec import Options, ServerSpec
from ._tokens.tokens import Tokens
from .base import Answered, Backend, Request, Setting

__all__ = ["OpenAI", "Options", "open"]

T = TypeVar("T")

WINDOW = 64  # requests that are grouped at once, at most
FORMS: dict[str, type[Form]] = {"chat": Chat, "completions": Completions, "relevance": Rerank}
NEUTRAL_SERVERS = {"vllm", "sglang"}  # as /models names them
# They take these from the model's generation config by default, and then text is no longer greedy.
NEUTRAL = {"repetition_penalty": 1.0, "top_k": -1, "min_p": 0.0}
# A server may refuse these.
OPTIONAL = ("temperature", "top_p", "top_k", "seed", "logprobs", "top_logprobs", "reasoning_effort")
# Capabilities on which answers do not depend; the others must be the same for all answers of one ledger.
SPEED_OR_COUNT = {"several_prompts_a_request", "labels_not_listed", "renormalised_over_labels"}


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Return a backend. Raises `InputError` where a URL, the tokenizer or a price is missing or wrong."""
    return OpenAI(options, setting.seed)


class OpenAI(Backend):
    """A server, its model, and the asks that are open there."""

    raw_logits = False
    scores_texts = False

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self.options, self.group_scores = options, options.group_scores
        self.price = price_of(options.name, options.prices)
        self.spec = ServerSpec(options, price=self.price, seed=seed)
        for url in self.spec.urls:
            _check_url(url)
        if not self.spec.urls:
            raise InputError("model.base_url: an empty list; name a server")
        self.source = None
        if name := options.tokenizer:
            self.source = locate(name, key="model.tokenizer", files=TOKENIZER, identity=TOKENIZER_FILES)
        if self.price is None and options.budget.usd is not None:
            remedy = "give model.prices, such as {prompt: 0.15, completion: 0.6} US dollars a million tokens"
            raise InputError(f"model.budget.usd: no price of {options.name} is known; {remedy}")
        self.renders = self.spec.api == "completions" and self.source is not None
        if options.chat_template and not self.renders:
            raise InputError("model.chat_template: the server renders prompts; set model.tokenizer to render them here")
        if options.chat_template_kwargs and not self.renders and self.spec.api != "chat":
            problem = f"model.chat_template_kwargs: api {self.spec.api} has no chat template"
            raise InputError(f"{problem}; set model.tokenizer")
        self._client: Client | None = None  # until the first ask
        self._forms: dict[str, Form] = {}
        self._served: list[str] | None = None  # models; None: not asked yet
        self._kind: str | None = None  # of server that it says it is
        self._groups: deque[Sequence[Request]] = deque()
        self._open = 0  # asks
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        self._answered: Answered = []
        self._failure: BaseException | None = None

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """All that makes its answers what they are; a chat template's rendering of some prompts is part of it."""
        options, api = self.options, self.spec.api
        identity = {"backend": "openai", "model": options.name, "api": api, "top_logprobs": options.top_logprobs}
        optional = {
            "tokenizer": self.source.identity if self.source else None,
            "extra_body": self.spec.extra_body,
            "reasoning_effort": options.reasoning_effort,
            "omit": sorted(options.omit),
            "group_scores": options.group_scores,
        }
        identity |= {name: value for name, value in optional.items() if value}
        return identity | (self.tokens.identity if self.tokens and self.renders else {})

    @property
    def details(self) -> Mapping[str, object]:
        """The server's capabilities and what it says of itself, and the cost of this execution's asks."""
        details: dict[str, object] = {
            "name": self.options.name,
            "api": self.spec.api,
            "tokenizer": self.source.identity if self.source else None,
            "truncation": "query_tokens, passage_tokens" if self.source else None,
            "replicas": len(self.spec.urls),
            "max_concurrency": self.options.max_concurrency,
            **(self.tokens.details if self.tokens and self.renders else {}),
        }
        if self.price:
            details["usd_per_million_tokens"] = self.price.model_dump(exclude_none=True)
        if self._client:
            details["server"] = self._kind
            every = (form.capabilities.items() for form in self._forms.values())
            details["capabilities"] = dict(chain.from_iterable(every))
            details |= {f"{name}s_seen": sorted(values) for name, values in self._client.seen.items() if values}
            details["spent"] = spent = dict(self._client.limiter.spent)
            if (usd := self.usd(spent["prompt_tokens"], spent["completion_tokens"])) is not None:
                details["spent"] = {**spent, "usd": round(usd, 6)}
        return details

    @property
    def findings(self) -> Mapping[str, object]:
        """The server's capabilities on which answers depend."""
        forms = self._forms.items()
        every = {f"{name}.{key}": form.capabilities[key] for name, form in forms for key in sorted(form.capabilities)}
        return {name: value for name, value in every.items() if name.partition(".")[2] not in SPEED_OR_COUNT}

    @cached_property
    def tokens(self) -> Tokens | None:
        """The tokenizer, loaded when first needed, or None without one."""
        if self.source is None:
            return None
        import transformers

        transformers.logging.set_verbosity_error()
        tokenizer = load(transformers.AutoTokenizer, self.source, key="model.tokenizer")
        return Tokens(tokenizer, self.architecture, self.options)

    @cached_property
    def config(self) -> Any:
        """The model's config, by which its operations are counted, if it lies beside its own tokenizer, else None."""
        # Under another name than the model's, a smaller model may have lent the tokenizer.
        lent = self.options.tokenizer != self.options.name
        if self.source is None or lent or not (self.source.folder / "config.json").is_file():
            return None
        import transformers

        return load(transformers.AutoConfig, self.source, key="model.tokenizer")

    def collect(self) -> Answered:
        """Return the next answers. When all are handed over, raise the failure that stopped the rest, if one did.

        `InputError`: the server cannot do what is asked for or refuses a request; `BackendError`: it fails or the
        budget is spent.
        """
        if self._client is None:
            if not self.waiting:
                return []
            self._client = Client(replace(self.spec, key=_key(self.options.api_key_env)))
            # In its own thread Ctrl-C never comes within a step of its tasks, and a notebook's loop is no obstacle.
            self._loop = asyncio.new_event_loop()
            self._thread = Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
        answered = self._run(self._converse(self._client))
        if not answered and self._failure is not None:
            raise self._failure
        return answered

    def close(self) -> None:
        """Close all connections."""
        if self._client is not None and not self._loop.is_closed():
            self._run(self._end(self._client))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _converse(self, client: Client) -> Answered:
        """Send what waits, wait for answers, and return them: by the next call they are in the ledger."""
        await self._send(client)
        while self._open and not self._answered:
            self._progress.clear()
            await self._progress.wait()
        answered, self._answered = self._answered, []
        return answered

    async def _send(self, client: Client) -> None:
        """Send what waits, as far as so many asks may be open or not handed over; a failure is kept for `collect`."""
        try:
            while self._failure is None and (self._groups or self.waiting):
                if self._served is None:
                    self._served = await self._models(client)
                if not self._groups:
                    for name, run in groupby(self.take(WINDOW), self._form_name):
                        self._groups.extend(self._form(client, name).groups(list(run)))
                size = len(self._groups[0])
                held = self._open + len(self._answered)
                if held and held + size > self.options.max_concurrency:
                    break
                self._open += size
                task = asyncio.create_task(self._ask(client, self._groups.popleft()))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, size))
        except Exception as error:  # noqa: BLE001 - raised where answers are collected
            self._fail(error)

    async def _models(self, client: Client) -> list[str]:
        """Return the served models. Raises `BackendError` where there is no answer or none without a valid key."""
        try:
            models = (await client.send("/models", None, lambda reply: reply))["data"]
            served = [str(model["id"]) for model in models]
            self._kind = next((str(model["owned_by"]) for model in models if model["id"] == self.options.name), None)
            return served
        except (AttemptError, FailedError, LookupError, TypeError):
            return []  # not every server lists its models; the first request tells whether it has this one

    async def _ask(self, client: Client, requests: Sequence[Request]) -> None:
        """Ask those that share a request, or one after the other where one of them is declined or all are too dear."""
        try:
            replies = await self._form(client, self._form_name(requests[0])).answer(requests)
        except (AttemptError, BudgetSpentError) as error:
            if isinstance(error, AttemptError) and error.kind == "wrong":
                raise self._refused(error, requests[0]) from None
            if len(requests) > 1:
                for request in requests:
                    await self._ask(client, [request])
                return
            if isinstance(error, BudgetSpentError):
                raise
            replies = [Reply(no_answer(REFUSED, error.reason), None, *error.tokens)]
        self._answered.extend(zip(requests, replies, strict=True))

    def _ended(self, asks: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._open -= asks
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)
        self._progress.set()

    def _fail(self, error: BaseException) -> None:
        """Repeat and begin nothing from now on; only replies on their way are waited for."""
        self._failure = self._failure or error
        if self._client:
            self._client.stopped = True
            for task in self._tasks - self._client.under_way:
                task.cancel()

    async def _end(self, client: Client) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await client.close()

    def _form_name(self, request: Request) -> str:
        api, relevance = self.options.api, request.ask.kind == "relevance"
        if relevance and api in ("chat", "completions"):
            remedy = "set model.api to auto, rerank or score"
            raise InputError(f"model.api: {api} does not serve cross-encoders' asks; {remedy}")
        if not relevance and api in ("rerank", "score"):
            use = "serves cross-encoders' asks alone, such as those of pointwise.cross_encoder"
            raise InputError(f"model.api: {api} {use}; set model.api to auto, chat or completions")
        return "relevance" if relevance else self.spec.api

    def _form(self, client: Client, name: str) -> Form:
        if name not in self._forms:
            neutral = NEUTRAL if self._kind in NEUTRAL_SERVERS else {}
            self._forms[name] = FORMS[name](client, self.spec, self.tokens, neutral)
        return self._forms[name]

    def _refused(self, error: AttemptError, request: Request) -> InputError:
        """Return the user's error that a refusal is, with its remedy."""
        name, where, message = self.options.name, self.spec.where, error.reason
        if error.status == 404:
            if self._served and name not in self._served:
                served = ", ".join(self._served[:20])
                return InputError(f"model.name: {where} does not serve '{name}'; it serves {served}")
            path = {"chat": "chat/completions", "relevance": "rerank"}.get(form := self._form_name(request), form)
            return InputError(f"model.api: {where} has no /{path} ({message}); set another model.api")
        blamed = next((name for name in OPTIONAL if name == error.blamed or f"'{name}'" in message), None)
        remedy = f"if it takes no `{blamed}`, set model.omit: [{blamed}]"
        if LENGTH.search(message) or error.status == 413:
            remedy = "where the prompt is too long, lower ranker.passage_tokens or the documents a prompt"
        elif blamed is None:
            remedy = "model.omit leaves a field out that it does not take, model.extra_body adds one"
        return InputError(f"query {request.query.id}: {where} refuses the request: {message}; {remedy}")


def _check_url(url: str) -> None:
    try:
        parts = yarl.URL(url)
    except ValueError:
        parts = yarl.URL()
    if parts.user is not None or parts.password is not None:
        remedy = "secrets come from the environment: set the variable that model.api_key_env names"
        raise InputError(f"model.base_url: the address of {parts.host} holds a name or password; {remedy}")
    if parts.scheme not in ("http", "https") or not parts.host or not parts.port or re.search(r"[\s?#]", url):
        shown = re.sub("//[^/]*@", "//…@", url)
        raise InputError(f"model.base_url: {shown} is no address of a server, such as http://localhost:8000/v1")


def _key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        problem = f"the key in {variable} holds line breaks or characters that no key has"
        raise InputError(f"model.api_key_env: {problem}; set it anew")
    return key or None
