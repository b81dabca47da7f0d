"""Log-probabilities over the whole vocabulary, of labels and of continuations, from a model's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...answers.reading import Reply
from ...errors import BackendError
from .._tokens.batches import Batch, Prepared
from ..base import Answered, Request
from .passes import Passes

if TYPE_CHECKING:
    import torch


def first_token_scores(passes: Passes, batch: Batch) -> Answered:
    """The labels' log-probabilities, each that of its first token, where the answer would begin."""
    import torch

    # In double precision: the difference of two labels then keeps every bit of the model's logits.
    scores = torch.log_softmax(passes.last_logits(batch).double(), dim=-1).cpu()
    return [
        _scored(
            passes, prompt, row[[first for (first,) in passes.tokens.label_ids(prompt.request, prompt.text)]].tolist()
        )
        for row, prompt in zip(scores, batch, strict=True)
    ]


def whole_label_scores(passes: Passes, batch: Batch) -> Answered:
    """The labels' log-probabilities, each summed over all its tokens."""
    replies = []
    for prompt in batch:
        labels = passes.tokens.label_ids(prompt.request, prompt.text)
        logits = passes.label_logits([prompt], labels)
        replies.append(_scored(passes, prompt, [_total(*pair) for pair in zip(logits, labels, strict=True)]))
    return replies


def target_scores(passes: Passes, batch: Batch) -> Answered:
    """The log-probability of what each prompt is to be continued with, summed over its tokens."""
    targets = [passes.tokens.target(prompt.request) for prompt in batch]
    logits = passes.target_logits(batch, targets)
    return [
        _scored(passes, prompt, [_total(rows, target)], read=len(target))
        for prompt, rows, target in zip(batch, logits, targets, strict=True)
    ]


def _total(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    import torch

    wanted = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    return float(torch.log_softmax(logits.double(), dim=-1).gather(1, wanted).sum())


def _scored(passes: Passes, prompt: Prepared, scores: Sequence[float], read: int = 0) -> tuple[Request, Reply]:
    """The reply of these scores; `read` tokens were read besides the prompt's."""
    if not math.isfinite(sum(scores)):
        raise BackendError(
            f"query {prompt.request.query.id}: the model's scores are not numbers in {passes.model.dtype}; "
            "use dtype: bfloat16 or float32"
        )
    return prompt.request, Reply(scores=tuple(scores), prompt_tokens=len(prompt.ids) + read, completion_tokens=0)
