"""What a cross-encoder reads: query and passage, in its tokenizer's form for two texts, or both in one text.

Texts are cut where a token of theirs ends, and not rewritten from tokens: an unknown character stays what it is. What
is longer than the model reads loses the end of the passage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

from ...errors import InputError
from ..base import Request

UNKNOWN_LENGTH = 10**9
"""A tokenizer that does not know how long the model's texts may be says a longer one than that."""

Ids = list[int]


class Pairs:
    """Turns asks for relevance into token ids, with a tokenizer.

    `shield` keeps control tokens of a text apart, and `tokenize` gives a text's ids, without special tokens.
    """

    def __init__(self, tokenizer: Any, shield: Callable[[str], str], tokenize: Callable[[str], Ids]) -> None:
        self.tokenizer = tokenizer
        self._shield = shield
        self._tokenize = tokenize
        self._cut = lru_cache(maxsize=20_000)(self._cut_at_token)

    def prompt(self, request: Request) -> tuple[str, Ids]:
        """What the model is to read, as text and as ids.

        Raises `InputError` where the prompt has more than two messages, or the query leaves no room.
        """
        terms = request.terms
        messages = terms.prompt.render(
            request.ask,
            self._shield(self._cut(request.query.text, terms.query_tokens)),
            [self._shield(self._cut(text, terms.passage_tokens)) for text in request.passages],
        )
        if len(messages) > 2:
            raise InputError(
                f"prompt '{terms.prompt.name}' has {len(messages)} messages, and a cross-encoder reads one text or two"
            )
        parts = [self._tokenize(message.content) for message in messages]
        special = self._around_two if len(parts) == 2 else self._around_one
        room = self._longest - sum(map(len, [*special, *parts[:-1]]))
        if room < 1:
            raise InputError(
                f"query {request.query.id}: {sum(map(len, parts[:-1]))} tokens leave no room for a passage in the "
                f"model's {self._longest}; lower ranker.query_tokens"
            )
        parts[-1] = parts[-1][:room]
        ids = [*special[0], *(i for part, after in zip(parts, special[1:], strict=True) for i in [*part, *after])]
        return "\n\n".join(message.content for message in messages), ids

    def token_types(self, ids: Sequence[int]) -> Ids | None:
        """Which of two texts each token belongs to, as the tokenizer numbers them; None where it does not."""
        if "token_type_ids" not in self.tokenizer.model_input_names:
            return None
        start, between, end = map(len, self._around_two)
        pattern: Ids = self.tokenizer("a", "b")["token_type_ids"]
        first, second = pattern[start], pattern[-end - 1]
        middle = pattern[len(pattern) - end - len(self._tokenize("b")) - between :][:between]
        places = range(start, len(ids) - between + 1)
        told = next((i for i in places if between and list(ids[i : i + between]) == self._around_two[1]), None)
        if told is None:
            return [first] * len(ids)
        first_text, second_text = [first] * (told - start), [second] * (len(ids) - told - between - end)
        return [*pattern[:start], *first_text, *middle, *second_text, *pattern[len(pattern) - end :]]

    @property
    def _longest(self) -> int:
        """How many tokens the model reads."""
        return int(min(self.tokenizer.model_max_length, UNKNOWN_LENGTH))

    @cached_property
    def _around_one(self) -> list[Ids]:
        """The special tokens before and after one text."""
        return _around(self.tokenizer("a")["input_ids"], [self._tokenize("a")])

    @cached_property
    def _around_two(self) -> list[Ids]:
        """Those before, between and after two texts."""
        return _around(self.tokenizer("a", "b")["input_ids"], [self._tokenize("a"), self._tokenize("b")])

    def _cut_at_token(self, text: str, length: int | None) -> str:
        """The text up to the end of its token of that number."""
        if length is None:
            return text
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text if len(found) <= length else text[: found[length - 1][1]]


def _around(whole: Sequence[int], parts: Sequence[Ids]) -> list[Ids]:
    """What stands in `whole` before, between and after the parts."""
    found, done = [], 0
    for part in parts:
        start = next(i for i in range(done, len(whole)) if list(whole[i : i + len(part)]) == part)
        found.append(list(whole[done:start]))
        done = start + len(part)
    return [*found, list(whole[done:])]
