"""Asks of cross-encoders put through `/rerank`, as Jina, Cohere, vLLM, SGLang and TEI serve it, or vLLM's `/score`.

A request holds a query and many passages; where the score of one does not depend on the others, each ask keeps a reply
of its own. A listwise reranker, whose scores do, is asked about all of a query's candidates at once (`group_scores`).
The scores are the server's: some are put through a sigmoid, which changes no order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from ...answers.reading import Reply
from ...errors import InputError
from .._tokens.tokens import Tokens
from ..base import Request
from .budget import Spending
from .dispatch import Group
from .forms import Fields, MalformedError, Probes, RefusedError, Server, at_most_tokens, rendered, tried

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


TRIED = "Tides are raised by the moon."

LISTWISE = re.compile("jina-reranker-v3")
"""Models that are known to score passages beside each other."""

APART = 0.02
"""Scores of the same passage beside others differ by less, relative to it and absolutely, if they do not depend."""


class RerankEndpoints:
    """The form of requests, in the first of the dialects that the server speaks.

    `group_scores`: all of a query's candidates are scored in one request.
    """

    def __init__(
        self, server: Server, fields: Fields, tokens: Tokens | None, endpoint: Endpoint, *, group_scores: bool = False
    ) -> None:
        self.group_scores = group_scores
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
            size = len(alike) if self.group_scores else self.fields.share(len(alike))
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
                try:
                    scores, reason = await self._try(dialect, ["one passage", "another"])
                except RefusedError as error:
                    scores, reason = None, error.message
                if scores:
                    self.found["relevance"] = dialect.name
                    await self._check_independent(dialect)
                    return dialect
                reasons.append(f"{dialect.name}: {reason}")
        raise InputError(
            f"the server has no rerank endpoint for {self.fields.name} ({'; '.join(reasons)}); serve a cross-encoder, "
            "or use a method that asks a language model, such as pointwise.yes_no"
        )

    async def _try(self, dialect: Dialect, passages: list[str]) -> tuple[list[float] | None, str]:
        body = self.fields.body(**dialect.fields("why are there tides", passages))
        most = Spending(0, 64, 0)
        return await tried(self.server, dialect.path, body, lambda reply: _scores(reply, len(passages)), most)

    async def _check_independent(self, dialect: Dialect) -> None:
        """Raise `InputError` where a passage's score depends on those beside it, and that is not reckoned with."""
        if self.group_scores:
            return
        differ = LISTWISE.search(self.fields.name) is not None
        for other in () if differ else ("The moon pulls on the oceans.", "Bread is made of flour."):
            (alone, _), (beside, _) = await self._try(dialect, [TRIED]), await self._try(dialect, [TRIED, other])
            if not alone or not beside or abs(alone[0] - beside[0]) <= APART * (1 + abs(alone[0])):
                break
        else:
            raise InputError(
                f"the scores of {self.fields.name} depend on which passages are asked about together; set "
                "model.group_scores: true, by which all of a query's candidates are in one request"
            )

    async def answer(self, group: Group) -> list[Reply]:
        """The replies to a group, in order."""
        if not self.group_scores:
            scores = await self._post(group.prepared, len(group.requests))
        else:
            first = group.requests[0]

            async def all_scores() -> dict[str, float]:
                alike = [replace(first, ask=replace(first.ask, docs=(doc,))) for doc in first.texts]
                pairs = [self._pair(request) for request in alike]
                return dict(zip(first.texts, await self._post(pairs, len(group.requests)), strict=True))

            # By its key, which holds all the candidates: asks that come later take the same reply.
            by_doc = await self._probes.once(f"{first.query.id} {first.terms.attempt} {id(first.texts)}", all_scores)
            scores = [by_doc[request.ask.docs[0]] for request in group.requests]
        return [
            Reply(scores=(score,), prompt_tokens=count, completion_tokens=0)
            for score, (_, _, count) in zip(scores, group.prepared, strict=True)
        ]

    async def _post(self, pairs: Sequence[tuple[str, str, int | None]], asks: int) -> list[float]:
        """The scores of pairs of one query."""
        dialect = await self._dialect()
        query, passages = pairs[0][0], [passage for _, passage, _ in pairs]
        body = self.fields.body(**dialect.fields(query, passages))
        most = Spending(asks, sum(count or at_most_tokens(query + passage) for query, passage, count in pairs), 0)
        return await self.server.post(
            dialect.path, body, lambda reply: _scores(reply, len(passages)), asks=asks, most=most
        )


def _scores(reply: Any, count: int) -> list[float]:
    """One score a passage, in the order of the passages."""
    rows = reply["results" if "results" in reply else "data"] if isinstance(reply, Mapping) else reply
    scores = {int(row["index"]): row["relevance_score"] if "relevance_score" in row else row["score"] for row in rows}
    sound = [isinstance(score, (int, float)) and math.isfinite(score) for score in scores.values()]
    if len(rows) != count or sorted(scores) != list(range(count)) or not all(sound):
        raise MalformedError(f"{sum(sound)} scores for {count} passages")
    return [float(scores[i]) for i in range(count)]
