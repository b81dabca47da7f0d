"""`r2llm sweep`: what it takes, prints and returns."""

from __future__ import annotations

from pathlib import Path

import pytest
from r2llm.pipeline import experiment

AXES = ("--axis", "ranker.method=setwise.heapsort,pairwise.heapsort", "--axis", "first_stage.order=given,inverse")
TOY = ("sweep", "--config", "toy.yaml", *AXES)


def test_a_row_for_each_cell_and_where_the_results_are(r2llm, toy: Path) -> None:
    typed = r2llm(*TOY)
    header, *rows = [line.split("\t") for line in typed.out.splitlines()[:5]]
    assert typed.code == 0
    assert header[:4] == ["ranker.method", "first_stage.order", "status", "nDCG@10"]
    assert header[-3:] == ["asks", "calls", "seconds"]
    assert [row[:4] for row in rows] == [
        ["setwise.heapsort", "given", "done, simulated", "1.0000"],
        ["setwise.heapsort", "inverse", "done, simulated", "1.0000"],
        ["pairwise.heapsort", "given", "done, simulated", "1.0000"],
        ["pairwise.heapsort", "inverse", "done, simulated", "1.0000"],
    ]
    assert "4 of 4 cells have simulated answers: no model's results" in typed.out
    again = r2llm(*TOY, "--json", "--only", "ranker.method=pairwise.heapsort").json
    assert [cell["settings"]["first_stage.order"] for cell in again["cells"]] == ["given", "inverse"]
    place = toy / str(again["folder"])
    for cell in again["cells"]:
        assert (place / cell["run_dir"] / "run.trec").is_file()
        assert cell["costs"]["asks"]["total"] > 0
    assert {path.name for path in place.iterdir()} >= {"sweep.json", "table.csv", "answers"}


def test_a_failed_cell_is_named_at_the_end_and_exits_1(r2llm, toy: Path) -> None:
    typed = r2llm("sweep", "--config", "toy.yaml", "--axis", "ranker.method=setwise.heapsort,setwise.nope")
    assert typed.code == 1
    assert "\nFAILED toy.yaml/ranker.method=setwise.nope: " in typed.out
    failed = r2llm(
        "sweep", "--config", "toy.yaml", *("--axis", "ranker.method=setwise.heapsort,setwise.nope"), "--json"
    )
    assert [cell["status"] for cell in failed.json["cells"]] == ["done", "failed"]
    typed = r2llm(
        "sweep", "--config", "toy.yaml", *AXES[:1], "ranker.method=setwise.heapsort,setwise.nope", "--retry", "failed"
    )
    assert (typed.code, "setwise.heapsort\tdone" in typed.out) == (1, False)


def test_a_dry_run_estimates_each_cell_and_the_sum(r2llm, toy: Path) -> None:
    lines = [line.split("\t") for line in r2llm(*TOY, "--dry-run").out.splitlines()]
    asks = lines[0].index("asks")
    assert float(lines[5][asks]) == sum(float(line[asks]) for line in lines[1:5]) > 0
    assert lines[5][2] == "sum"
    assert not (toy / "runs").exists()
    bad = r2llm("sweep", "--config", "toy.yaml", "--axis", "ranker.method=setwise.nope", "--dry-run", "--json")
    assert (bad.code, bad.json["cells"][0]["exit_code"]) == (1, 2)


def test_ctrl_c_says_which_command_goes_on(r2llm, toy: Path, monkeypatch) -> None:
    def stopping(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "perform", stopping)
    typed = r2llm(*TOY, "--queries", "1")
    assert typed.code == 130
    assert "0 of 4 cells are through" in typed.err
    assert typed.err.endswith(f"to go on, run r2llm {' '.join(TOY)} --queries 1\n")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "sweep takes a grid, or --config with --axis"),
        (["--config", "toy.yaml"], "--config needs --axis KEY=V1,V2"),
        ([*TOY[1:], "--retry", "done"], "--retry done: give one of failed and missing"),
        ([*TOY[1:], "--only", "first_stage.order=sideways"], "sideways"),
    ],
)
def test_mistakes_are_one_line(r2llm, toy: Path, words: list[str], problem: str) -> None:
    typed = r2llm("sweep", *words)
    assert (typed.code, typed.err.count("\n")) == (2, 1)
    assert problem in typed.err
