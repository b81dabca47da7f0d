"""Scores from a model's logits: of labels and continuations over the whole vocabulary, and of cross-encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...answers.reading import Reply
from ...errors import BackendError
from .._tokens.tokens import Batch, Prepared, Tokens, padded, padded_inputs
from ..base import Request
from .passes import Passes

if TYPE_CHECKING:
    import torch

Scores = list[list[float]]  # for each prompt of a batch, those of its labels or passages


def first_token_scores(passes: Passes, batch: Batch) -> Scores:
    """Return the log-probability, or logit, of each label's first token, where the answer would begin."""
    import torch

    # In double precision the difference of two labels keeps every bit of the logits.
    rows = passes.last_logits(batch).double()
    if batch[0].request.prompt.answer.scored != "logit":
        rows = torch.log_softmax(rows, dim=-1)
    labels = [passes.tokens.label_ids(prompt.request, prompt.text) for prompt in batch]
    firsts, _ = padded([[first for (first,) in ids] for ids in labels], 0, left=False)
    # Gathered where they are, as a GPU takes long to hand over rows as wide as the vocabulary.
    scores = rows.gather(1, torch.tensor(firsts, device=rows.device)).tolist()
    return [row[: len(ids)] for row, ids in zip(scores, labels, strict=True)]


def whole_label_scores(passes: Passes, batch: Batch) -> Scores:
    """Return the log-probability of each label, summed over its tokens."""
    labels = [passes.tokens.label_ids(prompt.request, prompt.text) for prompt in batch]
    logits = [passes.label_logits([prompt], ids) for prompt, ids in zip(batch, labels, strict=True)]
    return [list(map(_total, rows, ids)) for rows, ids in zip(logits, labels, strict=True)]


def target_scores(passes: Passes, batch: Batch) -> Scores:
    """Return the log-probability of each prompt's target, summed over its tokens."""
    targets = [passes.tokens.target(prompt.request) for prompt in batch]
    return [[_total(rows, target)] for rows, target in zip(passes.target_logits(batch, targets), targets, strict=True)]


def _total(logits: torch.Tensor, tokens: Sequence[int]) -> float:
    import torch

    wanted = torch.tensor(tokens, device=logits.device).unsqueeze(1)
    return float(torch.log_softmax(logits.double(), dim=-1).gather(1, wanted).sum())


def token_scores(passes: Passes, tokens: tuple[int, int | None], batch: Batch) -> Scores:
    """Return the logit of a token at each prompt's last position, less that of another if there is one."""
    rows, (true, false) = passes.last_logits(batch).double(), tokens
    return (rows[:, [true]] if false is None else rows[:, [true]] - rows[:, [false]]).tolist()


def head_scores(model: Any, tokens: Tokens, batch: Batch) -> Scores:
    """Return what a classification head gives: its one label's logit, or the second's log-probability or logit."""
    import torch

    rows = [prompt.ids for prompt in batch]
    # A decoder's head reads the last token that is not padding, so that no row may have the padding token.
    used, pad = {token for row in rows for token in row}, tokens.tokenizer.pad_token_id
    pad = pad if isinstance(pad, int) and pad not in used else min({*range(len(used) + 1)} - used)
    model.config.get_text_config().pad_token_id = pad
    logits: torch.Tensor = model(**padded_inputs(model, rows, pad, pairs=tokens.pairs)).logits.double()
    if logits.shape[1] == 2 and batch[0].request.prompt.answer.scored != "logit":
        logits = torch.log_softmax(logits, dim=-1)
    return logits[:, -1:].tolist()


def scored(prompt: Prepared, scores: Sequence[float], dtype: object, more_tokens: int = 0) -> tuple[Request, Reply]:
    """Return a request and its reply, with `more_tokens` read. Raises `BackendError` if a score is not a number."""
    if not math.isfinite(sum(scores)):
        problem = f"query {prompt.request.query.id}: the model's scores are not numbers in {dtype}"
        raise BackendError(f"{problem}; use dtype: bfloat16 or float32")
    read = len(prompt.ids) + more_tokens
    return prompt.request, Reply(scores=tuple(scores), prompt_tokens=read, completion_tokens=0)
