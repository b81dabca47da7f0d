"""What a decoder-only model keeps of the beginnings of prompts: instruction, query and first passage come again.

A sort asks about the same first document many times in a row. Its keys and values are computed once, by themselves,
and each prompt goes on from there. They are computed the same way whether they were kept or not, so what is kept
changes no bit of an answer.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

LEAST = 32
"""Tokens: shorter beginnings are not worth a pass of their own."""

BYTES = 512 * 2**20
"""How much is kept, the latest used first."""


class Prefixes:
    """A model with the beginnings of prompts that it read last."""

    def __init__(self, model: Any, room: int = BYTES) -> None:
        self.model = model
        self.room = room
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def last_logits(self, ids: Sequence[int], length: int) -> Any:
        """The logits after the last token (one row), the first `length` tokens being a beginning to keep."""
        import torch

        cache = copy.deepcopy(self._prefix(tuple(ids[:length])))
        rest = torch.tensor([ids[length:]], device=self.model.device)
        return self.model(input_ids=rest, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

    def _prefix(self, ids: tuple[int, ...]) -> Any:
        import torch
        from transformers import DynamicCache

        if ids in self._kept:
            self._kept.move_to_end(ids)
            return self._kept[ids][0]
        cache: Any = DynamicCache(config=self.model.config)
        shown = torch.tensor([ids], device=self.model.device)
        self.model(input_ids=shown, past_key_values=cache, use_cache=True, logits_to_keep=1)
        size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        self._kept[ids] = cache, size
        self._bytes += size
        while self._bytes > self.room and len(self._kept) > 1:
            _, (_, freed) = self._kept.popitem(last=False)
            self._bytes -= freed
        return cache
