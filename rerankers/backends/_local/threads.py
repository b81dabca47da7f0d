"""The threads of prompts that are computed at the same time: each its share, or all for one that is alone.

OpenMP keeps threads for every thread that has ever computed with several. Once they are more than the processors, they
sleep at each barrier, and a pass takes a fifth longer. So one worker of the process has all of them, and a model is
loaded by a single one.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

from ..base import Answered

LONG = 64
"""A pass over so many tokens has the same bits with 1 to 16 threads: products of 28 rows and more, attention of 4."""


@cache
def lone_worker() -> ThreadPoolExecutor:
    """Return the process's worker for prompts that are alone, of whatever model."""
    return ThreadPoolExecutor(1, "lone prompt")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute by this thread alone."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Workers:
    """Workers that compute a prompt each, by their shares of a number of threads; one that is alone has them all."""

    def __init__(self, threads: int, number: int) -> None:
        self.threads, self.share = threads, max(1, threads // number)
        self._lone: int | None = None
        """The thread of the lone worker, once it has computed."""
        self._together = ThreadPoolExecutor(number, "model", self._take_share)

    def submit(self, compute: Callable[..., Answered], *arguments: Any, lone: bool) -> Future[Answered]:
        """Compute a batch beside others or, while nothing else is computed, by the lone worker."""
        if lone and self.share < self.threads:
            return lone_worker().submit(self._compute_alone, compute, *arguments)
        return self._together.submit(compute, *arguments)

    def _compute_alone(self, compute: Callable[..., Answered], *arguments: Any) -> Answered:
        self._lone = threading.get_ident()
        self._take_share()
        return compute(*arguments)

    def watch(self, model: Any) -> None:
        """Give a lone prompt all threads in long passes through a model's encoder, or a decoder-only model's body."""
        import torch

        def begin(_: Any, arguments: Any, named: Any) -> None:
            ids = next(value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor))
            if threading.get_ident() == self._lone and ids.shape[:2].numel() >= max(LONG, 4 * self.threads):
                torch.set_num_threads(self.threads)

        if self.share < self.threads:
            read = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
            read.register_forward_pre_hook(begin, with_kwargs=True)
            read.register_forward_hook(lambda *_: self._take_share(), always_call=True)

    def close(self) -> None:
        """Wait for what is being computed."""
        self._together.shutdown(cancel_futures=True)
        if self._lone is not None:
            lone_worker().submit(int).result()  # behind what the lone worker still computes

    def _take_share(self) -> None:
        import torch

        torch.set_num_threads(self.share)
