"""The commands: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from r2llm.cli.main import app
from r2llm.pipeline.config import SHIPPED
from r2llm.rerankers import catalog

QUICKSTART_RUN_FILES = {
    *("config.yaml", "first_stage.trec", "run.trec", "costs.jsonl", "metrics.json", "manifest.json"),
    *("ledger.sqlite", "ir-metadata.yml"),
}
COSTS = {
    *("asks", "calls", "cached", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed", "seconds"),
    *("flops", "usd"),
}
BOX = re.compile(r"[\u2500-\u257f\x1b]")
"""Frames and colours."""


# rerank


def test_rerank_prints_tab_separated_tables_where_nobody_watches(r2llm, toy: Path) -> None:
    done = r2llm("rerank", "--config", "toy.yaml")
    assert (done.code, done.err) == (0, "")
    assert not BOX.search(done.out)
    lines = done.out.splitlines()
    assert lines[0] == "toy (simulated answers: not a model's result)"
    assert "measure\tfirst stage\treranked" in lines
    assert "nDCG@10\t0.5655\t1.0000" in lines
    assert "cost\tmean\tp50\tp95\ttotal" in lines
    assert any(line.startswith("throughput: ") for line in lines)
    run_file = Path(lines[-1].removeprefix("run file: "))
    assert {path.name for path in run_file.parent.iterdir()} - {".lock"} == QUICKSTART_RUN_FILES


def test_json_is_one_object_with_the_promised_keys(r2llm, toy: Path) -> None:
    found = r2llm("rerank", "--config", "toy.yaml", "--json").json
    assert found.keys() >= {"run_dir", "run_file", "metrics", "costs"}
    assert Path(str(found["run_file"])) == Path(str(found["run_dir"])) / "run.trec"
    assert found["metrics"] == {"nDCG@10": 1.0, "Judged@10": pytest.approx((1 / 3 + 1 / 2) / 2)}
    assert found["simulated"] is True
    costs = found["costs"]
    assert isinstance(costs, dict)
    assert costs.keys() == COSTS
    assert all(figures.keys() == {"mean", "p50", "p95", "total"} for figures in costs.values())
    assert costs["prompt_tokens"]["total"] is None


def test_set_queries_and_output_are_heeded(r2llm, toy: Path) -> None:
    words = ("--set", "ranker.method=pointwise.yes_no", "--set", "name=mine", "--queries", 1, "--output", "out/run")
    done = r2llm("rerank", "--config", "toy.yaml", *words)
    assert done.code == 0
    assert {line.split()[0] for line in Path("out/run/run.trec").read_text().splitlines()} == {"q1"}
    assert {line.split()[5] for line in Path("out/run/run.trec").read_text().splitlines()} == {"mine"}
    assert not Path("runs").exists()


def test_notes_go_to_stderr_and_quiet_silences_them(r2llm, toy: Path) -> None:
    words = ("rerank", "--config", "toy.yaml", "--set", "ranker.method=pointwise.yes_no", "--set", "ranker.num_child=3")
    done = r2llm(*words)
    assert done.err == "note: ranker.num_child is not used by pointwise.yes_no\n"
    quiet = r2llm(*words, "--quiet")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.splitlines()[0] == done.out.splitlines()[0]


def test_latency_is_called_latency_and_throughput_is_not(r2llm, toy: Path) -> None:
    pooled = r2llm("rerank", "--config", "toy.yaml").out
    single = r2llm("rerank", "--config", "toy.yaml", "--set", "schedule=latency").out
    assert "seconds in the pool" in pooled
    assert "latency, s" not in pooled
    assert "latency, s" in single
    assert "throughput" not in single


def test_published_figures_are_shown_beside_the_result(r2llm, toy: Path) -> None:
    (toy / "paper.yaml").write_text(
        "extends: toy.yaml\nexpected: {nDCG@10: {value: 0.9, tolerance: 0.02, source: a paper}}"
    )
    assert "published nDCG@10: 0.9 ± 0.02 (a paper)" in r2llm("rerank", "--config", "paper.yaml").out
    found = r2llm("rerank", "--config", "paper.yaml", "--json").json
    assert found["expected"] == {"nDCG@10": {"value": 0.9, "tolerance": 0.02, "source": "a paper"}}
    narrowed = r2llm("rerank", "--config", "paper.yaml", "--queries", 1)
    assert "published" not in narrowed.out
    assert "expected figures are skipped" in narrowed.err


def test_a_recorded_run_replays_to_the_same_ranking(r2llm, toy: Path) -> None:
    first = r2llm("rerank", "--config", "toy.yaml", "--output", "recorded")
    assert first.code == 0
    (toy / "replay.yaml").write_text(
        (toy / "toy.yaml").read_text().partition("model:")[0]
        + "model: {backend: replay, answers: recorded/ledger.sqlite}\nname: toy"
    )
    assert r2llm("rerank", "--config", "replay.yaml", "--output", "replayed").code == 0
    assert Path("replayed/run.trec").read_bytes() == Path("recorded/run.trec").read_bytes()


def test_an_answer_that_cannot_be_read_is_the_backends_failure(r2llm, toy: Path) -> None:
    (toy / "answers.jsonl").write_text("".join(json.dumps({"query_id": q, "text": "?"}) + "\n" for q in ("q1", "q2")))
    (toy / "fail.yaml").write_text(
        (toy / "toy.yaml").read_text().partition("ranker:")[0]
        + "ranker: {method: setwise.heapsort, scoring: generation, on_unparsed: fail}\n"
        + "model: {backend: replay, answers: answers.jsonl}\n"
    )
    done = r2llm("rerank", "--config", "fail.yaml")
    assert (done.code, done.out) == (3, "")
    assert re.fullmatch(r"error: query q\d: the answer '\?' about .* cannot be read; on_unparsed: .*\n", done.err)


# retrieve


def test_retrieve_needs_neither_ranker_nor_model(r2llm, toy: Path) -> None:
    (toy / "first.yaml").write_text((toy / "toy.yaml").read_text().partition("ranker:")[0])
    found = r2llm("retrieve", "--config", "first.yaml", "--json").json
    assert found["metrics"] == {"nDCG@10": pytest.approx(0.5655, abs=1e-4), "Judged@10": pytest.approx(5 / 12)}
    assert found["costs"] == {}
    assert Path(str(found["run_file"])).name == "first_stage.trec"
    plain = r2llm("retrieve", "--config", "first.yaml")
    assert "measure\tfirst stage\nnDCG@10\t0.5655\n" in plain.out
    assert "simulated" not in plain.out

    refused = r2llm("rerank", "--config", "first.yaml")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "error: config first has no `ranker`; rerank needs one\n"
    refused = r2llm("rerank", "--config", "first.yaml", "--set", "ranker.method=setwise.heapsort")
    assert refused.err == "error: config first has no `model`; rerank needs one\n"


# evaluate


@pytest.fixture
def run(toy: Path) -> str:
    (toy / "mine.trec").write_text("q1 Q0 d3 1 2 me\nq1 Q0 d2 2 1 me\nq2 Q0 d2 1 1 me\n")
    return "mine.trec"


def test_evaluate_with_qrels(r2llm, run: str) -> None:
    done = r2llm("evaluate", run, "--qrels", "qrels.txt")
    assert (done.code, done.out, done.err) == (0, "query\tnDCG@10\tJudged@10\nall\t0.5000\t0.2500\n", "")


def test_evaluate_with_measures_and_each_query(r2llm, run: str) -> None:
    words = ("evaluate", run, "--qrels", "qrels.txt", "--measure", "RR@10", "--measure", "AP(rel=2)", "--per-query")
    assert r2llm(*words).out == "query\tRR@10\tAP(rel=2)\nall\t0.5000\t0.5000\nq1\t1.0000\t1.0000\nq2\t0.0000\t0.0000\n"
    assert r2llm(*words, "--json").json == {
        "metrics": {"RR@10": 0.5, "AP(rel=2)": 0.5},
        "per_query": {"q1": {"RR@10": 1.0, "AP(rel=2)": 1.0}, "q2": {"RR@10": 0.0, "AP(rel=2)": 0.0}},
    }


def test_evaluate_with_a_dataset_folder(r2llm, toy: Path) -> None:
    first, *_ = (line.split("\t") for line in (SHIPPED / "quickstart/qrels/test.tsv").read_text().splitlines()[1:])
    (toy / "some.trec").write_text(f"{first[0]} Q0 {first[1]} 1 1.0 t\n")
    done = r2llm("evaluate", "some.trec", "--dataset", SHIPPED / "quickstart", "--measure", "RR@10")
    assert done.out == "query\tRR@10\nall\t0.0417\n"  # 1 of 24
    assert r2llm("evaluate", "some.trec", "--dataset", SHIPPED / "quickstart", "--queries", 1).code == 0


def test_evaluate_the_last_run_of_a_config(r2llm, toy: Path) -> None:
    reranked = r2llm("rerank", "--config", "toy.yaml", "--json").json
    done = r2llm("evaluate", "--config", "toy.yaml", "--json")
    assert done.json == {"metrics": reranked["metrics"]}
    assert done.err == f"note: evaluating {reranked['run_file']}\n"
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    done = r2llm("evaluate", "--config", "toy.yaml", "--output", "out", "--measure", "P@1", "--json", "--quiet")
    assert (done.json, done.err) == ({"metrics": {"P@1": 1.0}}, "")
    narrowed = r2llm("evaluate", reranked["run_file"], "--config", "toy.yaml", "--queries", 1, "--per-query")
    assert [line.split("\t")[0] for line in narrowed.out.splitlines()] == ["query", "all", "q1"]


def test_ties_in_an_evaluated_run_are_noted(r2llm, toy: Path) -> None:
    (toy / "tied.trec").write_text("q1 Q0 d2 1 1 t\nq1 Q0 d3 2 1 t\n")
    done = r2llm("evaluate", "tied.trec", "--qrels", "qrels.txt", "--measure", "RR@10")
    assert done.out.endswith("all\t0.5000\n")  # d3 comes first, as trec_eval has it
    assert "1 of 1 queries have tied scores" in done.err


# list and the rest


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("methods", "setwise.heapsort"),
        ("prompts", "yes_no"),
        ("backends", "transformers"),
        ("models", "transformers"),
        ("datasets", "quickstart"),
        ("configs", "quickstart.yaml"),
    ],
)
def test_list(r2llm, what: str, name: str) -> None:
    done = r2llm("list", what)
    assert (done.code, done.err) == (0, "")
    rows = dict(line.split("\t") for line in done.out.splitlines())
    assert rows.pop("name") == "about"
    assert rows[name]
    assert all(rows.values())
    assert {row["name"]: row["about"] for row in json.loads(r2llm("list", what, "--json").out)} == rows


def test_help_and_version(r2llm) -> None:
    for words in (["--help"], ["rerank", "--help"], ["retrieve", "--help"], ["evaluate", "--help"], ["list", "--help"]):
        done = r2llm(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("Usage: ")
    assert re.fullmatch(r"r2llm \d+\.\d+\S*\n", r2llm("--version").out)


def test_every_commands_help_has_an_example(r2llm) -> None:
    for command in app.registered_commands:
        assert f"\n  Example: r2llm {command.name}" in r2llm(str(command.name), "--help").out
    text = r2llm("rerank", "--help").out
    assert "all by default" in text
    assert "runs/NAME-FINGERPRINT by default" in text


def test_list_of_keys_and_of_one_name(r2llm) -> None:
    keys = [line.split("\t") for line in r2llm("list", "keys").out.splitlines()]
    assert keys[0] == ["key", "type", "default", "meaning"]
    assert ["first_stage.depth", "integer", "100", "candidates a query"] in keys
    noise = {"key": "noise", "type": "number", "default": "0.1", "meaning": "how often a noisy oracle answers wrongly"}
    assert noise in json.loads(r2llm("list", "backends", "simulated", "--json").out)
    assert r2llm("list", "prompts", "yes_no").out == catalog.prompt_file("yes_no").read_text()
    done = r2llm("list", "methods", "setwise.heapsrt")
    assert (done.code, done.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("words", [["rerank"], ["rerank", "--confg", "x"], ["list", "colours"], ["polish"], []])
def test_a_wrong_command_line_is_the_users_mistake(r2llm, words: list[str]) -> None:
    assert r2llm(*words).code == 2
