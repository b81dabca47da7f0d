"""The part that chat and completions share of asking a language model, above all how labels are scored.

Labels are found in the list of most probable first tokens that a server gives with its answer. One that is not listed
is asked for in another way where the server has one, and else counts as probable as it can be.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from ...answers.reading import Reply
from ...errors import InputError
from ..base import Request
from .budget import Spending, spending
from .forms import Form
from .labels import Listing, Rows, are_log_probabilities, log_probability
from .refusals import RefusedError

T = TypeVar("T")

FEWER_LOGPROBS = 5  # are tried where a server does not list as many as are asked for
NEWER = "max_completion_tokens"  # OpenAI's reasoning models take the length of an answer under this name alone
TRIAL_COST = spending(0, 600, 8)  # the most that a trial costs

LabelTrial = tuple[str, Mapping[str, Any], int | None, Sequence[str]]
"""A way in which a server may list tokens: its name, the fields that ask for it, and how many are listed or which.

Of those named the trial allows only the first, which is yet not certain over the whole vocabulary.
"""


class LanguageModel(Form):
    """The base of both forms."""

    path: ClassVar[str]
    prompt_field: ClassVar[str]
    short_prompt: Any
    """The prompt of trials."""

    _length_field = "max_tokens"
    _list_fields: Mapping[str, Any] = {}
    _least = 0.0
    """Fewer tokens in a list are asked for once more: vLLM 0.32 lists two where others ask for token ids then."""

    @abstractmethod
    def _label_trials(self) -> Iterator[LabelTrial]:
        """Yield the ways in which tokens may be listed, the best first."""

    @abstractmethod
    def _rows(self, choice: Any) -> Rows: ...

    @abstractmethod
    async def _listings(self, prompts: Sequence[Any], calls: int) -> list[Listing]: ...

    @abstractmethod
    async def _score_missing(self, listing: Listing, prompt: Any) -> None:
        """Score labels that are not listed in another way, as far as the server has one."""

    async def _ask(self, prompt: Any, length: int, read: Callable[[Any], T], most: Spending, **fields: Any) -> T:
        """Return what `read` makes of the reply to a prompt, of so many tokens at most."""
        while True:
            name = self._length_field
            try:
                body = self._body(prompt, length, fields)
                return await self.client.post(self.path, body, read, asks=most["calls"], most=most)
            except RefusedError as error:
                if NEWER not in error.message or name == NEWER:
                    raise
                self._length_field = NEWER

    async def _try(
        self, prompt: Any, shows: Callable[[Any], T], *, needed: bool = False, **fields: Any
    ) -> tuple[T | None, str]:
        """Return what the reply to a trial shows; see `Form._trial`."""
        for name in dict.fromkeys((self._length_field, NEWER)):
            self._length_field = name
            body = self._body(prompt, 1, fields)
            value, reason = await self._trial(self.path, body, shows, TRIAL_COST, needed=needed)
            if NEWER not in reason:
                break
        return value, reason

    def _body(self, prompt: Any, length: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        common = {self.prompt_field: prompt, self._length_field: length, "temperature": 0.0}
        return self.spec.body(**{**common, **fields})

    def _answer_tokens(self, request: Request) -> int:
        """Return the most tokens that an answer may have; a token is a byte at least."""
        if self.tokens:
            return self.tokens.answer_tokens(request)
        most = request.terms.decoding.max_new_tokens
        return len(request.ideal.encode()) + 1 if most is None else most

    async def _find_labels_way(self) -> None:
        """Find out how the server lists tokens. Raises `InputError` where it lists none or no log-probabilities."""
        trials, reason = list(self._label_trials()), ""
        for trial in trials:
            name, fields, count, wanted = trial

            def rows_of(reply: Any, wanted: Sequence[str] = wanted) -> dict[str, Any] | None:
                rows = dict(self._rows(reply["choices"][0]))
                return rows if all(token in rows for token in wanted) else None

            for _ in range(2):  # one odd reply shows nothing
                rows, reason = await self._try(self.short_prompt, rows_of, needed=trial is trials[-1], **fields)
                forced = log_probability(rows[wanted[0]]) if rows and wanted else None
                sound = rows and are_log_probabilities(rows) and (forced is None or forced <= -1e-9)
                if not rows or sound:
                    break
            if rows and not sound:
                raise InputError(
                    "the server's log-probabilities are not those of the whole vocabulary; start vLLM with "
                    "--logprobs-mode raw_logprobs (its default)"
                )
            if rows:
                self._list_fields = fields
                self._least = min(count, len(rows)) / 2 if count else math.inf
                self.found |= {"label_scores": name, **({"top_logprobs": count} if count else {})}
                self.found["log_probabilities"] = "whole vocabulary"
                return
        raise InputError(
            f"the server gives no log-probabilities for {self.spec.options.name} "
            f"({reason or 'it lists none with its answers'}); set ranker.scoring: generation"
        )

    async def _label_scores(self, prompts: Sequence[Any]) -> list[Reply]:
        """Return the replies to prompts whose labels are scored."""
        listings = await self._listings(prompts, len(prompts))
        if any(None in listing.scores and len(listing.listed) < self._least for listing in listings):
            pairs = zip(listings, await self._listings(prompts, 0), strict=True)
            listings = [max(pair, key=lambda listing: len(listing.listed)) for pair in pairs]
        for listing, prompt in zip(listings, prompts, strict=True):
            if None in listing.scores:
                await self._score_missing(listing, prompt)
                self._count("labels_not_listed", listing.scores.count(None))
        return [listing.reply for listing in listings]

    def _count(self, name: str, more: int) -> None:
        if more:
            self.found[name] = self.found.get(name, 0) + more
