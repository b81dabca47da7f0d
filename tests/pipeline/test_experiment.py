"""An experiment from config to metrics: its files, its fingerprint, its folder."""

from __future__ import annotations

import dataclasses
import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from r2llm.pipeline import experiment
from r2llm.pipeline import inspect as inspection
from r2llm.pipeline import shards as merging
from r2llm.pipeline import verify as verification
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import manifest as manifests
from r2llm.pipeline.run import read as record
from r2llm.pipeline.run.folder import RunFolder
from r2llm.pipeline.run.read import Run
from r2llm.pipeline.run.shards import Shard
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.errors import InputError, StoppedError

Write = Callable[[str, str], Path]

FILES = {
    *("config.yaml", "first_stage.trec", "run.trec", "costs.jsonl", "metrics.json", "manifest.json"),
    *("ledger.sqlite", "ir-metadata.yml"),
}
COST = {
    *("query_id", "asks", "calls", "cached", "rounds", "comparisons"),
    *("prompt_tokens", "completion_tokens", "unparsed", "seconds", "flops", "usd"),
}


def rerank(heard, *settings: str, name: str = "toy.yaml", output: Path | None = None) -> Run:
    return experiment.rerank(config.load(name, settings), output, heard)


def manifest(outcome: Run) -> dict[str, Any]:
    return json.loads((outcome.run_dir / "manifest.json").read_text())


def fingerprint(heard, *settings: str, name: str = "toy.yaml") -> str:
    return str(manifest(rerank(heard, *settings, name=name))["fingerprint"])


def costs(outcome: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (outcome.run_dir / "costs.jsonl").read_text().splitlines()]


# Files


def test_the_files_of_a_run(toy: Path, heard) -> None:
    outcome = rerank(heard)
    assert outcome.run_dir.parent == Path("runs")
    assert outcome.run_dir.name == f"toy-{manifest(outcome)['fingerprint'][:8]}"
    assert {path.name for path in outcome.run_dir.iterdir()} - {".lock"} == FILES
    assert outcome.run_file == outcome.run_dir / "run.trec"
    assert {path.name for path in toy.iterdir()} == {
        *("docs.jsonl", "queries.tsv", "qrels.txt", "bm25.trec", "toy.yaml", "runs")
    }


def test_the_run_file(toy: Path, heard) -> None:
    rows = [line.split(" ") for line in rerank(heard).run_file.read_text().splitlines()]
    assert all(len(row) == 6 and row[1] == "Q0" and row[5] == "toy" for row in rows)
    by_query = {query: [row for row in rows if row[0] == query] for query in ("q1", "q2", "q3")}
    assert [row[0] for row in rows] == ["q1"] * 4 + ["q2"] * 2 + ["q3"] * 2
    for found in by_query.values():
        assert [int(row[3]) for row in found] == list(range(1, len(found) + 1))
        scores = [float(row[4]) for row in found]
        assert all(a > b for a, b in pairwise(scores))
    assert sorted(row[2] for row in by_query["q1"]) == ["d1", "d2", "d3", "d4"]


def test_the_first_stage_is_copied_as_it_was_presented_to_the_evaluator(toy: Path, heard) -> None:
    copied = (rerank(heard).run_dir / "first_stage.trec").read_text().splitlines()
    assert copied[:2] == ["q1 Q0 d1 1 9.0 toy", "q1 Q0 d2 2 8.0 toy"]
    assert len(copied) == 8


def test_costs_a_query(toy: Path, heard) -> None:
    outcome = rerank(heard)
    rows = costs(outcome)
    assert [row["query_id"] for row in rows] == ["q1", "q2", "q3"]
    for row in rows:
        assert row.keys() == COST
        assert row["asks"] == row["calls"] + row["cached"] == row["comparisons"]
        assert (row["prompt_tokens"], row["completion_tokens"]) == (None, None)
        assert (row["seconds"] is None) == (row["cached"] > 0)
    assert outcome.costs.keys() == COST - {"query_id"}
    assert outcome.costs["asks"]["total"] == sum(row["asks"] for row in rows)
    with closing(sqlite3.connect(outcome.run_dir / "ledger.sqlite")) as ledger:
        assert ledger.execute("SELECT count(*) FROM replies").fetchone() == (sum(row["calls"] for row in rows),)


def test_metrics(toy: Path, heard) -> None:
    outcome = rerank(heard, "model.answers=oracle")
    found = json.loads((outcome.run_dir / "metrics.json").read_text())
    assert found["all"] == {"nDCG@10": 1.0, "Judged@10": pytest.approx(0.5)}
    assert found["per_query"].keys() == {"q1", "q2", "q3"}
    assert found["first_stage"]["all"]["nDCG@10"] < 1
    assert outcome.metrics is not None
    assert outcome.metrics.mean == found["all"]


def test_without_judgements_there_are_no_metrics(toy: Path, write: Write, heard) -> None:
    text = (toy / "toy.yaml").read_text().replace(", qrels: qrels.txt", "")
    write("bare.yaml", text)
    outcome = rerank(heard, name="bare.yaml")
    assert outcome.metrics is None
    assert not (outcome.run_dir / "metrics.json").exists()
    with pytest.raises(InputError, match="oracle answers from relevance judgements, but the dataset has no qrels"):
        rerank(heard, "model.answers=oracle", name="bare.yaml")


def test_judgements_of_other_queries_are_refused_before_anything_is_written(toy: Path, write: Write, heard) -> None:
    write("qrels.txt", "q9 0 d1 1\n")
    with pytest.raises(InputError, match="none of the queries has relevance judgements"):
        rerank(heard)
    with pytest.raises(InputError, match="none of the queries has relevance judgements"):
        experiment.retrieve_only(config.load("toy.yaml"), None, heard)
    write("qrels.txt", "q1 0 d1 1\n")
    with pytest.raises(InputError, match="cannot measure"):
        rerank(heard, "evaluate.measures=[alpha_nDCG@10]")
    assert not (toy / "runs").exists()


def test_a_query_without_candidates_counts_zero(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q1 Q0 d3 1 2 t\nq1 Q0 d1 2 1 t\n")
    outcome = rerank(heard, "model.answers=oracle")
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == pytest.approx(1 / 3)
    assert outcome.queries == 1


def test_the_manifest_says_what_and_with_what(toy: Path, heard) -> None:
    found = manifest(rerank(heard))
    assert (found["name"], found["status"], found["simulated"]) == ("toy", "finished", True)
    assert found["experiment"].keys() == {"first_stage", "ranker", "model", "seed"}
    assert found["environment"]["packages"].keys() >= {"r2llm", "torch", "transformers", "pyserini", "ir-measures"}
    assert re.fullmatch(r"[0-9a-f]{64}", found["fingerprint"])


def test_a_run_file_with_a_lost_document_cannot_be_written(toy: Path) -> None:
    from r2llm.pipeline.run import runfile

    with pytest.raises(InputError, match="candidate d2 is lost"):
        runfile.write(toy / "r.trec", {"q": ["d1"]}, {"q": ["d1", "d2"]}, "t")


# Reproducing


def test_the_config_in_the_folder_runs_to_the_same_result(toy: Path, heard, monkeypatch) -> None:
    first = rerank(heard, "seed=3", "queries.limit=2", output=toy / "elsewhere" / "run")
    written = yaml.safe_load((first.run_dir / "config.yaml").read_text())
    assert (written["name"], written["seed"], written["queries"]["limit"]) == ("toy", 3, 2)
    assert str(toy) not in (first.run_dir / "config.yaml").read_text()  # its paths lead from where it lies
    monkeypatch.chdir("/")
    again = rerank(heard, name=str(first.run_dir / "config.yaml"), output=toy / "again")
    assert manifest(again)["fingerprint"] == manifest(first)["fingerprint"]
    assert again.run_file.read_bytes() == first.run_file.read_bytes()


def test_the_config_in_the_folder_finds_files_without_a_suffix(toy: Path, heard, monkeypatch) -> None:
    for old, new in (("bm25.trec", "bm25"), ("qrels.txt", "qrels"), ("queries.tsv", "queries")):
        (toy / old).rename(toy / new)
    settings = ["first_stage.run=bm25", "dataset.qrels=qrels", "dataset.queries=queries"]
    first = rerank(heard, *settings, output=toy / "one")
    monkeypatch.chdir("/")
    again = rerank(heard, name=str(first.run_dir / "config.yaml"), output=toy / "two")
    assert manifest(again)["fingerprint"] == manifest(first)["fingerprint"]


def test_the_same_again_asks_nothing_and_changes_nothing(toy: Path, heard) -> None:
    first = rerank(heard)
    before = {path.name: path.read_bytes() for path in first.run_dir.iterdir()}
    again = rerank(heard)
    assert (first.executed, again.executed) == (True, False)
    assert dataclasses.replace(again, executed=True) == first
    assert {path.name: path.read_bytes() for path in first.run_dir.iterdir()} == before


def files(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name not in ("manifest.json", ".lock")}


@pytest.mark.parametrize("lost", ["run.trec", "costs.jsonl", "first_stage.trec", "config.yaml", "metrics.json"])
@pytest.mark.parametrize("schedule", ["throughput", "latency"])
def test_what_is_missing_is_made_again_without_asking(toy: Path, heard, lost: str, schedule: str) -> None:
    first = rerank(heard, f"schedule={schedule}")
    before = files(first.run_dir)
    (first.run_dir / lost).unlink()
    again = rerank(heard, f"schedule={schedule}")
    after = files(again.run_dir)
    assert {name for name in before if after.get(name) != before[name]} <= {"ledger.sqlite", "ir-metadata.yml"}
    assert again.costs == first.costs
    assert again.manifest.wall_seconds == first.manifest.wall_seconds
    assert [each["calls"] for each in manifest(again)["executions"]][1:] in ([], [0])
    assert {check.state for check in verification.verify(again.run_dir, heard)} == {"agrees"}


def test_a_measure_that_is_added_keeps_the_costs(toy: Path, heard) -> None:
    first = rerank(heard)
    more = rerank(heard, "evaluate.measures=[nDCG@10, RR]")
    assert (more.costs, more.manifest.wall_seconds) == (first.costs, first.manifest.wall_seconds)
    assert more.metrics is not None
    assert more.metrics.mean["RR"] == pytest.approx(2 / 3)
    assert [each["calls"] == 0 for each in manifest(more)["executions"]] == [False, True]
    assert {check.state for check in verification.verify(more.run_dir, heard)} == {"agrees"}
    assert rerank(heard, "evaluate.measures=[nDCG@10, RR]").metrics == more.metrics


def test_a_finished_run_can_be_timed_and_keeps_its_latencies(toy: Path, heard) -> None:
    rerank(heard, output=toy / "out")
    timed = rerank(heard, "schedule=latency", output=toy / "out")
    assert (timed.executed, timed.manifest.schedule) == (True, "latency")
    assert timed.costs["seconds"]["queries"] == 3
    again = rerank(heard, output=toy / "out")
    assert (again.executed, again.manifest.schedule, again.costs) == (False, "latency", timed.costs)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE replies SET scores = '[0.0, -9.0]' WHERE key = (SELECT min(key) FROM replies)",
        "UPDATE replies SET query_id = 'q9'",
        "UPDATE replies SET checksum = checksum + 1, text = 'A' WHERE key = (SELECT max(key) FROM replies)",
        "DELETE FROM replies WHERE key = (SELECT min(key) FROM replies)",
        "INSERT INTO replies (key, query_id, text) VALUES (x'00', 'q1', 'A')",
        "DROP TABLE replies",
    ],
)
def test_a_ledger_that_was_changed_is_not_laundered(toy: Path, heard, change: str) -> None:
    run_dir = rerank(heard).run_dir
    with closing(sqlite3.connect(run_dir / "ledger.sqlite")) as ledger:
        ledger.execute(change)
        ledger.commit()
    before = files(run_dir)
    for settings in ((), ("evaluate.measures=[RR]",), ("schedule=latency",)):
        with pytest.raises(
            InputError, match=r"ledger\.sqlite: (was changed since the run was finished|cannot be opened)"
        ):
            rerank(heard, *settings)
    (run_dir / "run.trec").unlink()
    with pytest.raises(InputError, match=r"ledger\.sqlite: "):
        rerank(heard)
    assert files(run_dir) == {name: content for name, content in before.items() if name != "run.trec"}


@pytest.mark.parametrize("name", ["run.trec", "costs.jsonl", "metrics.json", "config.yaml"])
def test_no_other_file_that_was_changed_is_taken_for_the_runs(toy: Path, heard, name: str) -> None:
    run_dir = rerank(heard).run_dir
    lines = (run_dir / name).read_text().splitlines(keepends=True)
    (run_dir / name).write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=rf"{re.escape(name)}: was changed since the run was finished; r2llm verify"):
        rerank(heard)


def test_another_runs_ledger_or_a_cut_one_is_refused(toy: Path, heard) -> None:
    run_dir, other = rerank(heard).run_dir, rerank(heard, "ranker.k=1").run_dir
    whole = (run_dir / "ledger.sqlite").read_bytes()
    for content in ((other / "ledger.sqlite").read_bytes(), whole[:5000], b"", b"no database"):
        (run_dir / "ledger.sqlite").write_bytes(content)
        with pytest.raises(InputError, match=r"ledger.*sqlite: ") as raised:
            rerank(heard)
        assert "\n" not in str(raised.value)


def test_it_does_not_matter_where_the_files_lie(toy: Path, heard, monkeypatch) -> None:
    here = fingerprint(heard)
    moved = toy / "moved"
    moved.mkdir()
    for path in [path for path in toy.iterdir() if path.is_file()]:
        path.rename(moved / path.name)
    monkeypatch.chdir(moved)
    assert fingerprint(heard) == here


# Fingerprint

SAME = [
    "schedule=latency",
    "evaluate.measures=[AP]",
    "name=other",
    "expected={nDCG@10: {value: 0.1, tolerance: 0.1, source: s}}",
    "model={device: cpu, batch_size: 4}",  # keys of another backend
    "ranker={method: setwise.heapsort, k: 3, num_child: 2, passage_tokens: 128}",  # the defaults, spelt out
    "dataset.qrels=other_qrels.txt",
]
OTHER = [
    "ranker.method=setwise.bubblesort",
    "ranker.k=2",
    "ranker.num_child=3",
    "ranker.passage_tokens=64",
    "ranker.query_tokens=64",
    "ranker.scoring=generation",
    "ranker.on_unparsed=fail",
    "ranker.prompt=mine.yaml",
    "seed=1",
    "first_stage.depth=3",
    "first_stage.order=inverse",
    "first_stage.run=other.trec",
    "queries.limit=2",
    "model.answers=hash",
]


def test_what_changes_the_fingerprint(toy: Path, write: Write, heard) -> None:
    prompts = Path(config.SHIPPED).parent / "rerankers" / "prompts"
    write("mine.yaml", (prompts / "setwise.yaml").read_text().replace("most relevant one", "best one"))
    write("same.yaml", (prompts / "setwise.yaml").read_text())
    write("other.trec", (toy / "bm25.trec").read_text().replace("8.0", "8.5"))
    write("other_qrels.txt", "q1 0 d2 1\nq2 0 d5 1\nq3 0 d1 1\n")
    usual = fingerprint(heard)
    assert {setting for setting in [*SAME, "ranker.prompt=same.yaml"] if fingerprint(heard, setting) != usual} == set()
    found = {setting: fingerprint(heard, setting) for setting in OTHER}
    assert len({usual, *found.values()}) == len(OTHER) + 1, found


def test_judgements_change_an_oracles_answers(toy: Path, write: Write, heard) -> None:
    write("other_qrels.txt", "q1 0 d2 1\nq2 0 d5 1\nq3 0 d1 1\n")
    usual = fingerprint(heard, "model.answers=oracle")
    assert fingerprint(heard, "model.answers=oracle", "dataset.qrels=other_qrels.txt") != usual


def test_the_content_of_the_documents_is_part_of_the_experiment(toy: Path, write: Write, heard) -> None:
    usual = fingerprint(heard)
    write("docs.jsonl", (toy / "docs.jsonl").read_text().replace("flour", "yeast"))
    assert fingerprint(heard) != usual


# The folder


def test_a_folder_of_another_experiment_is_refused_and_left_alone(toy: Path, heard) -> None:
    first = rerank(heard, output=toy / "out")
    before = {path.name: path.read_bytes() for path in first.run_dir.iterdir()}
    with pytest.raises(InputError, match=r"out: holds another experiment \(toy, fingerprint [0-9a-f]{8}\); give anoth"):
        rerank(heard, "seed=5", output=toy / "out")
    assert {path.name: path.read_bytes() for path in first.run_dir.iterdir()} == before
    rerank(heard, output=toy / "out")  # the same one is welcome


@pytest.mark.parametrize("there", ["run.trec", "notes.txt", ".gitignore", "config.yaml", "sub/anything"])
@pytest.mark.parametrize("how", ["rerank", "retrieve", "shard"])
def test_a_folder_that_is_not_empty_and_holds_no_run_is_refused(toy: Path, heard, write, there: str, how: str) -> None:
    write(f"mine/{there}", "mine")
    shard = (Shard(1, 2),) if how == "shard" else ()
    run = experiment.retrieve_only if how == "retrieve" else experiment.rerank
    with pytest.raises(InputError, match=r"mine: is not empty, and no manifest\.json says that") as raised:
        run(config.load("toy.yaml"), toy / "mine", heard, *shard)
    assert Path(there).parts[0] in str(raised.value)
    assert [path.relative_to("mine") for path in Path("mine").rglob("*") if path.is_file()] == [Path(there)]


def test_a_file_that_the_manifest_does_not_list_is_not_written_over(toy: Path, heard, write) -> None:
    write("unjudged.yaml", "extends: toy.yaml\ndataset: {docs: docs.jsonl, queries: queries.tsv, qrels: null}\n")
    rerank(heard, name="unjudged.yaml", output=toy / "out")
    write("out/metrics.json", "mine")
    with pytest.raises(InputError, match=r"out: is not empty, and no manifest\.json says that metrics\.json"):
        rerank(heard, output=toy / "out")
    assert Path("out/metrics.json").read_text() == "mine"


def test_what_a_killed_process_left_half_written_is_cleared_away(toy: Path, heard, write) -> None:
    for name in (".run.trec.4711.tmp", ".ledger.sqlite.tmp"):
        write(f"out/{name}", "half")
    write("out/.mine.tmp", "mine")
    with pytest.raises(InputError, match="is not empty"):
        rerank(heard, output=toy / "out")
    Path("out/.mine.tmp").unlink()
    outcome = rerank(heard, output=toy / "out")
    assert not list(outcome.run_dir.glob(".*.tmp"))


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(InputError, match="another process is at work on this run; wait for it, or stop it")
    with RunFolder(tmp_path / "run", "f"), refused:
        RunFolder(tmp_path / "run", "f")
    with RunFolder(tmp_path / "run", "f"):
        pass


def test_a_file_in_the_way_and_a_broken_manifest_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be used as a run's folder"):
        RunFolder(tmp_path / "file", "f")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: is no manifest of a run, or damaged"):
        RunFolder(tmp_path / "run", "f")
    for strange in ("[]", "{}", '"run"', '{"name": "an app", "icons": []}'):
        (tmp_path / "run" / "manifest.json").write_text(strange)
        with pytest.raises(InputError, match=r"manifest\.json: is no manifest of a run, or damaged: "):
            RunFolder(tmp_path / "run", "f")


def test_secrets_of_the_environment_reach_no_file(toy: Path, heard, monkeypatch) -> None:
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "sk-very-secret")
    run_dir = rerank(heard).run_dir
    assert not [path.name for path in run_dir.iterdir() if b"sk-very-secret" in path.read_bytes()]


# Published figures


def test_published_figures_go_with_the_published_settings_only(toy: Path, write: Write, heard) -> None:
    figure = "expected: {nDCG@10: {value: 0.5, tolerance: 0.1, source: a paper}}\n"
    write("paper.yaml", f"extends: toy.yaml\n{figure}")
    assert rerank(heard, name="paper.yaml").expected["nDCG@10"].value == 0.5
    assert rerank(heard, "evaluate.measures=[AP(rel=2)]", "name=mine", name="paper.yaml").expected
    assert heard.notes == []
    assert rerank(heard, "ranker.k=2", name="paper.yaml").expected == {}
    assert heard.notes == [
        "expected figures are skipped: --set or --queries changed the experiment they belong to",
    ]


# Retrieving alone


def test_retrieving_alone(toy: Path, heard) -> None:
    outcome = experiment.retrieve_only(config.load("toy.yaml"), None, heard)
    assert {path.name for path in outcome.run_dir.iterdir()} - {".lock"} == {
        *("config.yaml", "first_stage.trec", "metrics.json", "manifest.json", "ir-metadata.yml")
    }
    assert outcome.run_file.name == "first_stage.trec"
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] < 1
    assert outcome.run_dir != rerank(heard).run_dir


# Doubtful results


def mumble(heard, write: Write, texts: list[str], *settings: str, again: bool = False) -> Run:
    """Rank q2's two documents and q3's by recorded texts."""
    queries = ["q2", "q2", "q3", "q3"]
    rows = [json.dumps({"query_id": query, "text": text}) for query, text in zip(queries, texts, strict=True)]
    write("texts.jsonl", "\n".join(rows) + "\n")
    model = "model={backend: replay, answers: texts.jsonl}"
    ranker = "ranker={method: pointwise.yes_no, scoring: generation}"
    return rerank(heard, model, ranker, "queries.ids=[q2, q3]", *settings)


def test_above_five_per_cent_unread_answers_a_run_warns_and_its_manifest_keeps_the_warning(
    toy: Path, write: Write, heard
) -> None:
    outcome = mumble(heard, write, ["Yes", "No", "Yes", "hm, \x1b[2J"])
    [warning] = outcome.manifest.warnings
    assert warning.startswith(
        "1 of 4 answers (25%) could not be read, so the measures say little about the model; most"
    )
    assert "most often score: no_label (1), for example 'hm, \\x1b[2J'" in warning
    assert manifest(outcome)["warnings"] == [warning]
    assert inspection.story(outcome.run_dir, "q2")["warnings"] == [warning]
    again = mumble(heard, write, ["Yes", "No", "Yes", "hm, \x1b[2J"])
    assert (again.executed, again.manifest.warnings) == (False, [warning])


@pytest.mark.parametrize(("most", "refused"), [(0.2, True), (0.25, False), (0, True), (1, False)])
def test_more_unread_answers_than_allowed_are_a_refusal_with_everything_kept(
    toy: Path, write: Write, heard, most: float, refused: bool
) -> None:
    outcome = mumble(heard, write, ["Yes", "No", "No", "hm"], f"max_unparsed={most}")
    assert (outcome.refusal is not None) == refused
    assert outcome.run_file.is_file()
    assert manifest(outcome)["status"] == "finished"
    assert fingerprint(heard, "max_unparsed=0.1") == fingerprint(heard)


def test_a_query_whose_documents_all_have_one_score_is_warned_of(toy: Path, write: Write, heard) -> None:
    outcome = mumble(heard, write, ["Yes", "No", "Yes", "Yes"])
    [warning] = outcome.manifest.warnings
    assert warning.startswith("all documents of a query got one and the same score in 1 of 2 queries")
    assert mumble(heard, write, ["Yes", "No", "No", "Yes"]).manifest.warnings == []


def test_notes_are_kept_in_the_manifest_without_the_folders_in_them(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q1 Q0 d3 1 2 t\nq1 Q0 d1 2 1 t\n")
    outcome = rerank(heard, "model.device=cpu")
    assert manifest(outcome)["notes"][-1] in heard.notes
    assert any("2 of 3 queries" in note for note in manifest(outcome)["notes"])
    assert manifests.without_folders("see /home/ada/runs/x.trec: odd") == "see x.trec: odd"


# Stopping


class Stopped(simulated.Simulated):
    """A simulated model whose user loses patience after so many answers."""

    left = 0

    def collect(self):
        if Stopped.left <= 0:
            raise KeyboardInterrupt
        taken = self.take(1)
        Stopped.left -= 1
        return [(request, self._reply(request)) for request in taken]


@pytest.mark.parametrize("shard", [None, Shard(1, 1)])
def test_ctrl_c_says_what_was_kept_and_which_command_goes_on(toy: Path, heard, monkeypatch, shard) -> None:
    monkeypatch.setattr(simulated, "Simulated", Stopped)
    Stopped.left = 6
    command = "r2llm rerank --config {} --output out{}"
    place, more = ("out/shard-1-of-1", " --shard 1/1") if shard else ("out", "")
    with pytest.raises(StoppedError) as raised:
        experiment.rerank(config.load("toy.yaml", ["schedule=latency"]), Path("out"), heard, shard)
    assert str(raised.value) == (
        f"stopped; 6 answers are kept in {place}; queries finished: 2; to go on, run "
        + command.format(f"{place}/config.yaml", more)
    )
    Stopped.left = 1000
    outcome = experiment.rerank(config.load(f"{place}/config.yaml"), Path("out"), heard, shard)
    assert manifest(outcome)["executions"][0]["calls"] == 6


def test_latencies_of_finished_queries_survive_a_kill(toy: Path, heard, monkeypatch) -> None:
    """q1 takes five answers, q2 and q3 one each: the second query is cut off."""
    whole = rerank(heard, "schedule=latency", output=toy / "whole")
    monkeypatch.setattr(simulated, "Simulated", Stopped)
    Stopped.left = 5
    with pytest.raises(StoppedError):
        rerank(heard, "schedule=latency", output=toy / "cut")
    Stopped.left = 2
    with closing(sqlite3.connect(toy / "cut" / "ledger.sqlite")) as ledger:
        [(query, kept)] = ledger.execute("SELECT * FROM finished").fetchall()
    resumed = rerank(heard, "schedule=latency", output=toy / "cut")
    assert Stopped.left == 0
    rows = {row["query_id"]: row for row in costs(resumed)}
    assert (query, rows["q1"]) == ("q1", {key: value for key, value in json.loads(kept).items() if key != "schedule"})
    assert [row["calls"] for row in rows.values()] == [row["calls"] for row in costs(whole)] == [5, 1, 1]
    assert None not in [row["seconds"] for row in rows.values()]
    assert resumed.run_file.read_bytes() == whole.run_file.read_bytes()


def test_a_query_that_was_cut_off_in_the_pool_has_no_time_and_the_mean_says_over_how_many_it_is(
    toy: Path, heard, monkeypatch
) -> None:
    monkeypatch.setattr(simulated, "Simulated", Stopped)
    Stopped.left = 5
    with pytest.raises(StoppedError):
        rerank(heard)
    Stopped.left = 2
    resumed = rerank(heard)
    rows = costs(resumed)
    assert [(row["asks"], row["calls"], row["cached"]) for row in rows] == [(5, 5, 0), (1, 1, 0), (1, 1, 0)]
    timed = [row["seconds"] for row in rows if row["seconds"] is not None]
    assert len(timed) < 3
    assert resumed.costs["seconds"]["queries"] == len(timed)
    assert resumed.costs["calls"]["queries"] == 3
    assert [each["calls"] for each in manifest(resumed)["executions"]] == [5, 2]


@pytest.mark.parametrize("command", ["show", "verify", "merge", "inspect"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"{"),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b'{"name": "x", "fingerprint": "f", "status": "finished", "executions": 5}'),
        ("manifest.json", b"\xff\xfe"),
        ("costs.jsonl", b'{"query_id": "q1", "asks": "many"}\n'),
        ("costs.jsonl", b"[]\n"),
        ("metrics.json", b'{"all": {"nDCG@10": "high"}, "per_query": {}}'),
        ("metrics.json", b"[1]"),
        ("ledger.sqlite", b"SQLite format 3\0 and then nothing"),
    ],
)
def test_malformed_files_are_one_line(toy: Path, heard, command: str, name: str, content: bytes) -> None:
    run_dir = rerank(heard).run_dir
    (run_dir / name).write_bytes(content)
    commands = {
        "show": lambda: record.read(run_dir),
        "verify": lambda: verification.verify(run_dir, heard),
        "merge": lambda: merging.merge([run_dir], None, heard),
        "inspect": lambda: inspection.story(run_dir, "q1"),
    }
    try:
        commands[command]()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - some commands report it instead
    with pytest.raises(InputError, match=re.escape(name)):
        rerank(heard)
