"""`r2llm ledger export|info|verify`."""

from __future__ import annotations

import hashlib
from pathlib import Path


def test_export_info_verify_and_a_replay(r2llm, toy: Path) -> None:
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "out").code == 0
    info = r2llm("ledger", "info", "out/ledger.sqlite", "--json").json
    assert info.keys() >= {"models", "answers", "queries", "prompt_tokens", "completion_tokens", "bytes", "content"}
    assert info["models"][0]["backend"] == "simulated"
    done = r2llm("ledger", "export", "out/ledger.sqlite", "l.jsonl")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"l.jsonl: {info['answers']} answers, ")
    assert hashlib.sha256(Path("l.jsonl").read_bytes()).hexdigest() == info["content"]
    assert r2llm("ledger", "export", "out/ledger.sqlite", "l.sqlite").code == 0
    assert r2llm("ledger", "verify", "l.sqlite").out == "l.sqlite: sound\n"
    replay = ("--set", "model={backend: replay, answers: l.sqlite}", "--output", "again")
    assert r2llm("rerank", "--config", "toy.yaml", *replay).code == 0
    assert Path("again/run.trec").read_bytes() == Path("out/run.trec").read_bytes()


def test_info_for_people(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    facts = dict(line.split("\t") for line in r2llm("ledger", "info", "out/ledger.sqlite").out.splitlines())
    assert '"backend": "simulated"' in facts["model"]
    assert facts["prompt tokens"] == "-"


def test_a_damaged_ledger_is_exit_1(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    path = Path("out/ledger.sqlite")
    path.write_bytes(path.read_bytes()[:-5000])
    done = r2llm("ledger", "verify", path)
    assert (done.code, done.err) == (1, "")
    found = r2llm("ledger", "verify", path, "--json")
    assert (found.code, found.json["ok"]) == (1, False)
    assert r2llm("ledger", "export", path, "l.sqlite").code == 2


def test_what_is_no_ledger_is_exit_2(r2llm, toy: Path) -> None:
    for words in (("export", "none.sqlite", "l.jsonl"), ("info", "none.sqlite"), ("verify", "none.sqlite")):
        done = r2llm("ledger", *words)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert r2llm("ledger", "info", "toy.yaml").code == 2
