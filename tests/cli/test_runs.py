"""`r2llm runs`: the index of run folders."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_unfinished_runs_are_named(r2llm, some: Path) -> None:
    typed = r2llm("runs", "--prune")
    assert [line.split("\t")[:2] for line in typed.out.splitlines()[1:]] == [["runs/cut", "unfinished"]]


def test_a_folder_that_is_not_there_is_one_line(r2llm, some: Path) -> None:
    typed = r2llm("runs", "elsewhere")
    assert (typed.code, typed.err.count("\n")) == (2, 1)
    assert "no folder elsewhere" in typed.err
