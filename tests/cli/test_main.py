"""Errors as one line and an exit code, and data that tries to steer the terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from r2llm.pipeline.run import read as record

HOSTILE = "\x1b]0;title\x07\x1b[31m\x9b2J\x7f\u202e\u2028[red]:smile:"
"""What would set a terminal's title, clear it, turn it right to left, and end a line."""

STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def raising(error: BaseException):
    def fail(*_: object) -> None:
        raise error

    return fail


def test_what_nobody_foresaw_is_one_line_and_exit_4(r2llm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "read", raising(KeyError("a\nb\x1b")))
    done = r2llm("show", "run")
    assert (done.code, done.out, done.err.count("\n")) == (4, "", 1)
    assert done.err.startswith("error: this is a fault of r2llm: KeyError: ")
    assert "--debug shows the traceback" in done.err
    for words in (("show", "run", "--debug"), ("--debug", "show", "run")):
        told = r2llm(*words)
        assert (told.code, "Traceback (most recent call last)" in told.err) == (4, True)
        assert "\x1b" not in told.err


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device", "out/x"), 2)]
)
def test_what_is_no_fault_of_r2llm(r2llm, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    monkeypatch.setattr(record, "read", raising(error))
    done = r2llm("show", "run")
    assert done.code == code
    assert "fault of r2llm" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "words",
    [
        ("show", "x" * 5000),
        ("rerank", "--config", "x" * 5000),
        ("rerank", "--config", "quickstart.yaml", "--set", f"{'a.' * 3000}a=1"),
        ("rerank", "--config", "quickstart.yaml", "--set", f"seed={'9' * 5000}"),
        ("rerank", "--config", "quickstart.yaml", "--set", f"ranker={'[' * 3000}{']' * 3000}"),
        ("rerank", "--config", "quickstart.yaml", "--queries", "9" * 400),
        ("rerank", "--config", "quickstart.yaml", "--set", "name=\udcff"),
        ("rerank", "--config", "quickstart.yaml", "--output", "x" * 5000, "--quiet"),
        ("evaluate", "\udcff", "--qrels", "\udcff"),
    ],
)
def test_odd_words_are_the_users_mistake(r2llm, words: tuple[str, ...]) -> None:
    done = r2llm(*words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err


def shell(line: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "R2LLM": f"{sys.executable} -m r2llm.cli.main", **more}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$R2LLM list methods > /dev/full", 2, "error: standard output cannot be written: No space left on device\n"),
        ("$R2LLM list methods --json > /dev/full", 2, "error: standard output cannot be written: "),
        ("$R2LLM list methods >&-", 2, "error: standard output is closed; "),
        ("$R2LLM show nowhere 2>&-", 2, ""),
        ("$R2LLM show nowhere 2> /dev/full", 2, ""),
        ("$R2LLM list methods | head -1 > /dev/null; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_a_standard_stream_that_cannot_be_written(line: str, code: int, said: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_an_ascii_terminal_gets_escapes(environment: dict[str, str]) -> None:
    done = shell("$R2LLM list methods", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\\xbd" in done.stdout


@pytest.fixture
def hostile(tmp_path: Path) -> str:
    """The id of the only query of `toy.yaml`, in a folder whose every id, text and name is hostile."""
    id_ = HOSTILE.replace("\u2028", "")  # a line separator is white space, which no identifier has
    query = f"q{id_}"
    docs = [
        {"docid": f"d{number}{id_}", "text": f"text {HOSTILE}", "title": HOSTILE, "score": 3 - number}
        for number in range(3)
    ]
    (tmp_path / "c.jsonl").write_text(json.dumps({"qid": query, "query": f"hello {HOSTILE}", "docs": docs}))
    (tmp_path / "qrels.txt").write_text(f"{query} 0 d2{id_} 1\n")
    (tmp_path / "toy.yaml").write_text(
        "dataset: {candidates: c.jsonl, qrels: qrels.txt}\nranker: {method: setwise.heapsort}\n"
        "model: {backend: simulated, answers: oracle}\n"
    )
    return query


def test_nothing_in_data_steers_the_terminal(r2llm, hostile: str) -> None:
    config = ("--config", "toy.yaml")
    for words in [
        ("rerank", *config, "--output", "run"),
        ("show", "run"),
        ("inspect", "run", "--query", hostile, "--prompts"),
        ("inspect", "run", "--query", f"no {HOSTILE}"),
        ("prompt", *config, "--query", hostile),
        ("prompt", *config, "--query", HOSTILE),
        ("estimate", *config),
        ("evaluate", "run/run.trec", *config, "--per-query"),
        ("evaluate", HOSTILE, *config),
        ("check", *config, "--baseline", "b.json", "--update"),
        ("check", *config, "--baseline", "b.json", "--set", "model={backend: simulated, answers: hash}"),
        ("rerank", *config, "--set", f"ranker.method={HOSTILE}"),
        ("rerank", *config, "--set", f"{HOSTILE}=1"),
        ("ledger", "info", "run/ledger.sqlite"),
        ("verify", "run"),
        ("list", HOSTILE),
        (HOSTILE,),
        ("show", f"--{HOSTILE}"),
    ]:
        done = r2llm(*words)
        assert done.code == (2 if HOSTILE in " ".join(words) else "hash" in " ".join(words)), done.err
        assert not STEERING.search(done.out + done.err), words
    for words in [
        ("rerank", *config, "--output", "run", "--json"),
        ("show", "run", "--json"),
        ("inspect", "run", "--query", hostile, "--prompts", "--json"),
        ("prompt", *config, "--query", hostile, "--json"),
        ("evaluate", "run/run.trec", *config, "--per-query", "--json"),
    ]:
        done = r2llm(*words)
        assert not STEERING.search(done.out), words
        assert json.loads(done.out)
    assert hostile in r2llm("inspect", "run", "--query", hostile, "--json").json["query"]["id"]
