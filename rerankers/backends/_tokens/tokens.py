"""A model's tokenizer at work: cutting texts to length, framing prompts, finding the ids of labels.

Passages are data: a text that contains one of the tokenizer's control tokens, say `</s>`, is tokenised in two parts
that meet inside it, so that the model reads the same characters (T5 a blank more, where they meet) and the token itself
never arises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from ...errors import InputError
from ...prompts.template import Architecture
from ..base import Request
from .chat_templates import ChatTemplate, TemplateOptions, chat_template
from .pairs import Pairs

SEAM = "\ue000"
"""A private-use character, put inside a control token that a text contains: where the text is tokenised in parts."""

TAIL = 32
"""How many of a prompt's last characters decide how the first token of the answer is written."""

LEAST = 32
"""Tokens: shorter beginnings of prompts are not worth a pass of their own."""

PART = 3
"""A first passage is read by itself where it is at least one part in so many of the prompt."""


class Tokens:
    """Turns requests into token ids."""

    def __init__(self, tokenizer: Any, architecture: Architecture, options: TemplateOptions | None = None) -> None:
        self.tokenizer = tokenizer
        self.architecture = architecture
        self._options = options or TemplateOptions()
        control = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(token) for token in control if len(token) > 1) or r"(?!)")
        self._shared: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.cut = lru_cache(maxsize=200_000)(self._cut)
        self._label_ids = lru_cache(maxsize=1_000)(self._find_label_ids)

    @cached_property
    def pairs(self) -> Pairs:
        """The same for a cross-encoder."""
        return Pairs(self.tokenizer, self._shield, lambda text: self._ids(text, special=False))

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template; an encoder-decoder's is not used. Raises `InputError` where it cannot be read."""
        return chat_template(self.tokenizer, self._options) if self.architecture == "decoder_only" else None

    @property
    def _as_text(self) -> bool:
        """Whether a decoder-only model is to read a prompt's text form, whether it has a chat template or not."""
        return self.architecture == "decoder_only" and self._options.chat_template == "none"

    @property
    def identity(self) -> dict[str, object]:
        """What makes prompts what they are besides the model's files; empty where no chat template has a part in it."""
        if self.template is not None:
            return {"chat_template": self.template.digest}
        return {"chat_template": "none"} if self._as_text else {}

    @property
    def details(self) -> dict[str, object]:
        """What the manifest tells of how prompts are rendered, where that is not as the prompt says."""
        folds = self.template is not None and self.template.folds_system_turns
        return {"system_turns": "put before the first user turn"} if folds else {}

    def _cut(self, text: str, length: int | None) -> str:
        """The text's first `length` tokens, turned back into text.

        Short texts too: what a tokenizer makes of a text (T5's joins lines, say) does not depend on its length.
        """
        if length is None:
            return text
        cut = str(self.tokenizer.convert_tokens_to_string(self.tokenizer.tokenize(text)[:length]))
        # A cut after T5's lone "▁" would end in a blank, which SentencePiece's own decoding leaves out.
        return cut.strip() if self.architecture == "encoder_decoder" else cut

    def prompt(self, request: Request) -> tuple[str, list[int]]:
        """The prompt as text and as ids: the encoder's input, or all that stands before the answer."""
        if request.ask.kind == "relevance":
            return self.pairs.prompt(request)
        terms = request.terms
        lengths = {name: terms.passage_tokens if cut == "cut" else None for name, cut in terms.prompt.notes.items()}
        messages = terms.prompt.render(
            request.ask,
            self._shield(self.cut(request.query.text, terms.query_tokens)),
            [self._shield(self.cut(text, terms.passage_tokens)) for text in request.passages],
            "encoder_decoder" if self._as_text else self.architecture,
            {name: self._shield(self.cut(note, lengths.get(name))) for name, note in request.ask.notes},
        )
        if self.template is not None:
            text = self.template.render(messages)
            # The template has written the special tokens already.
            special = terms.special_tokens == "twice" and bool(terms.prompt.answer.prefix.decoder_only)
        else:
            text = "\n\n".join(message.content for message in messages)
            special = True
        if self.architecture == "decoder_only":
            text += request.prompt.answer.prefix.decoder_only
        ids = self._ids(text, special)
        limit = terms.decoding.prompt_tokens
        if limit is not None and len(ids) > limit:
            ids = [*ids[: limit - 1], ids[-1]]  # the end token stays
        return text, ids

    def shared_prefixes(self, request: Request, ids: Sequence[int]) -> list[int]:
        """How many of a prompt's first tokens other asks of the same terms and query have too, in ascending order.

        First those that stand before the passages; then those of the first passage as well, where it is so long that
        reading it by itself pays although few asks may share it. Empty where nothing is shared for sure, or too little.
        It depends on the prompt alone, not on what else is asked.
        """
        docs = request.ask.docs
        if not docs or request.ask.signals or request.ask.labels:
            return []
        before, through = (self._shared_length(request, ids, kept) for kept in (0, 1))
        start = before if before >= LEAST else 0
        lengths = [start] if start else []
        if through - start >= max(LEAST, len(ids) / PART):
            lengths.append(through)
        return [length for length in lengths if length < len(ids)]

    def _shared_length(self, request: Request, ids: Sequence[int], kept: int) -> int:
        """How many first tokens the prompt has in common with asks that share its first `kept` documents."""
        docs, texts = request.ask.docs, request.texts
        if kept >= len(docs):
            return 0
        key = (request.terms, request.query, tuple(texts[doc] for doc in docs[:kept]), len(docs), request.ask.notes)
        shared = self._shared.get(key)
        if shared is None:
            # What follows cannot change the tokens before it, whatever it begins with.
            same = {doc: texts[doc] for doc in docs[:kept]}
            one, other = (
                self.prompt(replace(request, texts=dict.fromkeys(docs[kept:], text) | same))[1] for text in ("", "a")
            )
            length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            if len(self._shared) > 10_000:
                self._shared.clear()
            shared = self._shared[key] = tuple(one[:length])
        return len(shared) if tuple(ids[: len(shared)]) == shared else 0

    def target(self, request: Request) -> list[int]:
        """Return the tokens whose probability is asked for; T5's may begin with the padding token."""
        query = self._shield(self.cut(request.query.text, request.terms.query_tokens))
        ids = self._ids((request.prompt.target or "").format(query=query), special=False)
        if request.terms.target_start == "pad" and self.architecture == "encoder_decoder":
            return [self.tokenizer.pad_token_id, *ids]
        return ids

    def decoder_prefix(self, request: Request) -> list[int]:
        """What an encoder-decoder model's answer is made to begin with, after its start token."""
        return self._ids(request.prompt.answer.prefix.encoder_decoder, special=False)

    def answer_tokens(self, request: Request) -> int:
        """The most tokens that the answer may have."""
        most = request.terms.decoding.max_new_tokens
        return len(self._ids(request.ideal, special=False)) + 1 if most is None else most

    def label_ids(self, request: Request, prompt: str) -> tuple[tuple[int, ...], ...]:
        """The tokens of each label that are scored, as they are written where the answer begins: the first, or all.

        Raises `InputError` where two labels have the same tokens, or one is unknown to the tokenizer.
        """
        if self.architecture == "encoder_decoder":
            prompt = request.prompt.answer.prefix.encoder_decoder
        return self._label_ids(prompt[-TAIL:], request.labels, request.prompt.answer.scored == "whole")

    def _find_label_ids(self, before: str, labels: tuple[str, ...], whole: bool) -> tuple[tuple[int, ...], ...]:
        gap = "" if not before or before[-1].isspace() or before[-1] in "[(" or self._ends_with_control(before) else " "
        stem = self._ids(before, special=False)
        found = []
        for label in labels:
            written = self._ids(before + gap + label, special=False)
            shared = next((i for i, (a, b) in enumerate(zip(stem, written, strict=False)) if a != b), len(stem))
            if shared < len(stem) and before[-1:] in tuple(
                "[("
            ):  # they would be one token, but the prompt stays cut here
                written, shared = self._ids(label, special=False), 0
            found.append(tuple(written[shared:] if whole else written[shared : shared + 1]))
        if len(set(found)) < len(found) or any(self.tokenizer.unk_token_id in label for label in found):
            do = "have" if whole else "begin with"
            raise InputError(
                f"labels {', '.join(labels)} do not each {do} a token of their own in this model's vocabulary; "
                "use scoring: generation or a prompt with other labels"
            )
        return tuple(found)

    def _ends_with_control(self, text: str) -> bool:
        return any(match.end() == len(text) for match in self._control.finditer(text))

    def _shield(self, text: str) -> str:
        text = text.replace(SEAM, "")
        return self._control.sub(lambda token: f"{token[0][0]}{SEAM}{token[0][1:]}", text)

    def _ids(self, text: str, special: bool) -> list[int]:
        if SEAM not in text:
            return list(self.tokenizer(text, add_special_tokens=special)["input_ids"]) if text else []
        parts = [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(SEAM)]
        before, after = self._special_around() if special else ([], [])
        return [*before, *(token for part in parts for token in part), *after]

    def _special_around(self) -> tuple[list[int], list[int]]:
        """The special tokens that the tokenizer puts before and after a text."""
        bare = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        full = list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]


def padded(rows: Sequence[list[int]], pad: int, *, left: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of ids filled up to the longest with `pad`, and the attention mask that leaves the filling out."""
    width = max(len(row) for row in rows)
    fill = [(row, [pad] * (width - len(row))) for row in rows]
    if left:
        return [f + r for r, f in fill], [[0] * len(f) + [1] * len(r) for r, f in fill]
    return [r + f for r, f in fill], [[1] * len(r) + [0] * len(f) for r, f in fill]
