"""Asks of cross-encoders put through `/rerank`, as Jina, Cohere, vLLM, SGLang and TEI serve it, or vLLM's `/score`.

A request holds a query and many passages; the score of one does not depend on the others, so each ask keeps a reply of
its own. The scores are the server's: some are put through a sigmoid, which changes no order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from ...errors import InputError
from ...prompts.answers import Reply
from .. import Request
from ..inputs.tokens import Tokens
from .budget import Spending
from .dispatch import Group
from .forms import Fields, MalformedError, Probes, RefusedError, Server, at_most_tokens, rendered

Endpoint = Literal["auto", "rerank", "score"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server is asked: the path, and the body's fields for a query and its passages."""

    name: str
    path: str
    fields: Callable[[str, list[str]], dict[str, Any]]


DIALECTS = (
    Dialect("rerank", "/rerank", lambda query, passages: {"query": query, "documents": passages}),
    Dialect("rerank (TEI)", "/rerank", lambda query, passages: {"query": query, "texts": passages}),
    Dialect("score", "/score", lambda query, passages: {"text_1": query, "text_2": passages}),
)


class RerankEndpoints:
    """The form of requests, in the first of the dialects that the server speaks."""

    def __init__(self, server: Server, fields: Fields, tokens: Tokens | None, endpoint: Endpoint) -> None:
        self.server = server
        self.fields = fields
        self.tokens = tokens
        self.endpoint = endpoint
        self.found: dict[str, object] = {}
        self._probes = Probes()

    def prepare(self, requests: Sequence[Request]) -> list[Group]:
        """Passages of the same query together."""
        groups = []
        for _, some in groupby(requests, lambda request: (request.terms, request.query)):
            alike = list(some)
            size = self.fields.share(len(alike))
            for start in range(0, len(alike), size):
                part = tuple(alike[start : start + size])
                groups.append(Group("relevance", part, tuple(self._pair(request) for request in part)))
        return groups

    def _pair(self, request: Request) -> tuple[str, str, int | None]:
        """Query and passage as they are sent, and their tokens together, counted where there is a tokenizer."""
        turns = rendered(request, self.tokens)
        if len(turns) != 2:
            raise InputError(
                f"prompt '{request.prompt.name}' has {len(turns)} messages; rerank endpoints take two texts, the query "
                "and the passage: use the prompt 'pair'"
            )
        query, passage = (turn.content for turn in turns)
        count = len(self.tokens.tokenizer(query, passage)["input_ids"]) if self.tokens else None
        return query, passage, count

    async def check(self, way: str) -> None:  # noqa: ARG002
        """Raise `InputError` where the server has no such endpoint for the model."""
        await self._dialect()

    async def _dialect(self) -> Dialect:
        return await self._probes.once("dialect", self._find_dialect)

    async def _find_dialect(self) -> Dialect:
        reasons = []
        for dialect in DIALECTS:
            if self.endpoint in ("auto", dialect.path[1:]):
                body = self.fields.body(**dialect.fields("query", ["one passage", "another"]))
                try:
                    reply = await self.server.post(dialect.path, body, lambda reply: reply, most=Spending(0, 64, 0))
                    _scores(reply, 2)
                except RefusedError as error:
                    reasons.append(f"{dialect.name}: {error.message}")
                except (KeyError, TypeError, ValueError, AttributeError, MalformedError):
                    reasons.append(f"{dialect.name}: no scores")
                else:
                    self.found["relevance"] = dialect.name
                    return dialect
        raise InputError(
            f"the server has no rerank endpoint for {self.fields.name} ({'; '.join(reasons)}); serve a cross-encoder, "
            "or use a method that asks a language model, such as pointwise.yes_no"
        )

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""
        dialect = await self._dialect()
        query, passages = group.prepared[0][0], [passage for _, passage, _ in group.prepared]
        body = self.fields.body(**dialect.fields(query, passages))
        lengths = [count or at_most_tokens(query + passage) for query, passage, count in group.prepared]
        most = Spending(len(passages), sum(lengths), 0)
        scores = await self.server.post(
            dialect.path, body, lambda reply: _scores(reply, len(passages)), asks=len(passages), most=most
        )
        return [
            Reply(scores=(score,), prompt_tokens=count, completion_tokens=0)
            for score, (_, _, count) in zip(scores, group.prepared, strict=True)
        ]


def _scores(reply: Any, count: int) -> list[float]:
    """One score a passage, in the order of the passages."""
    rows = reply["results" if "results" in reply else "data"] if isinstance(reply, Mapping) else reply
    scores = {
        int(row["index"]): float(row["relevance_score"] if "relevance_score" in row else row["score"]) for row in rows
    }
    if len(rows) != count or sorted(scores) != list(range(count)) or not all(map(math.isfinite, scores.values())):
        raise MalformedError(f"{len(rows)} scores for {count} passages")
    return [scores[i] for i in range(count)]
