"""`r2llm inspect`: the story in tables, or as one JSON object."""

from __future__ import annotations

import json
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
        "nDCG@10 0.5000 → 1.0000 (+0.5000)",
        "Judged@10 0.3333 → 0.3333 (+0.0000)",
        "relevant documents in the first 10: 0 gained, 0 lost, 1 kept",
        "document\tgrade\tbefore\tafter\tis",
        "d3\t2\t3\t1\tkept",
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
    first = lines.index("d3\t2\t3\t1\tkept") + 1
    assert lines[first : first + 2] == [
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


def test_only_some_asks_and_the_texts(r2llm, run_dir: Path) -> None:
    lines = r2llm("inspect", run_dir, "--query", "q1", "--asks", 1, "--text").out.splitlines()
    assert "the first 1 of 2 asks" in lines
    assert [line.partition("\t")[0] for line in lines[lines.index("the first 1 of 2 asks") + 1 :]][:3] == [
        *("ask", "1", "rank")
    ]
    assert "text of d2: Sea water is salt." in lines
    assert "ask\tround" not in r2llm("inspect", run_dir, "--query", "q1", "--asks", 0).out


def test_the_queries_that_lost_most_come_first(r2llm, toy: Path) -> None:
    docs = [f"d{number}" for number in range(1, 13)]
    (toy / "docs.jsonl").write_text("".join(f'{{"_id": "{doc}", "text": "text of {doc}"}}\n' for doc in docs))
    first = {"q1": docs, "q2": docs[::-1], "q3": docs}
    (toy / "queries.tsv").write_text("q1\tone\nq2\ttwo\nq3\tthree\n")
    (toy / "bm25.trec").write_text(
        "".join(f"{q} Q0 {doc} 1 {20 - i} b\n" for q, order in first.items() for i, doc in enumerate(order))
    )
    (toy / "qrels.txt").write_text("q1 0 d1 2\nq1 0 d12 1\nq1 0 d3 0\nq2 0 d1 1\nq3 0 d99 1\nq3 0 d9 1\n")
    answers = [{"query_id": q, "text": " > ".join(f"[{i}]" for i in range(12, 0, -1))} for q in first]
    (toy / "answers.jsonl").write_text("".join(f"{json.dumps(answer)}\n" for answer in answers))
    settings = ("ranker={method: listwise.full}", "model={backend: replay, answers: answers.jsonl}")
    words = [word for setting in settings for word in ("--set", setting)]
    assert r2llm("rerank", "--config", "toy.yaml", *words, "--output", "run").code == 0
    lines = r2llm("inspect", "run", "--worst", 2).out.splitlines()
    assert [line for line in lines if line.startswith("query ")] == ["query q1: one", "query q3: three"]
    assert lines[1].startswith("nDCG@10 ")
    assert "relevant documents in the first 10: 1 gained, 1 lost, 0 kept" in lines
    assert "not relevant documents in the first 10: 0 gained, 0 lost, 1 kept" in lines
    assert [line for line in lines if line.startswith(("d1\t", "d12\t", "d3\t"))] == [
        *("d12\t1\t12\t1\tgained", "d1\t2\t1\t12\tlost", "d3\t0\t3\t10\tkept")
    ]
    assert "relevant documents that are no candidates: 1" in lines
    found = r2llm("inspect", "run", "--worst", 9, "--json").json["worst"]
    assert [one["query"]["id"] for one in found] == ["q1", "q3", "q2"]
    assert found[2]["measures"]["nDCG@10"] == [0.0, 1.0]
    assert found[0]["judged"][1] == {"doc": "d1", "grade": 2, "before": 1, "after": 12, "fate": "lost"}


def test_the_runs_warnings_are_repeated_whatever_is_inspected(r2llm, toy: Path) -> None:
    rows = [{"query_id": query, "text": text} for query in ("q1", "q2") for text in ("Yes", "hm")]
    (toy / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    settings = (
        "ranker={method: pointwise.yes_no, scoring: generation}",
        "model={backend: replay, answers: texts.jsonl}",
    )
    words = [word for setting in (*settings, "first_stage.depth=2") for word in ("--set", setting)]
    done = r2llm("rerank", "--config", "toy.yaml", *words, "--output", "run")
    assert done.code == 0, done.err
    for words in (("--query", "q1"), ("--worst", 1)):
        [warning] = r2llm("inspect", "run", *words, "--json").json["warnings"]
        assert "could not be read" in warning
        assert f"WARNING: {warning}" in r2llm("inspect", "run", *words).out.splitlines()


def test_mistakes_are_one_line(r2llm, run_dir: Path) -> None:
    done = r2llm("inspect", run_dir, "--query", "q7")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "query q7 is not among the run's 2" in done.err
    assert r2llm("inspect", "nowhere", "--query", "q1").code == 2
    for words in ((), ("--query", "q1", "--worst", 2)):
        assert "one of --query ID and --worst N" in r2llm("inspect", run_dir, *words).err
    assert r2llm("inspect", "nowhere", "--worst", 2).code == 2
