"""What asking a language model has in common, by chat or by completions: above all, how labels are scored.

Labels are found in the list of most probable first tokens that a server gives with its answer. One that is not listed
is asked for in another way where the server has one, and else counts as probable as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from ...answers.reading import NO_PROBABILITY, Reply, no_answer
from ...errors import InputError
from .._tokens.tokens import Tokens
from .budget import Spending
from .forms import Form, Group, Poster
from .labels import are_log_probabilities, bounded, log_probability
from .refusals import RefusedError
from .spec import ServerSpec

T = TypeVar("T")

FEWER_LOGPROBS = 5
"""So many are tried where a server does not list as many as are asked for."""

NEWER = "max_completion_tokens"
"""OpenAI's reasoning models take the length of an answer under this name alone."""

TRIAL_COST = Spending(0, 600, 8)
"""The most that a trial costs."""

Rows = Sequence[tuple[str, Any]]
"""Listed tokens as text, the most probable first, with what the server says of each."""

Listed = Sequence[tuple[str, float]]
"""Those that have a log-probability."""


@dataclass(slots=True)
class Listing:
    """The tokens that a reply lists for one prompt, and the labels' log-probabilities in it."""

    scores: list[float | None]
    listed: Listed
    text: str
    prompt_tokens: int | None

    @classmethod
    def of(cls, rows: Rows, find: Callable[[Listed], list[float | None]], text: str, tokens: int | None) -> Listing:
        """Return the listing of the rows, in which `find` finds the labels."""
        listed = [(token, p) for token, value in rows if (p := log_probability(value)) is not None]
        scores = find(listed)
        if scores.count(None) == len(scores) > find([(token, 0.0) for token, _ in rows]).count(None):
            text = no_answer(NO_PROBABILITY, "the labels are listed without a log-probability")
        return cls(scores, listed, text, tokens)

    @property
    def reply(self) -> Reply:
        """The labels' scores, or if none is known the text that the model would have said instead."""
        scores = bounded(self.scores, [p for _, p in self.listed])
        known = None if scores is None else tuple(map(float, scores))
        return Reply(None if known else self.text, known, self.prompt_tokens, 0)


@dataclass(frozen=True, slots=True)
class LabelTrial:
    """A way in which a server may list tokens: its name, the fields that ask for it, and how many are listed."""

    name: str
    fields: Mapping[str, Any]
    count: int | None = None
    wanted: Sequence[str] = ()
    """Tokens that must be listed. The first is the only one allowed, and yet not certain over the whole vocabulary."""


class LanguageModel(Form):
    """The part that both forms share; `neutral` are fields of generation that the server would else not set."""

    path: ClassVar[str]
    prompt_field: ClassVar[str]

    def __init__(
        self, client: Poster, spec: ServerSpec, tokens: Tokens | None, neutral: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(client, spec, tokens)
        self._neutral = neutral or {}
        self._length_field = "max_tokens"
        self._list_fields: Mapping[str, Any] = {}
        self._least = 0.0
        """Fewer tokens in a list are asked for once more: vLLM 0.32 lists two where others ask for token ids then."""

    @property
    def short_prompt(self) -> Any:
        """The prompt of trials."""
        raise NotImplementedError

    def label_trials(self) -> Iterator[LabelTrial]:
        """Yield the ways in which tokens may be listed, the best first."""
        raise NotImplementedError

    def rows(self, choice: Any) -> Rows:
        """Return the most probable first tokens that a choice lists."""
        raise NotImplementedError

    async def listings(self, group: Group, calls: int) -> list[Listing]:
        """Ask for the lists of a group's prompts, which counts as so many calls."""
        raise NotImplementedError

    async def score_missing(self, listing: Listing, prompt: Any) -> None:
        """Score labels that are not listed in another way, as far as the server has one."""
        raise NotImplementedError

    async def ask(self, prompt: Any, length: int, read: Callable[[Any], T], most: Spending, **fields: Any) -> T:
        """Return what `read` makes of the reply to a prompt, of so many tokens at most."""
        while True:
            name = self._length_field
            body = self._body(prompt, length, fields)
            try:
                return await self.client.post(self.path, body, read, asks=most.calls, most=most)
            except RefusedError as error:
                if NEWER not in error.message or name == NEWER:
                    raise
                self._length_field = NEWER

    async def attempt(
        self, prompt: Any, shows: Callable[[Any], T], *, needed: bool = False, **fields: Any
    ) -> tuple[T | None, str]:
        """Return what the reply to a trial shows; see `Form.trial`."""
        for name in dict.fromkeys((self._length_field, NEWER)):
            self._length_field = name
            value, reason = await self.trial(self.path, self._body(prompt, 1, fields), shows, TRIAL_COST, needed=needed)
            if NEWER not in reason:
                break
        return value, reason

    def _body(self, prompt: Any, length: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        return self.spec.body(**{self.prompt_field: prompt, self._length_field: length, "temperature": 0.0, **fields})

    async def find_labels_way(self) -> None:
        """Find out how the server lists tokens. Raises `InputError` where it lists none or no log-probabilities."""

        trials, reason = list(self.label_trials()), ""
        for way in trials:

            def rows_of(reply: Any, wanted: Sequence[str] = way.wanted) -> dict[str, Any] | None:
                rows = dict(self.rows(reply["choices"][0]))
                return rows if all(token in rows for token in wanted) else None

            for _ in range(2):  # one odd reply shows nothing
                rows, reason = await self.attempt(self.short_prompt, rows_of, needed=way is trials[-1], **way.fields)
                forced = log_probability(rows[way.wanted[0]]) if rows and way.wanted else None
                sound = rows and are_log_probabilities(rows) and (forced is None or forced <= -1e-9)
                if not rows or sound:
                    break
            if rows and not sound:
                raise InputError(
                    "the server's log-probabilities are not those of the whole vocabulary; start vLLM with "
                    "--logprobs-mode raw_logprobs (its default)"
                )
            if rows:
                self._list_fields = way.fields
                self._least = min(way.count, len(rows)) / 2 if way.count else math.inf
                self.found["label_scores"] = way.name
                self.found |= {"top_logprobs": way.count} if way.count else {}
                self.found["log_probabilities"] = "whole vocabulary"
                return
        raise InputError(
            f"the server gives no log-probabilities for {self.spec.options.name} "
            f"({reason or 'it lists none with its answers'}); set ranker.scoring: generation"
        )

    async def label_scores(self, group: Group) -> list[Reply]:
        """Return the replies to a group whose labels are scored."""
        listings = await self.listings(group, len(group.requests))
        if any(None in listing.scores and len(listing.listed) < self._least for listing in listings):
            pairs = zip(listings, await self.listings(group, 0), strict=True)
            listings = [max(pair, key=lambda listing: len(listing.listed)) for pair in pairs]
        for listing, prompt in zip(listings, group.prepared, strict=True):
            if None in listing.scores:
                await self.score_missing(listing, prompt)
                self.count("labels_not_listed", listing.scores.count(None))
        return [listing.reply for listing in listings]

    def count(self, name: str, more: int) -> None:
        """Add to a count among the capabilities."""
        if more:
            self.found[name] = int(str(self.found.get(name, 0))) + more
