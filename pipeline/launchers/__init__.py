"""Commands of r2llm as processes, here or on a cluster: one launcher a file.

A launcher has a function `launch`: a context in which every task is run by `perform`, and which gives a future for
each. Queues, places and retries are its engine's. A task's process writes its answers, notes and errors to files, so
that whoever launched it only needs the disk.
"""

import importlib
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...rerankers.catalog import nearest
from ...rerankers.errors import InputError
from ...rerankers.guard import guard
from ..io.progress import Jobs

LOOK_SECONDS, LOOKS_A_SECOND = 0.5, 100
"""The least interval between two looks at a task's log, and the most looks a second: the disk may be a network's."""

ENGINE_FAILED = 3
"""The exit code of a task that its engine gave up."""


@dataclass(frozen=True)
class Task:
    """A command of r2llm: its name in tables, its words, the file of its stderr, and the folder it is run in.

    Here tasks of one group are run in succession: each finds the answers of those before it.
    """

    name: str
    words: Sequence[str]
    log: Path
    folder: Path = field(default_factory=Path.cwd)
    group: Hashable = None


@dataclass(frozen=True)
class Ended:
    """A task's exit code, what it wrote to stdout, and its error, or None."""

    code: int
    out: str = ""
    error: str | None = None


class Future(Protocol):
    """The exit code and stdout of a task, once it is done."""

    def done(self) -> bool:
        """Return whether the result is there."""

    def result(self) -> tuple[int, str]:
        """Return the result, or raise what the engine gave the task up for."""


@dataclass(frozen=True)
class Launch:
    """A launcher by its name, how many tasks it runs at once at most, and what it is told of the engine's options.

    Raises `InputError` if there is no such launcher.
    """

    name: str
    jobs: int | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in names():
            raise InputError(f"--launcher {self.name}: there is no such launcher{nearest(self.name, names())}")


def names() -> list[str]:
    """Return the launchers."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def rerank_words(config: str, settings: Sequence[str], queries: int | None, *more: str) -> list[str]:
    """Return the words of `r2llm rerank` for a config with its `--set` and `--queries`."""
    limit = [] if queries is None else ["--queries", str(queries)]
    return ["rerank", "--config", config, *(word for text in settings for word in ("--set", text)), *limit, *more]


def perform(task: Task, started: Callable[[subprocess.Popen[str]], object] = lambda _: None) -> tuple[int, str]:
    """Run a task as a process that does not outlive this one; return its exit code and stdout.

    Raises `ChildProcessError` if a signal killed it, as happens where memory runs out.
    """
    command = [sys.executable, "-m", "r2llm.cli.main", *task.words]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    with (task.folder / task.log).open("ab") as log:
        process = subprocess.Popen(command, cwd=task.folder, stderr=log, start_new_session=True, **streams)  # noqa: S603
    started(process)
    watcher = guard([process.pid])
    try:
        out, _ = process.communicate()
    finally:
        watcher.kill()
        watcher.communicate()
    if process.returncode < 0:
        raise ChildProcessError(f"its process was killed by signal {-process.returncode}, as one out of memory is")
    return process.returncode, out


def run(launch: Launch, tasks: Sequence[Task], jobs: Jobs) -> Iterator[tuple[int, Ended]]:
    """Run tasks; yield the number and the end of each as it ends, and pass on what they write meanwhile.

    Raises `InputError` if the launcher's engine is not installed or cannot be used.
    """
    module: Any = importlib.import_module(f".{launch.name}", __name__)
    for task in tasks:
        task.log.parent.mkdir(parents=True, exist_ok=True)
        task.log.write_bytes(b"")
    context: AbstractContextManager[Sequence[Future]] = module.launch(tasks, launch)
    told = [0] * len(tasks)
    with context as futures:
        running = dict(enumerate(futures))
        while running:
            time.sleep(max(LOOK_SECONDS, len(running) / LOOKS_A_SECOND))
            for number, future in list(running.items()):
                task, done = tasks[number], future.done()
                lines = task.log.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
                for line in lines[told[number] :]:
                    tell = jobs.note if line.startswith("note: ") else jobs.advance
                    tell(task.name, line.removeprefix("note: "))
                told[number] = len(lines)
                if done:
                    del running[number]
                    yield number, _ended(future, lines, task)


def _ended(future: Future, lines: Sequence[str], task: Task) -> Ended:
    try:
        code, out = future.result()
    except Exception as error:  # noqa: BLE001 - whatever the engine says
        last = (str(error).strip() or type(error).__name__).splitlines()[-1]  # after an engine's traceback
        return Ended(ENGINE_FAILED, error=f"{last}; {task.log} has what it wrote")
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return Ended(code, out, None if code == 0 else (errors or [f"it ended with exit code {code}: {task.log}"])[-1])
