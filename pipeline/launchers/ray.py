"""Tasks of Ray: on the cluster of --ray-address or RAY_ADDRESS, on one that runs here, or on one made for the purpose.

A task whose worker or node dies is run again elsewhere, three times unless `max_retries` says otherwise. The working
folder has to be on a disk that all nodes share, and r2llm installed in their Python.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from ...rerankers.errors import InputError
from . import Launch, Task, perform

CONNECT_SECONDS = 10.0


@contextmanager
def launch(tasks: Sequence[Task], launch: Launch) -> Iterator[list[Future[tuple[int, str]]]]:
    """Run tasks with `resources` as options of `ray.remote`: a GPU each, unless said, where the cluster has any."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home
    try:
        import ray
    except ImportError as error:
        raise InputError("--launcher ray: Ray is not installed here: pip install 'r2llm[ray]'") from error
    if launch.jobs is not None and launch.jobs < len(tasks):
        raise InputError("--jobs: Ray runs as many at once as fit: say what each takes, --resources num_cpus=4")
    address = launch.ray_address or os.environ.get("RAY_ADDRESS") or None
    try:
        if address and ":" in address:  # Ray itself would look for it for many minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (OSError, ValueError, RuntimeError) as error:
        where = f"no cluster at {address}" if address else "no cluster could be started here"
        raise InputError(f"--launcher ray: {where}: {' '.join(str(error).split())}") from error
    try:
        options: dict[str, Any] = {"num_gpus": int(bool(ray.cluster_resources().get("GPU"))), **launch.resources}
        try:
            remote = ray.remote(retry_exceptions=[ChildProcessError], **options)(perform)
        except (TypeError, ValueError) as error:
            raise InputError(f"--resources: {error}") from error
        yield [remote.remote(task).future() for task in tasks]
    finally:
        ray.shutdown()
