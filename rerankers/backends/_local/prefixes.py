"""What a decoder-only model keeps of the beginnings of prompts: instruction, query and first passage come again.

All asks about a query begin alike, and a pairwise sort asks about the same first document many times in a row. The keys
and values of such a beginning are computed once, by themselves, and each prompt goes on from there. They are computed
the same way whether they were kept or not, so what is kept changes no bit of an answer.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

BYTES = 768 * 2**20
"""How much is kept, the latest used first."""


class Prefixes:
    """A model with the beginnings of prompts that it read last; several threads may use it at the same time."""

    def __init__(self, model: Any, room: int = BYTES) -> None:
        self.model = model
        self.room = room
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def last_logits(self, ids: Sequence[int], lengths: Sequence[int]) -> Any:
        """The logits after the last token (one row); beginnings of these lengths, in ascending order, are kept."""
        kept = None
        for length in lengths:
            kept = self._beginning(tuple(ids[:length]), kept)
        _, logits = self._read(ids[lengths[-1] :], kept)
        return logits

    def _beginning(self, ids: tuple[int, ...], shorter: Any) -> Any:
        """The keys and values of a beginning, read on from a shorter one's where it is not kept."""
        with self._lock:
            if ids in self._kept:
                self._kept.move_to_end(ids)
                return self._kept[ids][0]
        # Two threads may read the same beginning; that is less than waiting for each other would often cost.
        cache, _ = self._read(ids[shorter.get_seq_length() if shorter else 0 :], shorter)
        size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        with self._lock:
            if ids not in self._kept:
                self._kept[ids] = cache, size
                self._bytes += size
            while self._bytes > self.room and len(self._kept) > 1:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed
        return cache

    def _read(self, ids: Sequence[int], kept: Any) -> tuple[Any, Any]:
        """Read tokens behind those of `kept`: the keys and values of all of them, and the logits after the last."""
        import torch
        from transformers import DynamicCache

        cache: Any = copy.deepcopy(kept) if kept else DynamicCache(config=self.model.config)
        shown = torch.tensor([list(ids)], device=self.model.device)
        found = self.model(input_ids=shown, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, found.logits[:, -1]
