"""Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, TEI, and the services of OpenAI, Jina, Cohere.

With `tokenizer` prompts are rendered, cut and tokenised here, as for the backend `transformers`, and go through
/completions as token ids: the model reads the same tokens, and labels are scored over the whole vocabulary. Without one
they go through /chat/completions as messages, nothing is cut, and labels are scored by the most probable tokens that
the server lists. Cross-encoders are asked through /rerank or /score. What a server can do is found out before the first
ask that is not in the ledger, and said in the manifest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yarl
from pydantic import Field

from ..errors import InputError
from ..hashing import file_digest
from ..marks import PathMark, Speed
from ..prices import Price, price_of
from ._local.loading import TOKENIZER_FILES, Source, combined, load, locate
from ._server.budget import Limits
from ._server.conversation import Conversation
from ._server.dispatch import Dispatch
from ._tokens.chat_templates import TemplateOptions
from ._tokens.tokens import Tokens
from .base import Answered, Backend, Request, Setting

EXAMPLE = "such as http://localhost:8000/v1"


class Options(TemplateOptions):
    """Keys of the `model` section."""

    remote = True

    name: Annotated[str, PathMark("folder")] = Field(description="the model's name at the server")
    base_url: Speed[str | list[str]] = Field(
        "https://api.openai.com/v1",
        description="where the server is, or several replicas of it; with /v1 where it has it",
    )
    api: Literal["auto", "chat", "completions", "rerank", "score"] = Field(
        "auto",
        description="how asks are put; auto: completions with a tokenizer, else chat; cross-encoders: rerank or score",
    )
    tokenizer: Annotated[str | None, PathMark("folder")] = Field(
        None,
        description="the model's tokenizer, a folder or hub id: texts are cut to length and prompts tokenised here",
    )
    max_concurrency: Speed[int] = Field(64, ge=1, description="asks open at once, at all replicas together")
    prompts_per_request: Speed[int | None] = Field(
        None,
        ge=1,
        description="asks that share a request, where the server takes several and no text is written; a sixteenth of "
        "max_concurrency unless given",
    )
    top_logprobs: int = Field(20, ge=1, description="of so many most probable tokens labels are scored")
    timeout: Speed[float] = Field(120.0, gt=0, description="seconds an attempt may take")
    retries: Speed[int] = Field(6, ge=0, description="further attempts at a request that failed")
    requests_per_minute: Speed[float | None] = Field(
        None, gt=0, description="so many requests are sent a minute at most"
    )
    tokens_per_minute: Speed[float | None] = Field(
        None, gt=0, description="so many tokens, of prompts and completions, as the server counts them"
    )
    budget: Speed[Limits] = Field(Limits(), description="what one execution may spend: usd, tokens, calls")
    prices: Annotated[Speed[str | dict[str, Any] | None], PathMark("named file")] = Field(
        None,
        description="{prompt, completion} in US dollars per million tokens, or a file of prices by model name; "
        "the user's own file of prices unless given",
    )
    api_key_env: Speed[str] = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key, if one is needed"
    )
    group_scores: bool = Field(
        False,
        description="a rerank endpoint's scores depend on the passages asked about together, as a listwise reranker's "
        "do: all of a query's candidates are in one request",
    )
    reasoning_effort: str | None = Field(
        None, description="how long a reasoning model thinks: minimal, low, medium, high"
    )
    extra_body: dict[str, Any] = Field({}, description="further fields of every request")
    omit: list[str] = Field([], description="fields that are left out of every request: what the server refuses")


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """A backend that asks the server; the server is reached when the first ask is submitted.

    Raises `InputError` where a URL, the tokenizer or a price is missing or wrong.
    """
    return OpenAI(options, setting.seed)


class OpenAI(Backend):
    """A server, its model, and the asks that are open there."""

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self.options = options
        self.seed = seed
        self.group_scores = options.group_scores
        self.urls = [options.base_url] if isinstance(options.base_url, str) else list(options.base_url)
        for url in self.urls:
            _check_url(url)
        if not self.urls:
            raise InputError("model.base_url: an empty list; name a server")
        self.source = _tokenizer_source(options.tokenizer) if options.tokenizer else None
        self.api = options.api
        if self.api == "auto":
            self.api = "completions" if self.source else "chat"
        self.renders = self.api == "completions" and self.source is not None
        if options.chat_template and not self.renders:
            raise InputError("model.chat_template: the server renders prompts; set model.tokenizer to render them here")
        if options.chat_template_kwargs and not self.renders and self.api != "chat":
            raise InputError(f"model.chat_template_kwargs: api {self.api} has no chat template; set model.tokenizer")
        self.price = _price(options)
        self._dispatch: Dispatch | None = None
        self._conversation: Conversation | None = None

    @property
    def extra_body(self) -> dict[str, Any]:
        """Further fields of every request; a server that renders prompts takes its template's variables there."""
        variables = self.options.chat_template_kwargs if self.api == "chat" else {}
        return ({"chat_template_kwargs": variables} if variables else {}) | self.options.extra_body

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What makes its answers what they are; how a chat template renders prompts is tried out for it."""
        options = self.options
        given = {
            "tokenizer": self.source.identity if self.source else None,
            "extra_body": self.extra_body,
            "reasoning_effort": options.reasoning_effort,
            "omit": sorted(options.omit),
            "group_scores": options.group_scores,
        }
        named = {name: value for name, value in given.items() if value}
        own = {"model": options.name, "api": self.api, "top_logprobs": options.top_logprobs}
        rendering = self.tokens.identity if self.tokens and self.renders else {}
        return {"backend": "openai", **own, **named, **rendering}

    @property
    def details(self) -> Mapping[str, object]:
        """What the server can do and says of itself, and what the asks of this execution cost."""
        found: dict[str, object] = {
            "name": self.options.name,
            "api": self.api,
            "tokenizer": self.source.identity if self.source else None,
            "truncation": "query_tokens, passage_tokens" if self.source else None,
            "replicas": len(self.urls),
            "max_concurrency": self.options.max_concurrency,
            **(self.tokens.details if self.tokens and self.renders else {}),
        }
        if self.price:
            found["usd_per_million_tokens"] = self.price.model_dump(exclude_none=True)
        return found | (self._conversation.details if self._conversation else {})

    @property
    def findings(self) -> Mapping[str, object]:
        """What was found out about the server on which answers depend."""
        return self._conversation.findings if self._conversation else {}

    @cached_property
    def tokens(self) -> Tokens | None:
        """The tokenizer, loaded when first needed, if there is one."""
        if self.source is None:
            return None
        import transformers

        transformers.logging.set_verbosity_error()
        tokenizer = load(transformers.AutoTokenizer, self.source, key="model.tokenizer")
        return Tokens(tokenizer, self.architecture, self.options)

    @cached_property
    def config(self) -> Any:
        """The model's config, by which its operations are counted, where it lies beside the tokenizer.

        None where the tokenizer goes by another name than the model: a smaller model of a family may have lent it.
        """
        if self.source is None or self.options.tokenizer != self.options.name:
            return None
        if not (self.source.folder / "config.json").is_file():
            return None
        import transformers

        return load(transformers.AutoConfig, self.source, key="model.tokenizer")

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests to answer, in order; the first ones start the conversation with the server."""
        if not requests:
            return
        if self._dispatch is None:
            self._conversation = Conversation(self, _key(self.options.api_key_env))
            self._dispatch = Dispatch(self._conversation, self.options.max_concurrency)
        self._dispatch.submit(requests)

    def collect(self) -> Answered:
        """Wait until some of the submitted requests are answered, and hand those over.

        Raises `InputError` where the server cannot do what is asked for or refuses a request, and `BackendError` where
        it fails or the budget is spent; all that was answered has been handed over then.
        """
        return self._dispatch.collect() if self._dispatch else []

    def close(self) -> None:
        """Close all connections."""
        if self._dispatch is not None:
            self._dispatch.close()


def _check_url(url: str) -> None:
    shown = re.sub("//[^/]*@", "//…@", url)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname and yarl.URL(url).host)
        sound = sound and parts.port != 0 and not parts.query and not parts.fragment and not re.search(r"\s", url)
    except ValueError as error:
        raise InputError(f"model.base_url: {shown} is no address of a server ({error}); give one, {EXAMPLE}") from None
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"model.base_url: the address of {parts.hostname} holds a name or password; secrets come from the "
            "environment: set the variable that model.api_key_env names"
        )
    if not sound:
        raise InputError(f"model.base_url: {shown} is no address of a server, {EXAMPLE}")


def _key(variable: str) -> str | None:
    """The key in an environment variable. Raises `InputError` where no request could carry it."""
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise InputError(
            f"model.api_key_env: the key in {variable} holds line breaks or characters that no key has; set it anew"
        )
    return key or None


def _tokenizer_source(name: str) -> Source:
    """Where the tokenizer is loaded from; a folder needs no more than the tokenizer's files."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return locate(name, key="model.tokenizer", files=("tokenizer_config.json", "tokenizer.json", "config.json"))
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)})
    if not files:
        raise InputError(f"model.tokenizer: folder {name} holds no tokenizer (no tokenizer.json)")
    identity = combined({path.name: file_digest(path) for path in files})
    return Source(str(folder), identity, {"trust_remote_code": False}, folder, is_folder=True)


def _price(options: Options) -> Price | None:
    """What tokens cost; None where no price is known. Raises `InputError` where the budget needs one."""
    price = price_of(options.name, options.prices)
    if price is None and options.budget.usd is not None:
        raise InputError(
            f"model.budget.usd: no price of {options.name} is known; give model.prices, such as "
            "{prompt: 0.15, completion: 0.6} US dollars a million tokens"
        )
    return price
