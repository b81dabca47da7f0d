"""Sweeps: all cells of a grid, one after the other or several side by side.

The state of a sweep is the fingerprints of its runs: a cell whose run is finished is never run again, whatever ended
the sweep before. The results are written anew whenever a cell is through.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, reduce
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import filelock

from ..rerankers.errors import InputError, StoppedError, explained
from ..rerankers.models import KeptModels
from ..rerankers.types import plus
from . import estimate as estimates
from . import experiment, launchers
from .configs import load as configs
from .configs.grid import Grid
from .configs.load import Loaded
from .io.progress import Advance, Jobs, Listener, Noting
from .run import index, manifest, sweeps
from .run.plan import Plan
from .run.read import Run, read
from .run.sweeps import Outcome, Status, Sweep

ANSWERS = "answers"
"""The folder, in the sweep's, of the ledger that its cells share."""

INTERVAL = 0.5  # seconds between two reports of a cell's progress

Tell = Callable[[str, Any], object]
"""Takes a `note`, or `progress`, of a cell that is run, maybe by another process."""

Group = tuple[str, str, str]
"""The models, data and prompts of a cell, in words: cells of one group, which may put equal asks, run in succession."""

Outcomes = Iterator[tuple[int, Outcome]]


@dataclass(frozen=True)
class Order:
    """What to run of a grid: the `cells` of these numbers, and of them those of the status `only`.

    Results are in `folder`, by default `runs/<name>`. Runs are there too if it is named, and else in `runs`.
    """

    grid: Grid
    cells: Sequence[int]
    settings: Sequence[str] = ()
    queries: int | None = None
    folder: Path | None = None
    only: Status | None = None
    jobs: int = 1
    launch: launchers.Launch | None = None
    """Each cell is a command of its own, run by a launcher; else cells are run here, and share models."""

    @property
    def runs(self) -> Path:
        """Return the folder of the runs' folders."""
        return self.folder or Path("runs")

    @property
    def place(self) -> Path:
        """Return the folder of the results."""
        return self.folder or self.runs / self.grid.name

    def before(self) -> tuple[Sweep, list[int]]:
        """Return the sweep as it stands, without results of other `--set` or `--queries`, and the cells to run."""
        axes = {axis: list(values) for axis, values in self.grid.axes.items()}
        cells = [Outcome(name=cell.name, settings=dict(cell.settings)) for cell in self.grid.cells]
        state = Sweep(name=self.grid.name, axes=axes, settings=[*self.settings], queries=self.queries, cells=cells)
        if (self.place / sweeps.FILE).is_file():
            earlier = sweeps.read(self.place)
            if (earlier.settings, earlier.queries) == (state.settings, state.queries):
                known = {cell.name: cell for cell in earlier.cells}
                state.cells = [known.get(cell.name, cell) for cell in cells]
        return state, [number for number in self.cells if self.only in (None, state.cells[number].status)]

    def load(self, cell: Outcome) -> Loaded:
        """Return the config of a cell, which shares the sweep's ledger if it names none."""
        loaded = configs.load(cell.name, self.settings, self.queries)
        shared = loaded.config.shared_ledger or str((self.place / ANSWERS).resolve())
        return replace(loaded, config=loaded.config.model_copy(update={"shared_ledger": shared}))


class _Told(Listener):
    """A listener that passes on notes and, from time to time, how far the task of a cell is."""

    def __init__(self, tell: Tell) -> None:
        self.note = partial(tell, "note")  # type: ignore[method-assign, assignment]
        self._tell = tell

    @contextmanager
    def task(self, what: str, total: int | None) -> Iterator[Advance]:
        last = 0.0

        def advance(done: int, detail: str = "", total: int | None = total) -> None:  # noqa: ARG001
            nonlocal last
            if time.monotonic() - last > INTERVAL:
                last = time.monotonic()
                self._tell("progress", f"{what} {done:,}{'' if total is None else f' of {total:,}'}")

        yield advance


def sweep(order: Order, listener: Listener) -> Sweep:
    """Run the cells that are wanted and not done; return the sweep with the wanted cells alone.

    One that fails stops nothing. Raises `InputError` if the folder holds something else or another process sweeps
    there, and `StoppedError` on Ctrl-C.
    """
    with _locked(order.place):
        state, wanted = order.before()
        state.write(order.place)
        groups, alike = dict[int, Group](), dict[str, list[int]]()
        with listener.task("reading configs", len(wanted)) as advance:
            for done, number in enumerate(wanted, 1):
                group, config = _group(order, number)
                alike.setdefault(config, []).append(number)
                groups.setdefault(alike[config][0], group)
                advance(done)
        same = {numbers[0]: numbers for numbers in alike.values()}
        run = _launched if order.launch else _in_turn if order.jobs == 1 else _side_by_side
        with listener.task(f"{order.grid.name}, cells", len(wanted)) as advance:
            jobs = Jobs(listener, advance)
            try:
                for number, outcome in run(order, state, groups, jobs.hear):
                    for each in same[number]:
                        itself = {"name": state.cells[each].name, "settings": state.cells[each].settings}
                        state.cells[each] = outcome.model_copy(update=itself)
                        jobs.end(state.cells[each].words)
                    state.write(order.place)
            except (KeyboardInterrupt, StoppedError):
                through = f"{jobs.through} of {len(wanted)} cells are through"
                kept = f"{through}, and the answers of the others so far are kept"
                raise StoppedError(f"stopped; {kept}: {order.place / sweeps.FILE} has the results") from None
    return state.model_copy(update={"cells": [state.cells[number] for number in wanted]})


def foresee(order: Order, listener: Listener) -> dict[str, Any]:
    """Return the estimate of each wanted cell and their sum, as JSON; nothing is asked or written.

    A cell that cannot be estimated has an `error` and an `exit_code`. Equal asks of different cells count in each.
    """
    (state, wanted), rows, costs = order.before(), list[dict[str, Any]](), list[dict[str, Any]]()
    with listener.task("estimating, cells", len(wanted)) as advance:
        for done, cell in enumerate(state.cells[number] for number in wanted):
            rows.append({"name": cell.name, "settings": cell.settings, "status": cell.status})
            advance(done, cell.words)
            try:
                content = estimates.estimate(order.load(cell), 0, Listener())
                rows[-1] |= {"queries": content["queries"], "costs": content["costs"]}
                costs.append(content["costs"])
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one cell, the others are estimated
                rows[-1]["error"], rows[-1]["exit_code"] = explained(error)
    total = {
        name: {end: reduce(plus, [cost[name][end] for cost in costs]) for end in ("total", "low", "high")}
        for name in (estimates.FIGURES if costs else ())
    }
    return {"name": order.grid.name, "axes": state.axes, "cells": rows, "costs": total}


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold a sweep's folder. Raises `InputError` if it is not one's, or another process holds it."""
    strange = [path.name for path in place.iterdir() if path.name[0] != "."] if place.is_dir() else []
    if strange and not (place / sweeps.FILE).is_file():
        problem = f"is not empty, and no {sweeps.FILE} says that {strange[0]} there came from a sweep"
        raise InputError(f"{place}: {problem}; name a new folder with --output")
    lock = filelock.FileLock(place / ".lock")
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise InputError(f"{place}: another process is at work on this sweep; wait for it, or stop it") from error
    except OSError as error:
        raise InputError(f"{place}: cannot be used as a sweep's folder: {error.strerror}") from error
    with lock:
        yield


# One cell


def _outcome(order: Order, cell: Outcome, tell: Tell, models: KeptModels) -> Outcome:
    """Run a cell, or find its finished run; an error is its outcome."""
    blank = Outcome(name=cell.name, settings=cell.settings)
    try:
        loaded = order.load(cell)
        listener = Noting(_Told(tell), loaded.notes)
        plan = experiment.prepare(loaded, listener, kept=models)
        path = _elsewhere(plan, order.runs, listener)
        blank.fingerprint8 = plan.fingerprint[:8]
        blank.run_dir = os.path.relpath(path or order.runs / plan.folder, order.place)
        if path is None:
            return _complete(blank, experiment.perform(plan, order.runs / plan.folder, listener))
        plan.close()
        return _complete(blank, replace(read(path), expected=experiment.comparable(loaded, listener)))
    except (KeyboardInterrupt, StoppedError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one cell, the others are run
        models.close()  # requests may be left in them
        message, code = explained(error)
        return blank.model_copy(update={"status": "failed", "exit_code": code, "error": message})


def _elsewhere(plan: Plan, runs: Path, listener: Listener) -> Path | None:
    """Return the folder of the same run, finished and measured alike under another name, or None."""
    wanted = manifest.description(plan.config, [])["config"]["evaluate"], plan.data["qrels"], plan.config.schedule
    folders = dict(index.of_fingerprint(runs, plan.fingerprint, listener))
    for path, about in folders.items() if runs / plan.folder not in folders else ():
        if (about.config.evaluate, about.data.get("qrels"), about.schedule) == wanted:
            return path
    return None


def _complete(cell: Outcome, run: Run) -> Outcome:
    about, refused = run.manifest, run.refusal
    return cell.model_copy(
        update={
            "status": "failed" if refused else "done",
            "exit_code": 3 if refused else 0,
            "error": refused,
            "simulated": about.simulated,
            "queries": run.queries,
            "metrics": run.metrics.mean if run.metrics else {},
            "expected": dict(run.expected),
            "costs": run.costs,
            "shared": about.shared_ledger.get("taken", 0),
            "wall_seconds": about.wall_seconds,
        }
    )


# All cells


def _group(order: Order, number: int) -> tuple[Group, str]:
    """Return the models and data of a cell, and its config without unused keys: cells may have one in common."""
    cell = order.grid.cells[number]
    try:
        loaded = cell.load(order.settings, order.queries)
        prompts = [prompt.digest for ranker in loaded.rankers for prompt in ranker.prompts]
    except InputError:  # said when it is run
        return ("", cell.name, ""), cell.name
    config = loaded.config
    models = [config.model, *(stage.model for stage in config.stages or ()), config.seed]
    return (repr(models), repr((config.dataset, config.queries)), repr(prompts)), config.model_dump_json()


def _next(waiting: Mapping[int, Group], last: Group | None, others: Sequence[Group | None] = ()) -> int | None:
    """Return the cell to run next, of the last one's group, else of its models; None if others are at all groups."""

    def distance(number: int) -> tuple[bool, bool, int]:
        return waiting[number] != last, waiting[number][:1] != (last or ())[:1], number

    return min((number for number, group in waiting.items() if group not in others), key=distance, default=None)


def _in_turn(order: Order, state: Sweep, groups: Mapping[int, Group], hear: Callable[..., None]) -> Outcomes:
    """Run cells in this process."""
    waiting, last, models = dict(groups), None, KeptModels()
    try:
        while (number := _next(waiting, last)) is not None:
            last, cell = waiting.pop(number), state.cells[number]
            hear(cell.words, "progress", "preparing")
            yield number, _outcome(order, cell, partial(hear, cell.words), models)
    finally:
        models.close()


@dataclass
class _Worker:
    """A process that runs one cell after the other, the pipe to it, and the cell that it is at."""

    process: SpawnProcess
    pipe: connection.Connection[Any, Any]
    number: int | None = None
    group: Group | None = None

    @classmethod
    def start(cls, order: Order) -> _Worker:
        """Start a process; it ends with this one, however that ends."""
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(replace(order, grid=Grid(order.grid.name, {}, ())), theirs))
        process.start()
        theirs.close()
        return cls(process, pipe)


def _work(order: Order, pipe: connection.Connection[Any, Any]) -> None:
    """Run the cells that come through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    def end_with_parent() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    models = KeptModels()
    while True:
        outcome = _outcome(order, pipe.recv(), lambda *told: pipe.send(told), models)
        pipe.send(("outcome", outcome))


def _side_by_side(order: Order, state: Sweep, groups: Mapping[int, Group], hear: Callable[..., None]) -> Outcomes:
    """Run cells in processes; one that dies costs its cell, and another takes its place."""
    waiting, workers = dict(groups), list[_Worker]()
    try:
        while True:
            workers = [worker for worker in workers if worker.number is not None or worker.process.is_alive()]
            busy = {worker.pipe: (worker, worker.number) for worker in workers if worker.number is not None}
            idle = next((worker for worker in workers if worker.number is None), None)
            wanted = _next(waiting, idle.group if idle else None, [worker.group for worker, _ in busy.values()])
            if wanted is not None and len(busy) < order.jobs:
                if idle is None:
                    idle = _Worker.start(order)
                    workers.append(idle)
                idle.number, idle.group = wanted, waiting.pop(wanted)
                idle.pipe.send(state.cells[wanted])
                continue
            if not busy:
                return
            ready = connection.wait([*busy])[0]
            worker, number = next(one for pipe, one in busy.items() if pipe is ready)
            try:
                kind, told = worker.pipe.recv()
            except (EOFError, ConnectionError):
                worker.process.join()
                kind, told = "outcome", _died(state.cells[number], worker.process.exitcode or 0)
            if kind == "outcome":
                worker.number = None
                yield number, told
            else:
                hear(state.cells[number].words, kind, told)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def _launched(order: Order, state: Sweep, groups: Mapping[int, Group], hear: Callable[..., None]) -> Outcomes:
    """Run each cell as `r2llm rerank`, by a launcher."""
    assert order.launch
    tasks, numbers = list[launchers.Task](), list(groups)
    for number in numbers:
        cell = state.cells[number]
        settings = [*order.settings, f"shared_ledger={json.dumps(order.load(cell).config.shared_ledger)}"]
        words = launchers.rerank_words(cell.name, settings, order.queries, "--runs", str(order.runs), "--json")
        tasks.append(launchers.Task(cell.words, words, order.place / "logs" / f"{number + 1}.log"))
    for position, ended in launchers.run(order.launch, tasks, hear):
        yield numbers[position], _ended(order, state.cells[numbers[position]], ended)


def _ended(order: Order, cell: Outcome, ended: launchers.Ended) -> Outcome:
    result = {"status": "failed", "exit_code": ended.code, "error": ended.error}
    blank = Outcome(name=cell.name, settings=cell.settings)
    if not ended.out:
        return blank.model_copy(update=result)
    run = read(Path(json.loads(ended.out)["run_dir"]))
    blank.run_dir, blank.fingerprint8 = os.path.relpath(run.run_dir, order.place), run.manifest.fingerprint[:8]
    return _complete(blank, replace(run, expected=experiment.comparable(order.load(cell), Listener())))


def _died(cell: Outcome, code: int) -> Outcome:
    how = f"was killed by signal {-code}, as a machine out of memory does" if code < 0 else f"ended with {code}"
    error = f"its process {how}; its answers so far are kept: sweep again, with fewer --jobs if memory was short"
    code = 128 - code if code < 0 else 4
    return Outcome(name=cell.name, settings=cell.settings, status="failed", exit_code=code, error=error)
