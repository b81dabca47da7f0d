"""The input of a cross-encoder: query and passage, in its tokenizer's form for two texts, or both in one text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ...errors import InputError
from ...prompts.template import SEAM
from ..base import Request

Ids = list[int]


@dataclass(frozen=True, slots=True)
class PairForm:
    """The form in which a model's folder has pairs read, in at most `longest` tokens, and scored.

    `instruction` is the system turn's, "" for none, or None if pairs are not rendered by the chat template, whose
    `variables` are given. The score is the logit of the first of `tokens` less that of the second, if there is one, or
    without them what the folder's layers give.
    """

    instruction: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    longest: int | None = None
    tokens: tuple[int, int | None] | None = None


class Pairs:
    """A tokenizer for relevance; `shield` breaks up control tokens, `tokenize` returns ids without special ones."""

    def __init__(self, tokenizer: Any, shield: Callable[[str], str], tokenize: Callable[[str], Ids]) -> None:
        self.tokenizer, self._shield, self._tokenize = tokenizer, shield, tokenize
        self.special = lru_cache(maxsize=2)(self._around)
        self._truncate = lru_cache(maxsize=20_000)(self._at_token)

    def prompt(self, request: Request) -> tuple[str, Ids]:
        """Return the prompt as text and ids. Raises `InputError` for three messages."""
        messages = request.rendered(lambda text, length: self._shield(self._truncate(text, length)), seam=SEAM)
        if len(messages) > 2:
            problem = f"prompt '{request.prompt.name}' has {len(messages)} messages"
            raise InputError(f"{problem}, and a cross-encoder reads one text or two")
        parts = [self._tokenize(message.content) for message in messages]
        first, *rest = self.special(*"ab"[: len(parts)])
        ids = [*first, *(token for part, after in zip(parts, rest, strict=True) for token in [*part, *after])]
        return "\n\n".join(message.content for message in messages), ids

    def apart(self, request: Request) -> tuple[str, list[Ids]]:
        """Return an ask's texts that are read apart, those with `each` or all, and their ids, cut to a text's limit."""
        messages = request.rendered(lambda text, length: self._shield(self._truncate(text, length)), seam=SEAM)
        fused = request.prompt.fused
        before, after = self.special("a") if not fused or fused.special_tokens else ([], [])
        limit = min(self.tokenizer.model_max_length, request.terms.prompt_tokens or 10**9)
        room = int(limit) - len(before) - len(after)
        messages = tuple(message for message in messages if message.each) or messages
        parts = [[*before, *self._tokenize(message.content)[:room], *after] for message in messages]
        return "\n\n".join(message.content for message in messages), parts

    @property
    def numbers_texts(self) -> bool:
        """Return whether the tokenizer tells which text each token belongs to."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def token_types(self, ids: Sequence[int]) -> Ids:
        """Return the number of the text that each token belongs to."""
        types: Ids = self.tokenizer("a", "b")["token_type_ids"]
        start, between, end = map(len, self.special("a", "b"))
        second = len(types) - end - len(self._tokenize("b"))
        for place in range(start, len(ids) - between + 1) if between else ():
            if list(ids[place : place + between]) == self.special("a", "b")[1]:
                first, last = [types[start]] * (place - start), [types[second]] * (len(ids) - place - between - end)
                return types[:start] + first + types[second - between : second] + last + types[len(types) - end :]
        return [types[start]] * len(ids)

    def _around(self, *texts: str) -> list[Ids]:
        """Return the special tokens before, between and after texts."""
        whole, around, done = self.tokenizer(*texts)["input_ids"], [], 0
        for ids in map(self._tokenize, texts):
            start = next(i for i in range(done, len(whole)) if list(whole[i : i + len(ids)]) == ids)
            around.append(list(whole[done:start]))
            done = start + len(ids)
        return [*around, list(whole[done:])]

    def _at_token(self, text: str, length: int | None) -> str:
        """Return the text up to the end of a token: decoding would rewrite unknown characters."""
        if length is None:
            return text
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text if len(places) <= length else text[: places[length - 1][1]]
