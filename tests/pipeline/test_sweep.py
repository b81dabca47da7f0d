"""Sweeps over the embedded collection with simulated answers: what is run, shared, kept, resumed and written."""

from __future__ import annotations

import csv
import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment, launchers, sweep
from r2llm.pipeline.compare import runs as comparing
from r2llm.pipeline.configs import grid as grids
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.launchers import Launch
from r2llm.pipeline.run import sweeps
from r2llm.rerankers import ledger as ledgers
from r2llm.rerankers.errors import InputError, StoppedError
from r2llm.rerankers.models import KeptModels

AXES = ("ranker.method=setwise.heapsort,pairwise.heapsort", "first_stage.order=given,inverse")
AT = Path("runs/study")


def ordered(**changes: Any) -> sweep.Order:
    grid = grids.read("study.yaml")
    return sweep.Order(grid, **{"cells": range(len(grid.cells)), "queries": 3} | changes)


@pytest.fixture
def study(write) -> sweep.Order:
    """Four cells, in a temporary working folder."""
    write(
        "study.yaml",
        """\
        name: study
        base: quickstart.yaml
        axes:
          ranker.method: [setwise.heapsort, setwise.bubblesort]
          first_stage.order: [given, inverse]
        """,
    )
    return ordered()


def asked(at: Path) -> Counter[bytes]:
    """Return how many runs of a sweep asked a model under each key."""
    keys = Counter[bytes]()
    for cell in sweeps.read(at).cells:
        if cell.run_dir and (at / cell.run_dir / "ledger.sqlite").is_file():
            with closing(sqlite3.connect(at / cell.run_dir / "ledger.sqlite")) as db:
                query = "SELECT key FROM replies WHERE execution != ?"
                keys.update(key for (key,) in db.execute(query, [ledgers.ELSEWHERE]))
    return keys


def statuses(found: sweeps.Sweep) -> list[str]:
    return [cell.status for cell in found.cells]


def test_each_cell_is_a_run_and_equal_asks_are_asked_once(study, heard) -> None:
    found = sweep.sweep(study, heard)
    assert statuses(found) == ["done"] * 4
    assert sweeps.read(AT) == found
    for cell, of in zip(found.cells, study.grid.cells, strict=True):
        about = json.loads((AT / cell.run_dir / "manifest.json").read_text())
        assert cell.name == of.name
        assert about["fingerprint"][:8] == cell.fingerprint8 == experiment.fingerprint(of.load((), 3))[:8]
        assert cell.costs["asks"]["total"] == sum(cell.costs[name]["total"] for name in ("calls", "cached"))
    assert set(asked(AT).values()) == {1}
    assert sum(cell.shared for cell in found.cells) > 0
    assert asked(AT).total() == sum(cell.costs["calls"]["total"] for cell in found.cells)


def test_a_finished_sweep_changes_nothing(study, heard) -> None:
    first = sweep.sweep(study, heard)
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert sweep.sweep(study, heard) == first
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


def test_runs_of_a_shell_loop_are_those_of_the_sweep(study, heard) -> None:
    for cell in study.grid.cells[:2]:
        experiment.rerank(config.load(cell.name, (), 3), None, heard)
    alone = {path.name: (path / "manifest.json").read_bytes() for path in Path("runs").iterdir()}
    found = sweep.sweep(study, heard)
    for name, content in alone.items():
        assert (Path("runs") / name / "manifest.json").read_bytes() == content
    assert {Path(cell.run_dir or "").name for cell in found.cells[:2]} == alone.keys()
    for number, cell in enumerate(study.grid.cells):
        again = experiment.rerank(config.load(cell.name, (), 3), None, heard)
        assert not again.executed
        assert again.run_dir.resolve() == (AT / (found.cells[number].run_dir or "")).resolve()
    # The answers of the loop were given to the later cells.
    assert any(cell.shared > 0 for cell in found.cells[2:])


KILLED = """
import os, signal, sys
from r2llm.rerankers.ledger import Ledger
from r2llm.cli import main
left, add = int(sys.argv.pop(1)), Ledger.add

def adding(self, rows, *more, **options):
    global left
    add(self, rows, *more, **options)
    left -= self.path is not None
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

Ledger.add = adding
main.main()
"""


def killed(rounds: int, *words: object) -> int:
    command = [sys.executable, "-c", KILLED, str(rounds), "sweep", "study.yaml", "--queries", "3", *map(str, words)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.slow
def test_a_sweep_killed_twice_goes_on_and_asks_nothing_twice(study, heard) -> None:
    assert [killed(rounds) for rounds in (15, 60)] == [-9, -9]
    assert "missing" in statuses(sweeps.read(AT))
    found = sweep.sweep(study, heard)
    assert statuses(found) == ["done"] * 4
    assert set(asked(AT).values()) == {1}
    for number, cell in enumerate(found.cells):
        alone = experiment.rerank(config.load(cell.name, (), 3), Path(f"alone-{number}"), heard)
        assert (AT / (cell.run_dir or "") / "run.trec").read_bytes() == alone.run_file.read_bytes()


def test_a_failed_cell_stops_nothing(study, heard, write) -> None:
    text = Path("study.yaml").read_text().replace("setwise.bubblesort]", "pairwise.nope, setwise.bubblesort]")
    write("study.yaml", text)
    found = sweep.sweep(ordered(), heard)
    assert statuses(found) == ["done", "done", "failed", "failed", "done", "done"]
    assert found.cells[2].exit_code == 2
    assert "unknown method 'pairwise.nope'" in (found.cells[2].error or "")
    failed = sweep.sweep(ordered(only="failed"), heard)
    assert [cell.name for cell in failed.cells] == [cell.name for cell in found.cells[2:4]]


def test_a_fault_in_a_cell_is_its_outcome(study, heard, monkeypatch) -> None:
    perform = experiment.perform

    def failing(plan, *rest, **options):
        if plan.config.ranker["method"] == "setwise.heapsort":
            raise ZeroDivisionError("none")
        return perform(plan, *rest, **options)

    monkeypatch.setattr(experiment, "perform", failing)
    found = sweep.sweep(study, heard)
    assert statuses(found) == ["failed", "failed", "done", "done"]
    assert found.cells[0].exit_code == 4
    assert "ZeroDivisionError" in (found.cells[0].error or "")


def test_parts_of_a_grid_add_up(study, heard) -> None:
    first = sweep.sweep(ordered(cells=[1]), heard)
    assert len(first.cells) == 1
    assert statuses(sweeps.read(AT)) == ["missing", "done", "missing", "missing"]
    rest = sweep.sweep(ordered(only="missing"), heard)
    assert [cell.name for cell in rest.cells] == [study.grid.cells[number].name for number in (0, 2, 3)]
    assert statuses(sweeps.read(AT)) == ["done"] * 4
    assert sweeps.read(AT).cells[1] == first.cells[0]
    # Results with other settings are other results.
    sweep.sweep(ordered(cells=[0], settings=["ranker.k=3"]), heard)
    assert statuses(sweeps.read(AT)) == ["done", "missing", "missing", "missing"]


def test_cells_of_one_experiment_are_run_once(study, heard, write) -> None:
    write(
        "study.yaml",
        "name: study\nbase: quickstart.yaml\naxes: {ranker.num_child: [2, 3], ranker.method: [pairwise.heapsort]}",
    )
    one, other = sweep.sweep(ordered(), heard).cells
    assert (one.run_dir, one.metrics) == (other.run_dir, other.metrics)
    assert len(list(Path("runs").iterdir())) == 2


def test_cells_of_one_config_are_launched_once(study, heard, monkeypatch) -> None:
    launched: list[str] = []

    def run(_: Launch, tasks: Sequence[launchers.Task], __: object) -> Iterator[tuple[int, launchers.Ended]]:
        launched.extend(task.name for task in tasks)
        yield from ((number, launchers.Ended(2, error="no such key")) for number, _ in enumerate(tasks))

    monkeypatch.setattr(launchers, "run", run)  # such as Ray, which starts all at once: they would meet in one folder
    grid = grids.ad_hoc(["quickstart.yaml"], ["ranker.num_child=2,3", "ranker.method=pairwise.heapsort"])
    found = sweep.sweep(sweep.Order(grid, cells=range(2), queries=3, launch=Launch("ray")), heard)
    assert (len(launched), [cell.status for cell in found.cells]) == (1, ["failed"] * 2)


@pytest.mark.slow
def test_two_processes_leave_the_same_results(study, heard) -> None:
    alone = sweep.sweep(study, heard)
    found = sweep.sweep(ordered(launch=Launch("local", 2), folder=Path("both")), heard)
    assert statuses(found) == ["done"] * 4
    for one, other in zip(alone.cells, found.cells, strict=True):
        assert (one.fingerprint8, one.metrics) == (other.fingerprint8, other.metrics)
        assert (AT / one.run_dir / "run.trec").read_bytes() == (Path("both") / other.run_dir / "run.trec").read_bytes()
    assert sweeps.read(Path("both")) == found
    assert asked(Path("both")) == asked(AT)  # cells that may put equal asks are never run side by side


def test_the_table_has_a_row_for_each_cell(study, heard, write) -> None:
    extended = Path("study.yaml").read_text() + "expected: {nDCG@10: {value: 0.8, tolerance: 0.001, source: a paper}}\n"
    write("study.yaml", extended)
    found = sweep.sweep(ordered(queries=None, cells=[0, 2]), heard)
    rows = list(csv.DictReader((AT / "table.csv").read_text().splitlines()))
    assert [row["ranker.method"] for row in rows] == ["setwise.heapsort"] * 2 + ["setwise.bubblesort"] * 2
    assert [row["status"] for row in rows] == ["done", "missing"] * 2
    for row, cell in zip(rows[::2], found.cells, strict=True):
        assert float(row["nDCG@10"]) == cell.metrics["nDCG@10"]
        assert float(row["asks"]) == cell.costs["asks"]["total"]
        assert (row["simulated"], row["published nDCG@10"], row["verdict on nDCG@10"]) == ("true", "0.8", "")
        assert (AT / row["run_dir"] / "run.trec").is_file()


def test_a_sweep_is_compared_without_the_cells_that_are_missing(study, heard) -> None:
    found = sweep.sweep(ordered(cells=[0, 2]), heard)
    runs = comparing.load([AT], comparing.Judgements(), [], heard)
    assert [run.path for run in runs] == [Path("runs") / Path(cell.run_dir or "").name for cell in found.cells]
    assert heard.notes == ["runs/study: 2 of 4 cells are not done and are left out"]


@pytest.mark.parametrize(
    ("value", "simulated", "verdict"),
    [(0.7005, False, "within tolerance"), (0.72, False, "out of tolerance"), (0.7, True, None)],
)
def test_a_figure_is_within_tolerance_and_never_reproduced(value: float, simulated: bool, verdict: str | None) -> None:
    figures = {"nDCG@10": config.Expected(value=0.7, tolerance=0.001, source="a paper")}
    cell = sweeps.Outcome(name="a", settings={}, metrics={"nDCG@10": value}, expected=figures, simulated=simulated)
    assert cell.verdict("nDCG@10") == verdict


def test_an_estimate_writes_nothing(study, heard) -> None:
    content = sweep.foresee(study, heard)
    assert not Path("runs").exists()
    assert [cell["status"] for cell in content["cells"]] == ["missing"] * 4
    total = sum(cell["costs"]["asks"]["total"] for cell in content["cells"])
    assert content["costs"]["asks"]["total"] == total > 100


def test_ctrl_c_says_what_is_through(study, heard, monkeypatch) -> None:
    perform = experiment.perform

    def stopping(plan, *rest, **options):
        if plan.config.first_stage.order == "inverse":
            raise KeyboardInterrupt
        return perform(plan, *rest, **options)

    monkeypatch.setattr(experiment, "perform", stopping)
    with pytest.raises(StoppedError, match="1 of 4 cells are through"):
        sweep.sweep(study, heard)
    assert statuses(sweeps.read(AT)) == ["done", "missing", "missing", "missing"]


def test_a_folder_of_other_things_is_refused(study, heard, write) -> None:
    write("runs/study/thesis.tex", "")
    with pytest.raises(InputError, match=r"no sweep\.json says that thesis\.tex there came from a sweep"):
        sweep.sweep(study, heard)


def test_latency_is_measured_as_without_a_sweep(study, heard) -> None:
    found = sweep.sweep(ordered(settings=["schedule=latency"]), heard)
    assert [cell.shared for cell in found.cells] == [0] * 4
    assert all(cell.costs["asks"] == cell.costs["calls"] for cell in found.cells)


def test_cells_of_one_model_come_in_succession_and_share_it(rule_backend, monkeypatch) -> None:
    groups = {n: (*group, "p") for n, group in enumerate(["ax", "bx", "ay", "ax", "by"])}
    assert [*sweep._in_succession(groups)] == [0, 3, 2, 1, 4]
    kept, opened, closed = KeptModels(), [], []

    class Options:
        asks_model, remote = True, False

    class Model(rule_backend):
        def close(self) -> None:
            closed.append(self)

    class Module:
        @staticmethod
        def open(options, setting):
            opened.append(Model(lambda request: None))
            return opened[-1]

    monkeypatch.setattr("r2llm.rerankers.catalog.backend", lambda name: Module)
    one, other, seed = Options(), Options(), experiment.Setting(seed=0)
    assert kept.open([("m", one)], seed) == kept.open([("m", one), ("m", one)], seed)[:1] == opened
    [both, again] = kept.open([("m", one), ("m", other)], seed)
    assert (both, closed) == (opened[0], [])
    assert kept.open([("m", other)], seed) == [again]
    assert closed == [both]
    kept.close()
    assert closed == [both, again]
