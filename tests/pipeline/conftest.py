"""What the tests of the pipeline share: an experiment small enough to check by hand."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline.io.progress import Listener

FILES = {
    "docs.jsonl": """\
        {"_id": "d1", "title": "Tides", "text": "The moon pulls the sea."}
        {"_id": "d2", "text": "Sea water is salt."}
        {"_id": "d3", "text": "Why is the sea salt? Rivers carry minerals."}
        {"_id": "d4", "text": "Bread needs flour."}
        {"_id": "d5", "text": "A lighthouse warns ships."}
        """,
    "queries.tsv": "q1\twhy is the sea salt\nq2\tbread\nq3\tships\n",
    "qrels.txt": "q1 0 d3 3\nq1 0 d1 1\nq2 0 d4 2\nq3 0 d5 1\n",
    "bm25.trec": """\
        q1 Q0 d1 1 9.0 bm25
        q1 Q0 d2 2 8.0 bm25
        q1 Q0 d3 3 7.0 bm25
        q1 Q0 d4 4 6.0 bm25
        q1 Q0 d5 5 5.0 bm25
        q2 Q0 d5 1 4.0 bm25
        q2 Q0 d4 2 3.0 bm25
        q3 Q0 d1 1 2.0 bm25
        q3 Q0 d5 2 1.0 bm25
        """,
    "toy.yaml": """\
        dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
        first_stage: {run: bm25.trec, depth: 4}
        ranker: {method: setwise.heapsort, k: 3}
        model: {backend: simulated, answers: rel}
        """,
}


class Heard(Listener):
    """A listener that remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Write a file into the working folder, which is a temporary one."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def toy(write: Callable[[str, str], Path]) -> Path:
    """A folder with a whole experiment, `toy.yaml`; it is the working folder."""
    for name, text in FILES.items():
        write(name, text)
    return Path.cwd()
