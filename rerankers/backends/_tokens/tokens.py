"""A model's tokenizer at work: truncating texts, framing prompts, finding the ids of labels, planning batches.

Passages are data: a control token in a text, say `</s>`, is tokenised in two parts that meet inside it, so that the
model reads the same characters (T5 a blank more) and the token itself never arises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from inspect import signature
from itertools import chain, takewhile
from typing import Any, TypeVar

from ...answers.thinking import opened_thought
from ...errors import InputError
from ...prompts.template import SEAM, Architecture, Message
from ..base import Request, RequestSettings
from .chat_templates import ChatTemplate, TemplateOptions, chat_template
from .pairs import PairForm, Pairs

T = TypeVar("T")

TAIL = 32  # the last characters of a prompt that decide how the first token of the answer is written
LEAST = 32  # the tokens of the shortest prefix that is worth a pass of its own
PART = 3  # a first passage is a prefix if it is at least one part in so many of the prompt


class Tokens:
    """Turns requests into token ids."""

    def __init__(
        self,
        tokenizer: Any,
        architecture: Architecture,
        options: TemplateOptions | None = None,
        pair_form: Callable[[], PairForm | None] = lambda: None,
    ) -> None:
        self.tokenizer = tokenizer
        self.architecture = architecture
        self._options = options or TemplateOptions()
        self._find_pair_form = pair_form
        # An encoder-decoder has no use for a chat template; `none` asks for a prompt's text form.
        self._as_text = architecture == "decoder_only" and self._options.chat_template == "none"
        control = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
        self._control = re.compile("|".join(re.escape(token) for token in control if len(token) > 1) or r"(?!)")
        self._shared: dict[tuple[object, ...], tuple[int, ...]] = {}
        self.cut = lru_cache(maxsize=200_000)(self._cut)
        self._label_ids = lru_cache(maxsize=1_000)(self._find_label_ids)

    @cached_property
    def pairs(self) -> Pairs:
        """Return the same for a cross-encoder."""
        return Pairs(self.tokenizer, self._shield, lambda text: self._ids(text, special=False))

    @cached_property
    def pad(self) -> int:
        """Return the padding token; the attention mask hides it, so any will do."""
        return next(i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if isinstance(i, int))

    @cached_property
    def template(self) -> ChatTemplate | None:
        """Return the chat template, or None if prompts are plain text. Raises `InputError` if it cannot be read."""
        return chat_template(self.tokenizer, self._options) if self.architecture == "decoder_only" else None

    @property
    def identity(self) -> dict[str, object]:
        """Return what decides the prompts besides the model's files; empty without a chat template."""
        if self.template is not None:
            return {"chat_template": self.template.digest}
        return {"chat_template": "none"} if self._as_text else {}

    @property
    def details(self) -> dict[str, object]:
        """Return how prompts are rendered, for the manifest, if not as the prompt says."""
        folds = self.template is not None and self.template.folds_system_turns
        return {"system_turns": "put before the first user turn"} if folds else {}

    def _cut(self, text: str, length: int | None) -> str:
        """Return the text's first tokens as text; short texts too, since T5's tokenizer changes white space."""
        if length is None:
            return text
        cut = str(self.tokenizer.convert_tokens_to_string(self.tokenizer.tokenize(text)[:length]))
        # T5's lone "▁" would end in a blank, which SentencePiece's own decoding leaves out.
        return cut.strip() if self.architecture == "encoder_decoder" else cut

    def prompt(self, request: Request) -> tuple[str, list[int]]:
        """Return the prompt as text and as ids: the encoder's input, or all that stands before the answer.

        Raises `InputError` where the limit leaves no room for a passage.
        """
        if request.prompt.answer.marked:
            texts, blocks = zip(*self.blocks(request), strict=True)
            return "\n\n".join(texts), list(chain(*blocks))
        if request.prompt.answer.scored == "cosine" or request.prompt.fused:
            text, parts, around = self.apart(request)
            return text, list(chain(*parts, around))
        terms, limits = request.terms, [request.terms.prompt_tokens]
        if request.ask.kind == "relevance":
            limits += [self.tokenizer.model_max_length, self._pair_form.longest]
        most = min((limit for limit in limits if limit is not None), default=None)
        text, ids = self._whole_prompt(request)
        if most is None or len(ids) <= most:
            return text, ids
        length = max(len(self.tokenizer.tokenize(passage)) for passage in request.passages)
        length = min(length, terms.passage_tokens or length)
        while (excess := len(ids) - most) > 0:
            length -= max(1, excess // len(request.ask.docs))
            if length < 1:
                raise InputError(
                    f"query {request.query.id}: the limit of {most} tokens a prompt leaves no room for a passage; "
                    "lower ranker.query_tokens"
                )
            # A text cut at the end of a token has the tokens before it, so nothing but the passages changes.
            text, ids = self._whole_prompt(replace(request, terms=replace(terms, passage_tokens=length)))
        return text, ids

    def apart(self, request: Request) -> tuple[str, list[list[int]], list[int]]:
        """Return an ask's texts, the ids of each that is read by itself, and those of the turns without `each`."""
        text, parts = self.pairs.apart(request)
        if len({message.each for message in request.prompt.messages}) == 1:
            return text, parts, []
        around, ids = self._language_prompt(request, None)
        return "\n\n".join([text, around]), parts, ids

    def blocks(self, request: Request) -> Iterator[tuple[str, list[int]]]:
        """Yield the prompts, as text and ids, of as many passages each as the prompt's `marked` allows.

        The rule is that of jinaai/jina-reranker-v3, modeling.py.
        """
        marked, docs, rest = request.prompt.answer.marked, list[str](), 0
        assert marked is not None
        longest = request.terms.passage_tokens or 0
        query = len(self.tokenizer.tokenize(self.cut(request.query.text, request.terms.query_tokens)))
        for doc, text in zip(request.ask.docs, request.passages, strict=True):
            rest = rest if docs else (marked.context or 10**9) - 2 * query
            docs.append(doc)
            rest -= len(self.tokenizer.tokenize(self.cut(text, request.terms.passage_tokens)))
            if len(docs) == marked.block or rest <= longest or doc == request.ask.docs[-1]:
                yield self._whole_prompt(replace(request, ask=replace(request.ask, docs=tuple(docs))))
                docs = []

    def fitted(self, request: Request, shown: Callable[[int | None], T], size: Callable[[T], int]) -> T:
        """Return what shows a request with so many words a passage, fewer until prompt and answer fit the context.

        `size` counts its tokens. The steps are those of castorini/rank_llm at 1b3cabb.
        """
        context, words = request.terms.decoding.context_tokens, request.prompt.words
        prompt = shown(words)
        answer = len(self._ids(request.ideal, special=False)) if context else 0
        while context and words and words > 1 and (excess := size(prompt) + answer - context) > 0:
            words = max(1, words - max(1, excess // (4 * len(request.passages))))
            prompt = shown(words)
        return prompt

    def closed(self, prompt: Prepared, thought: str) -> Prepared:
        """Return a prompt that goes on with a thought, cut to its last sentence, and ends with the prompt's closing."""
        thought = self._shield(thought.removeprefix(prompt.thought).rstrip())
        end = max(map(thought.rfind, ".!?")) + 1
        closing = prompt.request.prompt.answer.closing.format(thought=thought[: end or None].strip())
        text = prompt.text + closing
        return Prepared(prompt.request, text, self._ids(text, special=self.template is None))

    def _whole_prompt(self, request: Request) -> tuple[str, list[int]]:
        if request.ask.kind == "relevance":
            return self.pairs.prompt(request) if self._pair_template is None else self._pair_of_turns(request)
        return self.fitted(request, partial(self._language_prompt, request), lambda prompt: len(prompt[1]))

    @cached_property
    def _pair_form(self) -> PairForm:
        return self._find_pair_form() or PairForm()

    @cached_property
    def _pair_template(self) -> ChatTemplate | None:
        if self._pair_form.instruction is None:
            return None
        variables = {**self._pair_form.variables, **self._options.chat_template_kwargs}
        return chat_template(self.tokenizer, self._options.model_copy(update={"chat_template_kwargs": variables}))

    def _pair_of_turns(self, request: Request) -> tuple[str, list[int]]:
        messages = request.rendered(lambda text, length: self._shield(self.cut(text, length)), seam=SEAM)
        texts = [message.content for message in messages]
        if not 2 <= len(texts) <= 3:
            problem = f"prompt '{request.prompt.name}' has {len(texts)} messages"
            raise InputError(f"{problem}, and this model reads a query and a document, with or without an instruction")
        texts = [self._pair_form.instruction, *texts] if self._pair_form.instruction and len(texts) == 2 else texts
        roles = ("system", "query", "document")[-len(texts) :]
        turns = [Message(role=role, content=text) for role, text in zip(roles, texts, strict=True)]
        text = self._pair_template.render(turns) if self._pair_template else ""
        return text, self._ids(text, special=False)

    def _language_prompt(self, request: Request, words: int | None) -> tuple[str, list[int]]:
        terms = request.terms
        form: Architecture = "encoder_decoder" if self._as_text else self.architecture
        messages = request.rendered(lambda text, length: self._shield(self.cut(text, length)), form, SEAM, words)
        if terms.prompt.fused or terms.prompt.answer.scored == "cosine":  # which are read apart
            messages = tuple(message for message in messages if not message.each)
        prefix = terms.prompt.answer.prefix.decoder_only
        if self.template is None:
            text, special = "\n\n".join(message.content for message in messages), not terms.prompt.fused
        else:  # which writes the special tokens
            text, special = self.template.render(messages), terms.special_tokens_twice and bool(prefix)
        text += prefix if self.architecture == "decoder_only" else ""
        ids, limit = self._ids(text, special), terms.decoding.prompt_tokens
        if limit is not None and len(ids) > limit:
            ids = [*ids[: limit - 1], ids[-1]]  # the end token stays
        return text, ids

    def shared_prefixes(self, request: Request, ids: Sequence[int]) -> list[int]:
        """Return the ascending lengths, in tokens, of the prefixes that other asks with these settings and query share.

        The first ends before the passages, the second behind the first one, if that is long enough to pay. Depends on
        the prompt alone.
        """
        docs = request.ask.docs
        if not docs or request.ask.signals or request.ask.labels:
            return []
        before, through = (self._shared_length(request, ids, count) for count in (0, 1))
        start = before if before >= LEAST else 0
        lengths = [start, through if through - start >= max(LEAST, len(ids) / PART) else 0]
        return [length for length in lengths if 0 < length < len(ids)]

    def _shared_length(self, request: Request, ids: Sequence[int], count: int) -> int:
        """Return the tokens that the prompt has in common with all that share its first `count` documents."""
        docs, texts = request.ask.docs, request.texts
        if count >= len(docs):
            return 0
        same = {doc: texts[doc] for doc in docs[:count]}
        key = (request.terms, request.query, tuple(same.values()), len(docs), request.ask.notes)
        if key not in self._shared:
            # What follows cannot change the tokens before it, whatever it begins with.
            others = (replace(request, texts=dict.fromkeys(docs[count:], text) | same) for text in ("", "a"))
            pairs = zip(*(self.prompt(other)[1] for other in others), strict=False)
            if len(self._shared) > 10_000:
                self._shared.clear()
            self._shared[key] = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        shared = self._shared[key]
        return len(shared) if tuple(ids[: len(shared)]) == shared else 0

    def target(self, request: Request) -> list[int]:
        """Return the tokens whose probability is asked for; llm-rankers counts T5's padding token before them."""
        query = self._shield(self.cut(request.query.text, request.terms.query_tokens))
        ids = self._ids((request.prompt.target or "").format(query=query), special=False)
        counted = request.terms.count_pad and self.architecture == "encoder_decoder"
        return [self.tokenizer.pad_token_id, *ids] if counted else ids

    def decoder_prefix(self, request: Request) -> list[int]:
        """Return the tokens behind the start token that an encoder-decoder's answer is made to begin with."""
        return self._ids(request.prompt.answer.prefix.encoder_decoder, special=False)

    def answer_tokens(self, request: Request) -> int:
        """Return the token budget of the answer."""
        most = request.terms.decoding.max_new_tokens
        return len(self._ids(request.ideal, special=False)) + 1 if most is None else most

    def label_ids(self, request: Request, prompt: str) -> tuple[tuple[int, ...], ...]:
        """Return each label's scored tokens, the first or all. Raises `InputError` for equal or unknown ones."""
        if self.architecture == "encoder_decoder":
            prompt = request.prompt.answer.prefix.encoder_decoder
        whole, named = request.prompt.answer.scored == "whole", tuple(request.prompt.tokens.items())
        return self._label_ids(prompt[-TAIL:], request.labels, whole, named)

    def _find_label_ids(
        self, before: str, labels: tuple[str, ...], whole: bool, named: tuple[tuple[str, int | str], ...]
    ) -> tuple[tuple[int, ...], ...]:
        opened = before[-1:] in ("[", "(")
        ended = any(match.end() == len(before) for match in self._control.finditer(before))
        gap = "" if not before or before[-1].isspace() or opened or ended else " "
        stem = self._ids(before, special=False)
        labels_ids: list[tuple[int, ...]] = []
        tokens = dict(named)
        for label in labels:
            if label in tokens:
                labels_ids.append((self._token_id(tokens[label]),))
                continue
            ids = self._ids(before + gap + label, special=False)
            shared = next((i for i, (a, b) in enumerate(zip(stem, ids, strict=False)) if a != b), len(stem))
            if shared < len(stem) and opened:  # bracket and label would be one token, but the prompt ends between them
                ids, shared = self._ids(label, special=False), 0
            labels_ids.append(tuple(ids[shared:] if whole else ids[shared : shared + 1]))
        unknown = self.tokenizer.unk_token_id
        unread = any(unknown in ids for label, ids in zip(labels, labels_ids, strict=True) if label not in tokens)
        if unread or len(set(labels_ids)) < len(labels):
            raise InputError(
                f"labels {', '.join(labels)} do not each {'have' if whole else 'begin with'} a token of their own in "
                "this model's vocabulary; use scoring: generation or a prompt with other labels"
            )
        return tuple(labels_ids)

    def _token_id(self, token: int | str) -> int:
        """Return the id of a token of the vocabulary. Raises `InputError` if there is none."""
        number = token if isinstance(token, int) else self.tokenizer.get_vocab().get(token, -1)
        if not 0 <= number < len(self.tokenizer):
            raise InputError(
                f"the prompt's tokens: {token!r} is not in this model's vocabulary of {len(self.tokenizer)}"
            )
        return number

    def _shield(self, text: str) -> str:
        return self._control.sub(lambda token: f"{token[0][0]}{SEAM}{token[0][1:]}", text.replace(SEAM, ""))

    def _ids(self, text: str, special: bool) -> list[int]:
        if SEAM not in text:
            return list(self.tokenizer(text, add_special_tokens=special)["input_ids"]) if text else []
        parts = [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(SEAM)]
        before, after = self.pairs.special("a") if special else ([], [])
        return [*before, *chain.from_iterable(parts), *after]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request with its prompt, as text and as the model's tokens."""

    request: Request
    text: str
    ids: list[int]

    @property
    def thought(self) -> str:
        """Return the mark of a thought that the chat template has begun for the answer, or ""."""
        return opened_thought(self.text)


Batch = list[Prepared]


def planned(prompts: Sequence[Prepared], most: int, tokens: int) -> Iterator[Batch]:
    """Yield batches with equal settings of at most `most` prompts and `tokens` tokens, unless one alone has more.

    The longest come first, so that a batch too large for the memory is met at once.
    """
    by_settings: dict[RequestSettings, Batch] = {}
    for prompt in prompts:
        by_settings.setdefault(prompt.request.terms, []).append(prompt)
    for alike in by_settings.values():
        alike.sort(key=lambda prompt: -len(prompt.ids))
        while alike:
            size = max(1, min(most, tokens // max(1, len(alike[0].ids))))
            yield alike[:size]
            del alike[:size]


def padded(rows: Sequence[list[int]], pad: int, *, left: bool) -> tuple[list[list[int]], list[list[int]]]:
    """Return rows of ids padded to the longest, and their attention mask."""
    width = max(map(len, rows))
    fill = [(row, [pad] * (width - len(row))) for row in rows]
    if left:
        return [f + r for r, f in fill], [[0] * len(f) + [1] * len(r) for r, f in fill]
    return [r + f for r, f in fill], [[1] * len(r) + [0] * len(f) for r, f in fill]


def padded_inputs(model: Any, rows: Sequence[list[int]], pad: int, pairs: Pairs | None = None) -> dict[str, Any]:
    """Return rows of ids as a model's input, padded on the right; of pairs, with the text that each token is of."""
    import torch

    arrays = dict(zip(("input_ids", "attention_mask"), padded(rows, pad, left=False), strict=True))
    types = [pairs.token_types(row) for row in rows] if pairs and pairs.numbers_texts else []
    if types and "token_type_ids" in signature(model.forward).parameters:
        arrays["token_type_ids"], _ = padded(types, 0, left=False)
    return {name: torch.tensor(array, device=model.device) for name, array in arrays.items()}
