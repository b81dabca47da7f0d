"""`r2llm verify`: its exit codes and what it prints."""

from __future__ import annotations

from pathlib import Path


def test_a_whole_run_is_exit_0(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    done = r2llm("verify", "out")
    assert (done.code, done.err) == (0, "")
    *checks, last = done.out.splitlines()
    assert all(line.startswith("agrees\t") for line in checks)
    assert last == f"out: {len(checks)} checks agree, 0 differ, 0 could not be made"


def test_a_flipped_byte_is_exit_1_and_the_file_is_named(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    path = Path("out/ir-metadata.yml")
    path.write_bytes(path.read_bytes()[:-2] + b"0\n")
    done = r2llm("verify", "out", "--quiet")
    assert done.code == 1
    (line,) = [line for line in done.out.splitlines() if line.startswith("differs")]
    assert line.startswith("differs\tir-metadata.yml\tsha256: ")
    assert ", 1 differ, 0 could not be made" in done.out.splitlines()[-1]


def test_what_could_not_be_checked_is_said_and_is_no_failure(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    (toy / "qrels.txt").unlink()
    done = r2llm("verify", "out")
    assert done.code == 0
    assert "not checked\tmetrics.json\tmeasures: dataset: no ../qrels.txt" in done.out


def test_json_is_one_object(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    found = r2llm("verify", "out", "--json").json
    assert (found["run_dir"], found["ok"]) == ("out", True)
    assert found["checks"][0] == {"file": "manifest.json", "what": "content", "state": "agrees", "detail": ""}
    Path("out/run.trec").unlink()
    done = r2llm("verify", "out", "--json")
    assert done.code == 1
    assert done.json["ok"] is False


def test_no_run_is_exit_2(r2llm, toy: Path) -> None:
    done = r2llm("verify", "nowhere")
    assert (done.code, done.out) == (2, "")
    assert done.err == ("error: nowhere: no run's folder: there is no manifest.json in it; r2llm rerank makes one\n")
