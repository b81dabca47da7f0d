"""`r2llm compare --sensitivity` and `--positions` as they are typed."""

import csv
import io

import pytest


@pytest.fixture
def runs(r2llm, toy) -> None:
    for name, order in {"given": "given", "one": "shuffle, seed: 1", "two": "shuffle, seed: 2"}.items():
        settings = ("--set", f"first_stage={{run: bm25.trec, order: {order}}}", "--output", f"runs/{name}")
        assert r2llm("rerank", "--config", "toy.yaml", *settings, "--quiet").code == 0


def test_sensitivity_in_every_form(r2llm, runs) -> None:
    done = r2llm("compare", "runs", "--sensitivity")
    assert done.code == 0
    assert "setwise.heapsort (simulated)\tnDCG@10\t1.0000\t-\t1.0000" in done.out
    [row] = r2llm("compare", "runs", "--sensitivity", "--json").json["sensitivity"]
    assert (row["given"], row["shuffles"], row["drop"], row["tied"]) == (1.0, [1.0, 1.0], 0.0, None)
    [row] = csv.DictReader(io.StringIO(r2llm("compare", "runs", "--sensitivity", "--csv").out))
    assert row["shuffles"] == "2"
    assert r2llm("compare", "runs", "--sensitivity", "--markdown").out.startswith("| method | measure |")


def test_positions_in_every_form(r2llm, runs) -> None:
    done = r2llm("compare", "runs", "--positions")
    assert "note: 1 runs left out: their candidates were not shuffled" in done.err
    assert len(done.out.splitlines()) == 1 + 2 + 1  # header, slots, and what p holds for
    content = r2llm("compare", "runs", "--positions", "--json").json
    assert [len(of["slots"]) for of in content["positions"]] == [2]
    assert len(list(csv.DictReader(io.StringIO(r2llm("compare", "runs", "--positions", "--csv").out)))) == 2


def test_one_table_at_a_time(r2llm, runs) -> None:
    done = r2llm("compare", "runs", "--positions", "--sensitivity")
    assert (done.code, "give --sensitivity or --positions alone" in done.err) == (2, True)
