"""Asks of cross-encoders put through `/rerank`, as Jina, Cohere, vLLM, SGLang and TEI serve it, or vLLM's `/score`.

A request holds a query and many passages. A listwise reranker, whose scores depend on the passages beside each other,
is asked about all of a query's candidates at once (`group_scores`). Some scores went through a sigmoid: same order.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...answers.reading import Reply
from ...errors import InputError
from ..base import Request
from .forms import Form, at_most_tokens
from .limits import spending
from .refusals import AttemptError, MalformedError

# Ways in which servers are asked: the path, and the body's fields for a query and its passages.
DIALECTS: Mapping[str, tuple[str, Callable[[str, list[str]], dict[str, Any]]]] = {
    "rerank": ("/rerank", lambda query, passages: {"query": query, "documents": passages}),
    "rerank (TEI)": ("/rerank", lambda query, passages: {"query": query, "texts": passages}),
    "score": ("/score", lambda query, passages: {"text_1": query, "text_2": passages}),
}
SHORT = "Tides are raised by the moon."
LISTWISE = re.compile("jina-reranker-v3")  # models that are known to score passages beside each other
APART = 0.02  # by less, relative to it and absolutely, differ scores of a passage that do not depend on those beside it

Pair = tuple[str, str, int | None]  # query and passage as they are sent, and their tokens together if they are counted


class Rerank(Form):
    """The form of requests, in the first of the dialects that the server speaks."""

    def _alike(self, request: Request) -> tuple[Any, ...]:
        return "relevance", request.terms, request.query

    def _pair(self, request: Request) -> Pair:
        turns = self._rendered(request)
        if len(turns) != 2:
            raise InputError(
                f"prompt '{request.prompt.name}' has {len(turns)} messages; rerank endpoints take two texts, the query "
                "and the passage: use the prompt 'pair'"
            )
        query, passage = (turn.content for turn in turns)
        return query, passage, len(self.tokens.tokenizer(query, passage)["input_ids"]) if self.tokens else None

    async def _find_dialect(self) -> str:
        problems, api = [], self.spec.options.api
        for name, (path, _) in DIALECTS.items():
            if api in ("auto", path[1:]):
                try:
                    scores, problem = await self._try(name, ["one passage", "another"])
                except AttemptError as error:
                    scores, problem = None, error
                if scores:
                    self.capabilities["relevance"] = name
                    if not self.spec.options.group_scores:
                        await self._check_independent(name)
                    return name
                problems.append(f"{name}: {problem}")
        raise InputError(
            f"the server has no rerank endpoint for {self.spec.options.name} ({'; '.join(problems)}); serve a "
            "cross-encoder, or use a method that asks a language model, such as pointwise.yes_no"
        )

    async def _try(self, dialect: str, passages: list[str]) -> tuple[list[float] | None, Exception | None]:
        path, body_of = DIALECTS[dialect]
        fields, shows = body_of("why are there tides", passages), partial(_scores, count=len(passages))
        most = spending(0, 64, 0)
        return await self._trial(
            lambda read: self.client.send(path, self.spec.body(**fields), read, most), fields, shows
        )

    async def _check_independent(self, dialect: str) -> None:
        """Raise `InputError` where a passage's score depends on those beside it."""
        name = self.spec.options.name
        for other in () if LISTWISE.search(name) else ("The moon pulls on the oceans.", "Bread is made of flour."):
            (alone, _), (beside, _) = await self._try(dialect, [SHORT]), await self._try(dialect, [SHORT, other])
            if not alone or not beside or abs(alone[0] - beside[0]) <= APART * (1 + abs(alone[0])):
                return
        remedy = "set model.group_scores: true, by which all of a query's candidates are in one request"
        raise InputError(f"the scores of {name} depend on which passages are asked about together; {remedy}")

    async def answer(self, requests: Sequence[Request]) -> list[Reply]:
        path, fields = DIALECTS[await self._once("dialect", self._find_dialect)]

        async def scored(requests: Sequence[Request]) -> list[Reply]:
            pairs = [self._pair(request) for request in requests]
            body = self.spec.body(**fields(pairs[0][0], [passage for _, passage, _ in pairs]))
            tokens = sum(count or at_most_tokens(query + passage) for query, passage, count in pairs)
            read = partial(_scores, count=len(pairs))
            scores = await self.client.send(path, body, read, spending(len(pairs), tokens, 0))
            return [Reply(None, (score,), count, 0) for score, (_, _, count) in zip(scores, pairs, strict=True)]

        if not self.spec.options.group_scores:
            return await scored(requests)
        first = requests[0]
        every = [replace(first, ask=replace(first.ask, docs=(doc,))) for doc in first.texts]
        # By its key, which holds all the candidates: asks that come later take the same reply.
        key = f"{first.query.id} {first.terms.attempt} {id(first.texts)}"
        by_doc = dict(zip(first.texts, await self._once(key, partial(scored, every)), strict=True))
        return [by_doc[request.ask.docs[0]] for request in requests]


def _scores(reply: Any, count: int) -> list[float]:
    """Return one score a passage, in the order of the passages."""
    rows = reply["results" if "results" in reply else "data"] if isinstance(reply, Mapping) else reply
    scores = {int(row["index"]): row["relevance_score"] if "relevance_score" in row else row["score"] for row in rows}
    sound = [isinstance(score, (int, float)) and math.isfinite(score) for score in scores.values()]
    if len(rows) != count or sorted(scores) != list(range(count)) or not all(sound):
        raise MalformedError(f"{sum(sound)} scores for {count} passages")
    return [float(scores[i]) for i in range(count)]
