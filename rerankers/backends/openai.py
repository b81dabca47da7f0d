"""Any server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, TEI, and the services of OpenAI, Jina, Cohere.

With `tokenizer` prompts are rendered, cut and tokenised here, as for the backend `transformers`, and go through
/completions as token ids: the model reads the same tokens, and labels are scored over the whole vocabulary. Without one
they go through /chat/completions as messages, nothing is cut, and labels are scored by the most probable tokens that
the server lists. Cross-encoders are asked through /rerank or /score. What a server can do is found out before the first
ask that is not in the ledger, and said in the manifest.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import yarl

from ..errors import InputError
from ..prices import price_of
from ._local.loading import TOKENIZER, TOKENIZER_FILES, load, locate
from ._server.conversation import Conversation
from ._server.spec import Options, ServerSpec
from ._tokens.tokens import Tokens
from .base import Answered, Backend, Setting

__all__ = ["OpenAI", "Options", "open"]

EXAMPLE = "such as http://localhost:8000/v1"


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Return a backend. Raises `InputError` where a URL, the tokenizer or a price is missing or wrong."""
    return OpenAI(options, setting.seed)


class OpenAI(Backend):
    """A server, its model, and the asks that are open there."""

    raw_logits = False
    scores_texts = False

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        urls = [options.base_url] if isinstance(options.base_url, str) else options.base_url
        for url in urls:
            _check_url(url)
        if not urls:
            raise InputError("model.base_url: an empty list; name a server")
        self.options, self.group_scores = options, options.group_scores
        self.source = None
        if name := options.tokenizer:
            self.source = locate(name, key="model.tokenizer", files=TOKENIZER, identity=TOKENIZER_FILES)
        self.price = price_of(options.name, options.prices)
        if self.price is None and options.budget.usd is not None:
            remedy = "give model.prices, such as {prompt: 0.15, completion: 0.6} US dollars a million tokens"
            raise InputError(f"model.budget.usd: no price of {options.name} is known; {remedy}")
        default = "completions" if self.source else "chat"
        api = default if options.api == "auto" else options.api
        self.spec = ServerSpec(options, urls, api, usd=self.price.usd if self.price else None, seed=seed)
        self.renders = api == "completions" and self.source is not None
        if options.chat_template and not self.renders:
            raise InputError("model.chat_template: the server renders prompts; set model.tokenizer to render them here")
        if options.chat_template_kwargs and not self.renders and api != "chat":
            raise InputError(f"model.chat_template_kwargs: api {api} has no chat template; set model.tokenizer")
        self._conversation: Conversation | None = None

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """All that makes its answers what they are; a chat template's rendering of some prompts is part of it."""
        options = self.options
        always = {
            "backend": "openai",
            "model": options.name,
            "api": self.spec.api,
            "top_logprobs": options.top_logprobs,
        }
        optional = {
            "tokenizer": self.source.identity if self.source else None,
            "extra_body": self.spec.extra_body,
            "reasoning_effort": options.reasoning_effort,
            "omit": sorted(options.omit),
            "group_scores": options.group_scores,
        }
        named = {name: value for name, value in optional.items() if value}
        return always | named | (self.tokens.identity if self.tokens and self.renders else {})

    @property
    def details(self) -> Mapping[str, object]:
        """The server's capabilities and what it says of itself, and the cost of this execution's asks."""
        price = {"usd_per_million_tokens": self.price.model_dump(exclude_none=True)} if self.price else {}
        return {
            "name": self.options.name,
            "api": self.spec.api,
            "tokenizer": self.source.identity if self.source else None,
            "truncation": "query_tokens, passage_tokens" if self.source else None,
            "replicas": len(self.spec.urls),
            "max_concurrency": self.options.max_concurrency,
            **(self.tokens.details if self.tokens and self.renders else {}),
            **price,
            **(self._conversation.details if self._conversation else {}),
        }

    @property
    def findings(self) -> Mapping[str, object]:
        """The server's capabilities on which answers depend."""
        return self._conversation.findings if self._conversation else {}

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
        if self._conversation is None:
            if not self.waiting:
                return []
            spec = replace(self.spec, key=_key(self.options.api_key_env))
            self._conversation = Conversation(spec, lambda: self.tokens)
        return self._conversation.collect(self.waiting)

    def close(self) -> None:
        """Close all connections."""
        if self._conversation is not None:
            self._conversation.close()


def _check_url(url: str) -> None:
    shown = re.sub("//[^/]*@", "//…@", url)
    try:
        parts = yarl.URL(url)
    except ValueError as error:
        raise InputError(f"model.base_url: {shown} is no address of a server ({error}); give one, {EXAMPLE}") from None
    if parts.user is not None or parts.password is not None:
        remedy = "secrets come from the environment: set the variable that model.api_key_env names"
        raise InputError(f"model.base_url: the address of {parts.host} holds a name or password; {remedy}")
    if parts.scheme not in ("http", "https") or not parts.host or not parts.port or re.search(r"[\s?#]", url):
        raise InputError(f"model.base_url: {shown} is no address of a server, {EXAMPLE}")


def _key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable():
        problem = f"the key in {variable} holds line breaks or characters that no key has"
        raise InputError(f"model.api_key_env: {problem}; set it anew")
    return key or None
