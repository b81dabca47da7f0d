"""A new backend is one file: its paths, price and tokenizer are known to every command without an edit elsewhere."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import r2llm

BACKEND = '''\
"""Picks the passage with the most words of a list."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ..answers.reading import Reply
from ..marks import PathMark, Speed
from ..prices import Price
from ._tokens.tokens import Tokens
from .base import Backend, ModelOptions


class Options(ModelOptions):
    """Keys of the `model` section."""

    words: Annotated[str, PathMark("named file")] = Field(description="a file of words")
    tokenizer: Annotated[str, PathMark("folder")] = Field(description="a tokenizer's folder")
    haste: Speed[int] = Field(1, description="changes nothing")


class Counting(Backend):
    price = Price(prompt=1.0, completion=10.0)

    def __init__(self, options):
        super().__init__()
        content = Path(options.words).read_bytes()
        self.options, self.words = options, set(content.decode().split())
        self.identity = {"backend": "counting", "words": hashlib.sha256(content).hexdigest()}

    @cached_property
    def tokens(self):
        from transformers import AutoTokenizer

        return Tokens(AutoTokenizer.from_pretrained(self.options.tokenizer), self.architecture)

    def collect(self):
        return [(request, self.reply(request)) for request in self.take()]

    def reply(self, request):
        counts = [len(self.words & set(text.lower().split())) for text in request.passages]
        read = len(self.tokens.prompt(request)[1])
        return Reply(request.labels[counts.index(max(counts))], prompt_tokens=read, completion_tokens=1)


def open(options, setting):
    return Counting(options)
'''

FILES = {
    "words.txt": "salt minerals",
    "docs.jsonl": """\
        {"_id": "d1", "text": "The moon pulls the sea ."}
        {"_id": "d2", "text": "Sea water is salt ."}
        {"_id": "d3", "text": "Why is the sea salt ? Rivers carry minerals ."}
        """,
    "queries.tsv": "q1\twhy is the sea salt\n",
    "qrels.txt": "q1 0 d3 2\n",
    "bm25.trec": "q1 Q0 d1 1 3.0 t\nq1 Q0 d2 2 2.0 t\nq1 Q0 d3 3 1.0 t\n",
    "new.yaml": """\
        dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
        first_stage: {run: bm25.trec}
        ranker: {method: setwise.heapsort, scoring: generation}
        model: {backend: counting, words: words.txt, tokenizer: tokenizer}
        """,
}


PROGRAM = """
import contextlib, io, json, sys
from r2llm.cli.main import main

printed = []
for words in json.load(sys.stdin):
    sys.argv, out = ["r2llm", *words], io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""
"""Types several commands in one process, so that torch is imported once."""


@pytest.fixture
def typed(tmp_path: Path, tiny_llama: Path):
    """Type commands of a copy of the package with the new file, in a folder beside two copies of the experiment."""
    package = tmp_path / "copy/r2llm"
    installed = Path(r2llm.__file__).parent
    package.mkdir(parents=True)
    shutil.copy(installed / "__init__.py", package)
    for room in ("rerankers", "pipeline", "cli", "configs"):
        shutil.copytree(installed / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "rerankers/backends/counting.py").write_text(BACKEND)
    for experiment in (tmp_path / "experiment", tmp_path / "moved"):
        experiment.mkdir()
        for name, text in FILES.items():
            (experiment / name).write_text(textwrap.dedent(text))
        shutil.copytree(tiny_llama, experiment / "tokenizer")

    def type_commands(*commands: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps([command.split() for command in commands]),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "copy")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "error:" not in done.stderr
        printed: list[str] = json.loads(done.stdout)
        return printed

    return type_commands


@pytest.mark.slow
def test_every_command_knows_a_new_backend(typed, tmp_path: Path) -> None:
    ranked, _, estimated, prompt = typed(
        "rerank --config experiment/new.yaml --output run --json",
        "rerank --config moved/new.yaml --set model.haste=2 --output again",
        "estimate --config moved/new.yaml --json",
        "prompt --config moved/new.yaml --query q1",
    )
    assert not json.loads(ranked)["simulated"]
    assert [line.split()[2] for line in (tmp_path / "run/run.trec").read_text().splitlines()] == ["d3", "d2", "d1"]
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["config"]["model"] == {"backend": "counting", "words": "words.txt", "tokenizer": "tokenizer"}
    costs = [json.loads(line) for line in (tmp_path / "run/costs.jsonl").read_text().splitlines()]
    [cost] = [cost for cost in costs if cost.get("query_id") == "q1"]
    assert cost["usd"] == pytest.approx((cost["prompt_tokens"] + 10.0 * cost["completion_tokens"]) / 1e6)

    # Neither its place nor its speed is part of the experiment.
    again = json.loads((tmp_path / "again/manifest.json").read_text())
    assert again["fingerprint"] == manifest["fingerprint"]

    totals = json.loads(estimated)["costs"]
    assert totals["prompt_tokens"]["total"] > 0
    assert totals["usd"]["total"] > 0

    assert "Why is the sea salt ?" in prompt
    assert "tokens" in prompt
