"""Sweeps: all cells of a grid, one after the other or several side by side.

The state of a sweep is the fingerprints of its runs: a cell whose run is finished is never run again, whatever ended
the sweep before. The results are written anew whenever a cell is through.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from ..rerankers.errors import InputError, StoppedError, explained
from ..rerankers.models import KeptModels
from ..rerankers.types import plus
from . import estimate as estimates
from . import experiment, launchers
from .configs import load as configs
from .configs.grid import Grid
from .configs.load import Loaded
from .io.progress import Job, Jobs, Listener, Noting
from .run import index, manifest, sweeps
from .run.folder import locked
from .run.plan import Plan
from .run.read import Run, read
from .run.sweeps import Outcome, Status, Sweep

ANSWERS = "answers"
"""The folder, in the sweep's, of the ledger that its cells share."""

Group = tuple[str, str, str]
"""The models, data and prompts of a cell, in words: cells of one group, which may put equal asks, run in succession."""

Outcomes = Iterator[tuple[int, Outcome]]


@dataclass(frozen=True)
class Order:
    """The part of a grid to run: the `cells` of these numbers, and of them those of the status `only`.

    Results are in `folder`, by default `runs/<name>`. Runs are there too if it is named, and else in `runs`.
    """

    grid: Grid
    cells: Sequence[int]
    settings: Sequence[str] = ()
    queries: int | None = None
    folder: Path | None = None
    only: Status | None = None
    launch: launchers.Launch | None = None
    """Each cell is a command of its own, run by a launcher; else cells are run here in turn, and share models."""

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


def sweep(order: Order, listener: Listener) -> Sweep:
    """Run the cells that are wanted and not done; return the sweep with the wanted cells alone.

    One that fails stops nothing. Raises `InputError` if the folder holds something else or another process sweeps
    there, and `StoppedError` on Ctrl-C.
    """
    _check_is_free(order.place)
    lock = locked(order.place, "sweep")
    try:
        state, wanted = order.before()
        state.write(order.place)
        groups = dict[int, Group]()
        with listener.task("reading configs", len(wanted)) as advance:
            for number in wanted:
                groups[number] = _group(order, number)
                advance(len(groups))
        run = _launched if order.launch else _in_turn
        with listener.task(f"{order.grid.name}, cells", len(wanted)) as advance:
            jobs = Jobs(listener, advance)
            try:
                for number, outcome in run(order, state, groups, jobs):
                    state.cells[number] = outcome
                    jobs.advance(outcome.words, None)
                    state.write(order.place)
            except (KeyboardInterrupt, StoppedError):
                through = f"{jobs.through} of {len(wanted)} cells are through"
                kept = f"{through}, and the answers of the others so far are kept"
                raise StoppedError(f"stopped; {kept}: {order.place / sweeps.FILE} has the results") from None
    finally:
        lock.release()
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


def _check_is_free(place: Path) -> None:
    """Raise `InputError` for a folder that is not empty and not a sweep's."""
    strange = [path.name for path in place.iterdir() if path.name[0] != "."] if place.is_dir() else []
    if strange and not (place / sweeps.FILE).is_file():
        problem = f"is not empty, and no {sweeps.FILE} says that {strange[0]} there came from a sweep"
        raise InputError(f"{place}: {problem}; name a new folder with --output")


# One cell


def run_cell(loaded: Loaded, runs: Path, listener: Listener, models: KeptModels | None = None) -> Run:
    """Rank a cell in its folder in `runs`, or return its finished run, under another name too. Raises as `rerank`."""
    listener = Noting(listener, loaded.notes)
    plan = experiment.prepare(loaded, listener, kept=models)
    path = _elsewhere(plan, runs, listener)
    if path is None:
        return experiment.perform(plan, runs / plan.folder, listener)
    plan.close()
    return replace(read(path), expected=experiment.comparable(loaded, listener))


def _elsewhere(plan: Plan, runs: Path, listener: Listener) -> Path | None:
    """Return the folder of the same run, finished and measured alike under another name, or None."""
    wanted = manifest.description(plan.config, [])["config"]["evaluate"], plan.data["qrels"], plan.config.schedule
    folders = dict(index.of_fingerprint(runs, plan.fingerprint, listener))
    for path, about in folders.items() if runs / plan.folder not in folders else ():
        if (about.config.evaluate, about.data.get("qrels"), about.schedule) == wanted:
            return path
    return None


def _done(order: Order, cell: Outcome, run: Run) -> Outcome:
    about, refused = run.manifest, run.refusal
    return Outcome(
        name=cell.name,
        settings=cell.settings,
        run_dir=os.path.relpath(run.run_dir, order.place),
        fingerprint8=about.fingerprint[:8],
        status="failed" if refused else "done",
        exit_code=3 if refused else 0,
        error=refused,
        simulated=about.simulated,
        queries=run.queries,
        metrics=run.metrics.mean if run.metrics else {},
        expected=dict(run.expected),
        costs=run.costs,
        shared=about.shared_ledger.get("taken", 0),
        wall_seconds=about.wall_seconds,
    )


def _failed(cell: Outcome, error: str | None, code: int) -> Outcome:
    return Outcome(name=cell.name, settings=cell.settings, status="failed", exit_code=code, error=error)


# All cells


def _group(order: Order, number: int) -> Group:
    cell = order.grid.cells[number]
    try:
        loaded = cell.load(order.settings, order.queries)
        prompts = [prompt.digest for ranker in loaded.rankers for prompt in ranker.prompts]
    except InputError:  # said when it is run
        return ("", cell.name, "")
    config = loaded.config
    models = [config.model, *(stage.model for stage in config.stages or ()), config.seed]
    return (repr(models), repr((config.dataset, config.queries)), repr(prompts))


def _in_succession(groups: Mapping[int, Group]) -> dict[int, Group]:
    """Return the cells ordered so that those of one group, and groups of the same models, follow each other."""
    first: dict[Sequence[str], int] = {}
    for number, group in groups.items():
        first.setdefault(group, number)
        first.setdefault(group[:1], number)
    return dict(sorted(groups.items(), key=lambda item: (first[item[1][:1]], first[item[1]], item[0])))


def _in_turn(order: Order, state: Sweep, groups: Mapping[int, Group], jobs: Jobs) -> Outcomes:
    """Run cells in this process."""
    models = KeptModels()
    try:
        for number in _in_succession(groups):
            cell = state.cells[number]
            jobs.advance(cell.words, "preparing")
            try:
                run = run_cell(order.load(cell), order.runs, Job(jobs, cell.words), models)
                yield number, _done(order, cell, run)
            except StoppedError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever is wrong with one cell, the others are run
                models.close()  # requests may be left in them
                yield number, _failed(cell, *explained(error))
    finally:
        models.close()


def _launched(order: Order, state: Sweep, groups: Mapping[int, Group], jobs: Jobs) -> Outcomes:
    """Run each cell as `r2llm rerank`, by a launcher."""
    assert order.launch
    tasks, loaded, alike = list[launchers.Task](), dict[int, Loaded](), dict[str, list[int]]()
    for number, group in groups.items():
        cell = state.cells[number]
        try:
            loaded[number] = order.load(cell)
        except InputError as error:
            yield number, _failed(cell, *explained(error))
            continue
        # Cells that differ in unused keys alone would meet in one folder.
        same = alike.setdefault(loaded[number].config.model_dump_json(), [])
        same.append(number)
        if len(same) > 1:
            continue
        settings = [*order.settings, f"shared_ledger={json.dumps(loaded[number].config.shared_ledger)}"]
        words = launchers.rerank_words(cell.name, settings, order.queries, "--runs", str(order.runs), "--json")
        tasks.append(launchers.Task(cell.words, words, order.place / "logs" / f"{number + 1}.log", group=group))
    numbers = list(alike.values())
    for position, ended in launchers.run(order.launch, tasks, jobs):
        run = read(Path(json.loads(ended.out)["run_dir"])) if ended.out else None
        for number in numbers[position]:
            cell = state.cells[number]
            if run:
                expected = experiment.comparable(loaded[number], Listener())
                yield number, _done(order, cell, replace(run, expected=expected))
            else:
                yield number, _failed(cell, ended.error, ended.code)
