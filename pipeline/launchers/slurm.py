"""A job array of Slurm, through submitit; a job that is preempted or runs out of time is queued again, and goes on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...rerankers.errors import InputError
from . import Future, Launch, Task, perform

DEFAULTS = {"timeout_min": 480, "cpus_per_task": 8, "gpus_per_node": 1, "mem_gb": 64}
"""Resources of a job, unless --resources says otherwise: as in scripts/slurm_array.sh."""


class Job:
    """A task that submitit may queue again."""

    def __call__(self, task: Task) -> tuple[int, str]:
        """Run it."""
        return perform(task)

    def checkpoint(self, task: Task) -> object:
        """Return the job to queue in its place: the same, whose ledger has the answers so far."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, task)


@contextmanager
def launch(tasks: Sequence[Task], launch: Launch) -> Iterator[Sequence[Future]]:
    """Queue tasks, with `resources` as submitit's parameters; `cluster: local` is submitit's own, without Slurm."""
    try:
        import submitit
    except ImportError as error:
        raise InputError("--launcher slurm: submitit is not installed here: pip install 'r2llm[slurm]'") from error
    limit = {} if launch.jobs is None else {"slurm_array_parallelism": launch.jobs}
    options: dict[str, Any] = {**DEFAULTS, "name": "r2llm", **limit, **launch.resources}
    try:
        cluster = str(options.pop("cluster", "slurm"))
        executor = submitit.AutoExecutor(tasks[0].log.parent / "slurm", cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            jobs = [executor.submit(Job(), task) for task in tasks]
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise InputError(f"--launcher slurm: {' '.join(str(error).split())}") from error
    try:
        yield jobs
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()
