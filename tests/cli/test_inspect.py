"""`r2llm inspect`: the story in tables, or as one JSON object."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def run_dir(r2llm, toy: Path) -> Path:
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "run").code == 0
    return Path("run")


def test_the_story_in_tables(r2llm, run_dir: Path) -> None:
    done = r2llm("inspect", run_dir, "--query", "q1")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "query q1: why is the sea salt",
        "setwise.heapsort, prompt setwise, scoring likelihood; model: simulated oracle",
        "rank\tdocument\tscore\tgrade",
        "1\td1\t3.0000\t-",
        "2\td2\t2.0000\t-",
        "3\td3\t1.0000\t2",
        "ask\tround\tkind\tpresented\tanswer\tread as\ttokens\tfrom",
        "1\t1\tchoose\tA=d1 B=d2 C=d3\tA -1000.0000 B -1000.0000 C 0.0000\td3\t-\tledger",
        "2\t2\tchoose\tA=d1 B=d2\tA 0.0000 B -1000.0000\td1\t-\tledger",
        "rank\tbefore\tdocument\tgrade",
        "1\t3\td3\t2",
        "2\t1\td1\t-",
        "3\t2\td2\t-",
        *[line for line in done.out.splitlines() if line.startswith("last execution: 2 asks, 2 calls, 0 cached, ")],
    ]


def test_a_cascade_is_told_stage_by_stage(r2llm, toy: Path) -> None:
    stages = "stages=[{ranker: {method: pointwise.yes_no}}, {ranker: {method: setwise.heapsort}, depth: 2}]"
    assert r2llm("rerank", "--config", "toy.yaml", "--set", stages, "--output", "cascade").code == 0
    lines = r2llm("inspect", "cascade", "--query", "q1").out.splitlines()
    assert lines[1:3] == [
        "stage 1: pointwise.yes_no, prompt yes_no, scoring likelihood; model: simulated oracle",
        "stage 2: setwise.heapsort, prompt setwise, scoring likelihood; model: simulated oracle; the first 2 documents",
    ]
    asks = lines.index("ask\tstage\tround\tkind\tpresented\tanswer\tread as\ttokens\tfrom")
    assert [line.split("\t")[1] for line in lines[asks + 1 : asks + 5]] == ["1", "1", "1", "2"]
    spent = [line for line in lines if "calls" in line]
    assert [line.partition(",")[0] for line in spent] == [
        "last execution: 4 asks",
        "stage 1: 3 asks",
        "stage 2: 1 asks",
    ]
    found = r2llm("inspect", "cascade", "--query", "q1", "--json").json
    assert [(stage["ranker"]["method"], stage["depth"]) for stage in found["stages"]] == [
        ("pointwise.yes_no", None),
        ("setwise.heapsort", 2),
    ]
    assert [ask["stage"] for ask in found["asks"]] == [1, 1, 1, 2]


def test_prompts_stand_between_lines_of_their_own(r2llm, run_dir: Path) -> None:
    done = r2llm("inspect", run_dir, "--query", "q1", "--prompts")
    assert done.out.count("----- prompt of ask ") == done.out.count("----- end of the prompt\n") == 2
    assert done.out.endswith("neither query nor passages are cut\n")


@pytest.mark.parametrize("method", ["pointwise.yes_no", "pointwise.qlm", "listwise.sliding", "pairwise.allpair"])
def test_every_kind_of_ask_is_shown(r2llm, toy: Path, method: str) -> None:
    ranker = f"ranker={{method: {method}}}"
    assert r2llm("rerank", "--config", "toy.yaml", "--set", ranker, "--output", method).code == 0
    done = r2llm("inspect", method, "--query", "q1")
    assert done.code == 0
    kind, read_as = {
        "pointwise.yes_no": ("score\td3\tYes -0.2014 No -1.7014", "0.8176"),
        "pointwise.qlm": ("likelihood\td3\t-0.2014", "-0.2014"),
        "listwise.sliding": ("permute\t1=d1 2=d2 3=d3\t'[3] > [1] > [2]'", "d3 > d1 > d2"),
        "pairwise.allpair": ("compare\tA=d3 B=d1\tA 0.0000 B -1000.0000", "d3"),
    }[method]
    assert f"\t{kind}\t{read_as}\t-\tledger\n" in done.out


def test_as_json(r2llm, run_dir: Path) -> None:
    found = r2llm("inspect", run_dir, "--query", "q1", "--json", "--prompts").json
    assert found["query"] == {"id": "q1", "text": "why is the sea salt"}
    assert found["first_stage"][2] == {"rank": 3, "doc": "d3", "score": 1.0, "grade": 2}
    first = found["asks"][0]
    assert first["docs"] == [{"label": "A", "doc": "d1"}, {"label": "B", "doc": "d2"}, {"label": "C", "doc": "d3"}]
    assert (first["read_as"], first["scores"], first["text"]) == ("d3", [-1000.0, -1000.0, 0.0], None)
    assert first["prompt"].startswith("[user]\n")
    assert first["prompt_cut"] is False
    assert found["moves"][0] == {"rank": 1, "before": 3, "doc": "d3", "grade": 2}
    assert found["cost"]["asks"] == 2


def test_mistakes_are_one_line(r2llm, run_dir: Path) -> None:
    done = r2llm("inspect", run_dir, "--query", "q7")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "query q7 is not among the run's 2" in done.err
    assert r2llm("inspect", "nowhere", "--query", "q1").code == 2
