"""`r2llm runs`: the index of run folders, and the removal of unfinished ones."""

from __future__ import annotations

import json
from pathlib import Path

import filelock
import pytest


@pytest.fixture
def some(r2llm, toy: Path) -> Path:
    """A finished run, one that was cut off, and one whose manifest is damaged."""
    for name in ("whole", "cut", "torn"):
        assert r2llm("rerank", "--config", "toy.yaml", "--output", f"runs/{name}", "--quiet").code == 0
    about = json.loads((toy / "runs/cut/manifest.json").read_text())
    (toy / "runs/cut/manifest.json").write_text(json.dumps(about | {"status": "running"}))
    (toy / "runs/torn/manifest.json").write_text("{")
    (toy / "runs/notes").mkdir()
    return toy


def test_the_index_says_what_was_run(r2llm, some: Path) -> None:
    rows = {row["run_dir"]: row for row in r2llm("runs", "--json").json}
    assert [row["status"] for row in rows.values()] == ["unfinished", "unreadable", "unreadable", "finished"]
    whole = rows["runs/whole"]
    assert (whole["method"], whole["model"], whole["queries"]) == (["setwise.heapsort"], ["oracle"], 2)
    assert (whole["metrics"]["nDCG@10"], whole["simulated"]) == (1.0, True)
    assert whole["costs"]["asks"] == whole["costs"]["calls"] > 0
    assert rows["runs/notes"]["error"].startswith("runs/notes: no run's folder")


def test_unreadable_folders_are_named(r2llm, some: Path) -> None:
    typed = r2llm("runs")
    assert typed.code == 0
    assert "runs/whole\tfinished" in typed.out
    assert "nDCG@10 1.0000, Judged@10 " in typed.out
    assert "UNREADABLE runs/torn/manifest.json: is no manifest of a run, or damaged" in typed.out
    assert "UNREADABLE runs/notes: no run's folder" in typed.out


def test_unfinished_runs_are_named_and_removed_when_told(r2llm, some: Path) -> None:
    typed = r2llm("runs", "--prune")
    assert typed.out.splitlines()[1].startswith("runs/cut\tunfinished")
    assert "1 runs unfinished: --yes removes them, with " in typed.out
    assert (some / "runs/cut").is_dir()
    with filelock.FileLock(some / "runs/cut/.lock"):
        busy = r2llm("runs", "--prune", "--yes")
    assert (busy.code, busy.err) == (2, "error: runs/cut: another process is at work on this run; stop it first\n")
    assert r2llm("runs", "--prune", "--yes").code == 0
    assert sorted(path.name for path in (some / "runs").iterdir()) == ["notes", "torn", "whole"]


def test_what_is_no_run_in_an_unfinished_one_stays(r2llm, some: Path) -> None:
    (some / "runs/cut/shard-1-of-2").mkdir()
    (some / "runs/cut/shard-1-of-2/ledger.sqlite").write_text("answers")
    assert r2llm("runs", "--prune", "--yes").code == 0
    assert [path.name for path in (some / "runs/cut").iterdir()] == ["shard-1-of-2"]


@pytest.mark.parametrize(
    ("words", "problem"), [(["elsewhere"], "no folder elsewhere"), (["--yes"], "--yes goes with --prune")]
)
def test_mistakes_are_one_line(r2llm, words: list[str], problem: str) -> None:
    typed = r2llm("runs", *words)
    assert (typed.code, typed.err.count("\n")) == (2, 1)
    assert problem in typed.err
