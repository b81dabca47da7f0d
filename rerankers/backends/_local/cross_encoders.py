"""Cross-encoders: the number that a model's classification head gives to query and passage.

One label: its logit, as in most cross-encoders and RankLLaMA. Two: the log-probability of the second, as in monoBERT.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

from ...answers.reading import Reply
from ...errors import BackendError, InputError
from .._tokens.batches import Batch
from .._tokens.tokens import Tokens, padded
from ..base import Answered

if TYPE_CHECKING:
    import torch


class CrossEncoder:
    """A model with a classification head, and its tokenizer.

    Raises `InputError` where the head has other than one or two labels.
    """

    def __init__(self, model: Any, tokens: Tokens) -> None:
        self.model = model
        self.tokens = tokens
        self._accepted = set(inspect.signature(model.forward).parameters)
        if model.config.num_labels > 2:
            raise InputError(
                f"model.name: its classification head has {model.config.num_labels} labels, and relevance is the logit "
                "of one or the second of two; name a cross-encoder"
            )

    def scores(self, batch: Batch) -> Answered:
        """The relevance of each passage to its query."""
        import torch

        logits = self.model(**self._inputs(batch)).logits.double()
        found = (logits[:, 0] if logits.shape[1] == 1 else torch.log_softmax(logits, dim=-1)[:, 1]).tolist()
        for prompt, score in zip(batch, found, strict=True):
            if not math.isfinite(score):
                raise BackendError(
                    f"query {prompt.request.query.id}: the model's scores are not numbers in {self.model.dtype}; "
                    "use dtype: bfloat16 or float32"
                )
        return [
            (prompt.request, Reply(scores=(score,), prompt_tokens=len(prompt.ids), completion_tokens=0))
            for prompt, score in zip(batch, found, strict=True)
        ]

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        import torch

        rows = [prompt.ids for prompt in batch]
        ids, mask = padded(rows, self._filling(rows), left=False)
        found = {"input_ids": ids, "attention_mask": mask}
        types = [self.tokens.pairs.token_types(row) for row in rows]
        if "token_type_ids" in self._accepted and None not in types:
            found["token_type_ids"], _ = padded([row for row in types if row is not None], 0, left=False)
        return {name: torch.tensor(value, device=self.model.device) for name, value in found.items()}

    def _filling(self, rows: list[list[int]]) -> int:
        """What to fill rows up with: a decoder's head reads the last token that is another, so no row may have it."""
        used = {token for row in rows for token in row}
        known = self.tokens.tokenizer.pad_token_id
        filling: int = known if isinstance(known, int) and known not in used else min(set(range(len(used) + 1)) - used)
        self.model.config.get_text_config().pad_token_id = filling
        return filling
