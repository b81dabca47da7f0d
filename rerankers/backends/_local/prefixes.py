"""Shared prefixes of prompts in a decoder-only model: instruction and query, and a first passage that comes again.

The keys and values of a prefix are computed by themselves, whether they are in the cache or not, so that the cache
changes no bit of an answer.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

BYTES = 768 * 2**20
"""The size of the cache."""


class Prefixes:
    """A model with a cache of prefixes, the least recently used dropped first; several threads may use it."""

    def __init__(self, model: Any, room: int = BYTES) -> None:
        self.model = model
        self.room = room
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def last_logits(self, ids: Sequence[int], lengths: Sequence[int]) -> Any:
        """Return the logits after the last token (one row), with the prefixes of these ascending lengths cached."""
        cache = None
        for length in lengths:
            cache = self._prefix(tuple(ids[:length]), cache)
        return self._read(ids[lengths[-1] :], cache)[1]

    def _prefix(self, ids: tuple[int, ...], shorter: Any) -> Any:
        with self._lock:
            if ids in self._kept:
                self._kept.move_to_end(ids)
                return self._kept[ids][0]
        # Two threads may read the same prefix: waiting for each other would often cost more.
        cache, _ = self._read(ids[shorter.get_seq_length() if shorter else 0 :], shorter)
        size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        with self._lock:
            self._kept[ids] = cache, size
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self.room:
                self._kept.popitem(last=False)
        return cache

    def _read(self, ids: Sequence[int], prefix: Any) -> tuple[Any, Any]:
        """Read tokens behind a prefix; return the keys and values of all, and the logits after the last."""
        import torch
        from transformers import DynamicCache

        cache: Any = copy.deepcopy(prefix) if prefix else DynamicCache(config=self.model.config)
        inputs = torch.tensor([list(ids)], device=self.model.device)
        output = self.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1]
