"""Scores from a model's logits: of labels and continuations over the whole vocabulary, and of cross-encoders."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...answers.reading import Reply
from ...errors import BackendError, InputError
from .._tokens.tokens import Batch, Prepared, Tokens, padded
from ..base import Answered, Request
from .fusion import view_products
from .passes import Passes

if TYPE_CHECKING:
    import torch


def first_token_scores(passes: Passes, batch: Batch) -> Answered:
    """Return the log-probability, or logit, of each label's first token, where the answer would begin."""
    import torch

    # In double precision the difference of two labels keeps every bit of the logits.
    rows = passes.last_logits(batch).double()
    if batch[0].request.prompt.answer.scored != "logit":
        rows = torch.log_softmax(rows, dim=-1)
    labels = [passes.tokens.label_ids(prompt.request, prompt.text) for prompt in batch]
    return [
        scored(prompt, row[[first for (first,) in ids]].tolist(), passes.model.dtype)
        for row, prompt, ids in zip(rows.cpu(), batch, labels, strict=True)
    ]


def whole_label_scores(passes: Passes, batch: Batch) -> Answered:
    """Return the log-probability of each label, summed over its tokens."""
    replies = []
    for prompt in batch:
        labels = passes.tokens.label_ids(prompt.request, prompt.text)
        logits = passes.label_logits([prompt], labels)
        replies.append(scored(prompt, list(map(_total, logits, labels)), passes.model.dtype))
    return replies


def target_scores(passes: Passes, batch: Batch) -> Answered:
    """Return the log-probability of each prompt's target, summed over its tokens."""
    targets = [passes.tokens.target(prompt.request) for prompt in batch]
    return [
        scored(prompt, [_total(rows, target)], passes.model.dtype, len(target))
        for prompt, rows, target in zip(batch, passes.target_logits(batch, targets), targets, strict=True)
    ]


def view_scores(passes: Passes, batch: Batch) -> Answered:
    """Return the scores of each prompt's passages by the states of their views."""
    return [scored(prompt, view_products(passes, prompt), passes.model.dtype) for prompt in batch]


def _total(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    import torch

    wanted = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    return float(torch.log_softmax(logits.double(), dim=-1).gather(1, wanted).sum())


def scored(prompt: Prepared, scores: Sequence[float], dtype: object, more_tokens: int = 0) -> tuple[Request, Reply]:
    """Return a request and its reply, with `more_tokens` read. Raises `BackendError` if a score is not a number."""
    if not math.isfinite(sum(scores)):
        problem = f"query {prompt.request.query.id}: the model's scores are not numbers in {dtype}"
        raise BackendError(f"{problem}; use dtype: bfloat16 or float32")
    read = len(prompt.ids) + more_tokens
    return prompt.request, Reply(scores=tuple(scores), prompt_tokens=read, completion_tokens=0)


class CrossEncoder:
    """A model with a classification head of one label (its logit) or two (the second's log-probability or logit)."""

    def __init__(self, model: Any, tokens: Tokens) -> None:
        self.model, self.tokens = model, tokens
        self._accepted = inspect.signature(model.forward).parameters
        if (number := model.config.num_labels) > 2:
            problem = f"its classification head has {number} labels, and relevance is the logit of one or the second"
            raise InputError(f"model.name: {problem} of two; name a cross-encoder")

    def scores(self, batch: Batch) -> Answered:
        """Return the relevance of each passage to its query."""
        import torch

        rows = [prompt.ids for prompt in batch]
        ids, mask = padded(rows, self._padding(rows), left=False)
        inputs = {"input_ids": ids, "attention_mask": mask}
        types = [kinds for row in rows if (kinds := self.tokens.pairs.token_types(row)) is not None]
        if types and "token_type_ids" in self._accepted:
            inputs["token_type_ids"], _ = padded(types, 0, left=False)
        tensors = {name: torch.tensor(value, device=self.model.device) for name, value in inputs.items()}
        logits = self.model(**tensors).logits.double()
        if logits.shape[1] == 2 and batch[0].request.prompt.answer.scored != "logit":
            logits = torch.log_softmax(logits, dim=-1)
        relevance = logits[:, -1]
        answers = zip(batch, relevance.tolist(), strict=True)
        return [scored(prompt, [score], self.model.dtype) for prompt, score in answers]

    def _padding(self, rows: list[list[int]]) -> int:
        """Return a padding token that no row has: a decoder's head reads the last token that is another."""
        used = {token for row in rows for token in row}
        usual = self.tokens.tokenizer.pad_token_id
        padding: int = usual if isinstance(usual, int) and usual not in used else min({*range(len(used) + 1)} - used)
        self.model.config.get_text_config().pad_token_id = padding
        return padding
