"""The account of a server from which everything else here works: the user's options, and what follows from them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from ...marks import PathMark, Speed
from ...prices import Price
from .._tokens.chat_templates import TemplateOptions
from ..base import Request
from .limits import Limits

MAX_MESSAGE = 300  # characters of a server's own message that are shown
MIN_SECRET = 16  # a shorter key is no secret but a word such as "EMPTY", which an answer may hold
OPEN_REQUESTS = 16  # that the open asks are spread over by default: when one ends, the server still has others


class Options(TemplateOptions):
    """Keys of the `model` section."""

    remote = True

    name: Annotated[str, PathMark("folder")] = Field(description="the model's name at the server")
    base_url: Speed[str | list[str]] = Field(
        "https://api.openai.com/v1", description="the server, or a list of its replicas; with /v1 where it has it"
    )
    api: Literal["auto", "chat", "completions", "rerank", "score"] = Field(
        "auto", description="auto: completions with a tokenizer, else chat; cross-encoders: rerank or score"
    )
    tokenizer: Annotated[str | None, PathMark("folder")] = Field(
        None, description="the model's own, a folder or hub id: texts are cut to length and prompts tokenised here"
    )
    max_concurrency: Speed[int] = Field(64, ge=1, description="most asks open at once, at all replicas together")
    prompts_per_request: Speed[int | None] = Field(
        None, ge=1, description="most asks a request, if no text is written; default a sixteenth of max_concurrency"
    )
    top_logprobs: int = Field(20, ge=1, description="labels are scored by so many most probable tokens")
    timeout: Speed[float] = Field(120.0, gt=0, description="seconds an attempt may take")
    retries: Speed[int] = Field(6, ge=0, description="further attempts at a request that failed")
    requests_per_minute: Speed[float | None] = Field(None, gt=0, description="most requests sent a minute")
    tokens_per_minute: Speed[float | None] = Field(
        None, gt=0, description="most tokens a minute, of prompts and completions, as the server counts them"
    )
    budget: Speed[Limits] = Field(Limits(), description="what one execution may spend: usd, tokens, calls")
    prices: Annotated[Speed[str | dict[str, Any] | None], PathMark("named file")] = Field(
        None,
        description="{prompt, completion} in US dollars per million tokens, or a file of prices by model name; "
        "default the user's own file of prices",
    )
    api_key_env: Speed[str] = Field("OPENAI_API_KEY", description="the environment variable that holds the key, if any")
    group_scores: bool = Field(
        False,
        description="a rerank endpoint's scores depend on the passages asked about together, as a listwise reranker's "
        "do: all of a query's candidates are in one request",
    )
    reasoning_effort: str | None = Field(
        None, description="how long a reasoning model thinks: minimal, low, medium, high"
    )
    extra_body: dict[str, Any] = Field({}, description="further fields of every request")
    omit: list[str] = Field([], description="fields left out of every request, because the server refuses them")


@dataclass(frozen=True)
class ServerSpec:
    """One server, the model asked there, and how requests to it are made."""

    options: Options
    key: str | None = field(default=None, repr=False)
    price: Price | None = None
    seed: int = 0

    @property
    def urls(self) -> list[str]:
        """Return the addresses of all replicas."""
        return [self.options.base_url] if isinstance(self.options.base_url, str) else self.options.base_url

    @property
    def where(self) -> str:
        return ", ".join(self.urls)

    @property
    def api(self) -> str:
        """Return how language models are asked."""
        default = "completions" if self.options.tokenizer else "chat"
        return default if self.options.api == "auto" else self.options.api

    @cached_property
    def _key(self) -> re.Pattern[str]:
        r"""Matches the key, also where JSON writes characters of it as `\u0073` or `\/`, once or nested."""
        forms = (rf"(?:\\*{re.escape(char)}|\\+u00(?i:{ord(char):02x}))" for char in self.key or "")
        return re.compile("".join(forms) or r"(?!)")

    def without_secret(self, reply: str) -> str:
        """Return a reply's JSON with the key masked, unless the key is too short to be secret."""
        if not self.key or len(self.key) < MIN_SECRET or not (self.key in reply or "\\" in reply):
            return reply
        return self._key.sub("…", reply)

    def shown(self, text: str) -> str:
        """Return a server's words fit for a message: in one line, without the key, shortened."""
        return " ".join(self._key.sub("…", text).split())[:MAX_MESSAGE]

    def share(self, waiting: int) -> int:
        """Return how many of the waiting asks may share a request without leaving a replica idle."""
        largest = self.options.prompts_per_request or max(1, self.options.max_concurrency // OPEN_REQUESTS)
        return min(largest, -(-waiting // len(self.urls)))

    @property
    def extra_body(self) -> Mapping[str, Any]:
        """Further fields of every request; a server that renders prompts takes its template's variables there."""
        variables = self.options.chat_template_kwargs if self.api == "chat" else {}
        return ({"chat_template_kwargs": variables} if variables else {}) | self.options.extra_body

    def body(self, **fields: Any) -> dict[str, Any]:
        body = {"model": self.options.name, **fields, **self.extra_body}
        return {name: value for name, value in body.items() if name not in self.options.omit}

    def sampling(self, request: Request) -> dict[str, Any]:
        """Return the fields that say how an ask's text is drawn, greedily or by its own seed, and where it ends."""
        decoding = request.terms.decoding
        stop = {"stop": list(decoding.stop)} if decoding.stop else {}
        if not decoding.temperature:
            return {"temperature": 0.0, **stop}
        seed = (int.from_bytes(request.key[:8]) ^ self.seed) & 0x7FFFFFFF  # 31 bits, which every server's seeds have
        likeliest = {"top_k": decoding.top_k} if decoding.top_k else {}
        return {"temperature": decoding.temperature, "top_p": decoding.top_p, **likeliest, "seed": seed, **stop}
