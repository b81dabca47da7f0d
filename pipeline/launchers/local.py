"""Processes on this machine."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from ...rerankers.errors import InputError
from . import Launch, Task, perform


@contextmanager
def launch(tasks: Sequence[Task], launch: Launch) -> Iterator[list[Future[tuple[int, str]]]]:
    """Run tasks, those of a group in succession, and one at a time unless `jobs` says more."""
    if launch.resources or launch.ray_address:
        raise InputError("--launcher local takes --jobs, and neither --resources nor --ray-address")
    processes, futures = list[subprocess.Popen[str]](), [Future[tuple[int, str]]() for _ in tasks]
    groups = dict[object, list[int]]()
    for number, task in enumerate(tasks):
        groups.setdefault(number if task.group is None else task.group, []).append(number)

    def run(numbers: Iterable[int]) -> None:
        for number in numbers:
            if futures[number].set_running_or_notify_cancel():
                try:
                    futures[number].set_result(perform(tasks[number], processes.append))
                except Exception as error:  # noqa: BLE001 - it is the result
                    futures[number].set_exception(error)

    with ThreadPoolExecutor(launch.jobs or 1) as pool:
        try:
            for numbers in groups.values():
                pool.submit(run, numbers)
            yield futures
        finally:
            for future in futures:
                future.cancel()
            for process in processes:
                process.kill()
