"""What the tests of the command line share: ways to type a command, a small experiment, a tiny real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from r2llm.cli import main

FILES = {
    "docs.jsonl": """\
        {"_id": "d1", "text": "The moon pulls the sea."}
        {"_id": "d2", "text": "Sea water is salt."}
        {"_id": "d3", "text": "Why is the sea salt? Rivers carry minerals."}
        """,
    "queries.tsv": "q1\twhy is the sea salt\nq2\tmoon\n",
    "qrels.txt": "q1 0 d3 2\nq2 0 d1 1\n",
    "bm25.trec": """\
        q1 Q0 d1 1 3.0 bm25
        q1 Q0 d2 2 2.0 bm25
        q1 Q0 d3 3 1.0 bm25
        q2 Q0 d2 1 2.0 bm25
        q2 Q0 d1 2 1.0 bm25
        """,
    "toy.yaml": """\
        dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
        first_stage: {run: bm25.trec}
        ranker: {method: setwise.heapsort}
        model: {backend: simulated, answers: oracle}
        """,
}


@dataclass(frozen=True)
class Typed:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        """The one JSON object on stdout."""
        assert self.out.count("\n") == 1
        return json.loads(self.out)


@pytest.fixture
def r2llm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Typed]:
    """Type a command, in this process. The working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: object) -> Typed:
        monkeypatch.setattr(sys, "argv", ["r2llm", *map(str, words)])
        code: object = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return Typed(code, captured.out, captured.err)

    return typed


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Typed]:
    """Run a command in a process of its own. The working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    # Spinning threads of several processes on few cores hold each other up.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def run(*words: object) -> Typed:
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, env=environment)
        return Typed(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with a whole experiment, `toy.yaml`."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(textwrap.dedent(text), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder model of random weights that knows the labels and the words of the quickstart collection."""
    import tokenizers
    import torch
    import transformers
    from r2llm.pipeline.configs.load import SHIPPED

    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    passages = (SHIPPED / "quickstart" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    words = dict.fromkeys(word for passage in passages for word in json.loads(passage)["text"].split())
    known = dict.fromkeys(["<pad>", "</s>", "<unk>", "Passage", *"ABCDEFGHIJKLMNOPQRSTUVW", *words])
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    shape = transformers.T5Config(
        vocab_size=len(known),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        decoder_start_token_id=0,
        initializer_factor=5.0,
    )
    transformers.T5ForConditionalGeneration(shape).save_pretrained(folder)
    return folder
