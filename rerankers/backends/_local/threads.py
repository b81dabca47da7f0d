"""The threads of prompts that are computed at the same time: each its share, or all for one that is alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LONG = 64
"""A pass over so many tokens has the same bits with 1 to 16 threads: products of 28 rows and more, attention of 4."""


class Threads:
    """A number of threads among workers, each of which computes a prompt at a time."""

    def __init__(self, number: int, workers: int) -> None:
        self.number, self.share = number, max(1, number // workers)
        self._computing, self._lock = 0, threading.Lock()

    def take_share(self) -> None:
        """Give the calling thread a worker's share."""
        import torch

        torch.set_num_threads(self.share)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count a prompt for as long as it is computed."""
        with self._lock:
            self._computing += 1
        try:
            yield
        finally:
            with self._lock:
                self._computing -= 1

    def watch(self, model: Any) -> None:
        """Give a lone prompt all threads in long passes through a model's encoder, or a decoder-only model's body."""
        import torch

        def begin(_: Any, arguments: Any, named: Any) -> None:
            ids = next(value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor))
            if self._computing == 1 and ids.shape[:2].numel() >= max(LONG, 4 * self.number):
                torch.set_num_threads(self.number)

        if self.share < self.number:
            read = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
            read.register_forward_pre_hook(begin, with_kwargs=True)
            read.register_forward_hook(lambda *_: self.take_share(), always_call=True)
