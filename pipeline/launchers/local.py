"""Processes on this machine."""

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ...rerankers.errors import InputError
from . import Launch, Task, perform


@contextmanager
def launch(tasks: Sequence[Task], launch: Launch) -> Iterator[list[Future[tuple[int, str]]]]:
    """Run tasks, one at a time unless `jobs` says more."""
    if launch.resources or launch.ray_address:
        raise InputError("--launcher local takes --jobs, and neither --resources nor --ray-address")
    processes = list[subprocess.Popen[str]]()
    with ThreadPoolExecutor(launch.jobs or 1) as pool:
        try:
            yield [pool.submit(perform, task, processes.append) for task in tasks]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
