"""The commands: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from r2llm.cli.main import app
from r2llm.pipeline.configs.load import SHIPPED
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
    assert "measure\tfirst stage\treranked\tchange" in lines
    assert "nDCG@10\t0.5655\t1.0000\t+0.4345" in lines
    assert "queries\t2\t2\t" in lines
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
    assert all(figures.keys() == {"mean", "p50", "p95", "total", "queries"} for figures in costs.values())
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
    assert (done.code, done.out, done.err) == (0, "query\tnDCG@10\tJudged@10\tqueries\nall\t0.5000\t0.2500\t2\n", "")


def test_evaluate_with_measures_and_each_query(r2llm, run: str) -> None:
    words = ("evaluate", run, "--qrels", "qrels.txt", "--measure", "RR@10", "--measure", "AP(rel=2)", "--per-query")
    rows = (
        "query\tRR@10\tAP(rel=2)\tqueries",
        "all\t0.5000\t0.5000\t2",
        "q1\t1.0000\t1.0000\t1",
        "q2\t0.0000\t0.0000\t1",
    )
    assert r2llm(*words).out.splitlines() == list(rows)
    assert r2llm(*words, "--json").json == {
        "metrics": {"RR@10": 0.5, "AP(rel=2)": 0.5},
        "per_query": {"q1": {"RR@10": 1.0, "AP(rel=2)": 1.0}, "q2": {"RR@10": 0.0, "AP(rel=2)": 0.0}},
    }


def test_evaluate_with_a_dataset_folder(r2llm, toy: Path) -> None:
    first, *_ = (line.split("\t") for line in (SHIPPED / "quickstart/qrels/test.tsv").read_text().splitlines()[1:])
    (toy / "some.trec").write_text(f"{first[0]} Q0 {first[1]} 1 1.0 t\n")
    done = r2llm("evaluate", "some.trec", "--dataset", SHIPPED / "quickstart", "--measure", "RR@10")
    assert done.out == "query\tRR@10\tqueries\nall\t0.0417\t24\n"  # 1 of 24
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
    assert done.out.endswith("all\t0.5000\t2\n")  # d3 comes first, as trec_eval has it
    assert "1 of 1 queries have tied scores" in done.err


def test_what_an_evaluation_leaves_out_or_counts_as_0_is_noted(r2llm, toy: Path) -> None:
    (toy / "one.trec").write_text("q1 Q0 d3 1 2 t\nq9 Q0 d1 1 2 t\n")
    (toy / "more.txt").write_text("q1 0 d3 2\nq2 0 d1 1\nq3 0 d1 1\n")
    done = r2llm("evaluate", "one.trec", "--qrels", "more.txt", "--measure", "ndcg_cut_10 map", "--json")
    assert done.json == {"metrics": {"nDCG@10": pytest.approx(1 / 3), "AP": pytest.approx(1 / 3), "Judged@10": 1 / 3}}
    assert "note: 2 of 3 judged queries have no documents in the run and count 0\n" in done.err
    assert "note: 1 of 2 queries of the run are not measured: they have no judgements here\n" in done.err
    assert "note: judgements go up to 2, and AP count 1 as relevant; AP(rel=2) would not\n" in done.err
    for command in ("retrieve", "rerank"):
        done = r2llm(command, "--config", "toy.yaml", "--set", "dataset.qrels=more.txt")
        assert "left out 1 of 3 judged queries: not in it (the first is q3)\n" in done.err


def test_evaluate_takes_the_run_of_the_configs_fingerprint_never_the_last_of_its_name(r2llm, toy: Path) -> None:
    first = r2llm("rerank", "--config", "toy.yaml", "--json").json
    last = r2llm("rerank", "--config", "toy.yaml", "--set", "first_stage.depth=1", "--json").json
    assert first["run_dir"] != last["run_dir"]
    assert r2llm("evaluate", "--config", "toy.yaml", "--json").json == {"metrics": first["metrics"]}
    of_last = r2llm("evaluate", "--config", "toy.yaml", "--set", "first_stage.depth=1", "--json")
    assert of_last.json == {"metrics": last["metrics"]}
    none = r2llm("evaluate", "--config", "toy.yaml", "--set", "first_stage.depth=2")
    assert (none.code, none.out) == (2, "")
    assert "no finished run of toy with the config's fingerprint" in none.err
    assert all(str(found["run_dir"]) in none.err for found in (first, last))
    assert r2llm("evaluate", "--config", "toy.yaml", "--output", last["run_dir"]).code == 2


def test_evaluate_a_runs_folder(r2llm, toy: Path) -> None:
    found = r2llm("rerank", "--config", "toy.yaml", "--json").json
    assert r2llm("evaluate", found["run_dir"], "--json").json == {"metrics": found["metrics"]}
    assert r2llm("evaluate", found["run_dir"], "--measure", "P@1", "--json").json == {"metrics": {"P@1": 1.0}}
    other = r2llm("evaluate", found["run_dir"], "--qrels", "qrels.txt", "--measure", "P@1", "--queries", 1, "--json")
    assert other.json == {"metrics": {"P@1": 1.0}}
    (toy / "first.yaml").write_text((toy / "toy.yaml").read_text().partition("ranker:")[0])
    retrieved = r2llm("retrieve", "--config", "first.yaml", "--json").json
    assert r2llm("evaluate", retrieved["run_dir"], "--json").json == {"metrics": retrieved["metrics"]}
    assert r2llm("evaluate", "--config", "first.yaml", "--json").json == {"metrics": retrieved["metrics"]}
    for folder in (".", "runs"):
        refused = r2llm("evaluate", folder)
        assert (refused.code, refused.err) == (2, f"error: {folder}: holds no finished run; r2llm rerank makes one\n")


def test_evaluate_and_rerank_exclude_the_same_documents(r2llm, toy: Path) -> None:
    folder = toy / "quora"
    (folder / "qrels").mkdir(parents=True)
    texts = {"1": "ants", "2": "bees", "3": "cats"}
    for name in ("corpus", "queries"):
        lines = [json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t2\t1\n2\t3\t1\n")
    (toy / "r.trec").write_text("1 Q0 1 1 3 t\n1 Q0 2 2 2 t\n2 Q0 2 1 3 t\n2 Q0 3 2 2 t\n")
    words = ("dataset: quora", "first_stage: {run: r.trec}", "evaluate: {measures: [RR]}")
    (toy / "q.yaml").write_text("\n".join(words))
    retrieved = r2llm("retrieve", "--config", "q.yaml")
    evaluated = r2llm("evaluate", "r.trec", "--dataset", "quora", "--measure", "RR")
    note = "note: 2 documents are excluded from the results of 2 queries: "
    assert note in retrieved.err
    assert note in evaluated.err
    assert "RR\t1.0000" in retrieved.out
    assert "all\t1.0000\t2" in evaluated.out
    kept = ("--config", "q.yaml", "--set", "first_stage.exclude_same_id=false")
    assert "RR\t0.5000" in r2llm("retrieve", *kept).out
    assert "all\t0.5000\t2" in r2llm("evaluate", "r.trec", *kept).out


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


@pytest.mark.parametrize("command", ["rerank", "retrieve", "merge", "check"])
@pytest.mark.parametrize(
    ("output", "told"), [("", "--output is empty"), ("mine", "mine: is not empty, and no manifest")]
)
def test_no_command_writes_into_a_folder_of_others(r2llm, toy: Path, command: str, output: str, told: str) -> None:
    (toy / "mine").mkdir()
    (toy / "mine" / "run.trec").write_text("mine")
    r2llm("rerank", "--config", "toy.yaml", "--shard", "1/1", "--output", "parts")
    words = ("--update", "--baseline", "b.json") if command == "check" else ()
    place = ("parts",) if command == "merge" else ("--config", "toy.yaml")
    done = r2llm(command, *place, *words, "--output", output)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert told in done.err
    assert [path.read_text() for path in (toy / "mine").iterdir()] == ["mine"]


def test_more_unread_answers_than_allowed_are_exit_3_after_the_result(r2llm, toy: Path) -> None:
    (toy / "texts.jsonl").write_text("".join(f'{{"query_id": "q{q}", "text": "hm"}}\n' for q in (1, 1, 1, 2, 2)))
    settings = ("--set", "model={backend: replay, answers: texts.jsonl}")
    settings += ("--set", "ranker={method: pointwise.yes_no, scoring: generation}")
    done = r2llm("rerank", "--config", "toy.yaml", *settings, "--set", "max_unparsed=0.2", "--output", "out")
    assert done.code == 3
    assert "WARNING: 5 of 5 answers (100%) could not be read" in done.out
    assert "run file: out/run.trec" in done.out
    assert "5 of 5 answers could not be read, 100.0% where max_unparsed allows 20.0%" in done.err
    shown = r2llm("show", "out")
    assert (shown.code, "WARNING: 5 of 5 answers (100%)" in shown.out) == (0, True)
    assert len(r2llm("show", "out", "--json").json["manifest"]["warnings"]) == 2
    again = r2llm("rerank", "--config", "toy.yaml", *settings, "--output", "out", "--json")
    assert (again.code, len(again.json["warnings"]), again.err.count("warning: ")) == (0, 2, 2)
