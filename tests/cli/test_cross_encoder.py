"""A cross-encoder from the command line: ranked, shown, told of and estimated like any other model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

DOCS = {
    "d1": "The moon pulls the sea.",
    "d2": "Sea water is salt.",
    "d3": "Why is the sea salt? Rivers carry minerals.",
}
RUN = {("q1", "why is the sea salt"): ("d1", "d2", "d3"), ("q2", "moon"): ("d2", "d1")}


@pytest.fixture
def words(toy: Path, tiny_bert: Path) -> tuple[str, ...]:
    """What makes the toy experiment one with a cross-encoder."""
    model = f"model={{backend: transformers, name: {tiny_bert}, device: cpu}}"
    return ("--config", "toy.yaml", "--set", "ranker={method: pointwise.cross_encoder}", "--set", model)


def plain(folder: Path) -> dict[str, list[str]]:
    """Each query's documents by the logit that transformers gives the pair."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def logit(query: str, doc: str) -> float:
        told = tokenizer([query], [DOCS[doc]], truncation="only_second", return_tensors="pt")
        with torch.no_grad():
            return float(model(**told).logits[0, 0])

    return {name: sorted(docs, key=lambda doc: -logit(query, doc)) for (name, query), docs in RUN.items()}


def test_it_ranks_by_what_transformers_computes(r2llm, words, tiny_bert: Path) -> None:
    found = r2llm("rerank", *words, "--json").json
    ranked: dict[str, list[str]] = {}
    for line in Path(str(found["run_file"])).read_text().splitlines():
        ranked.setdefault(line.split()[0], []).append(line.split()[2])
    assert ranked == plain(tiny_bert)
    costs = found["costs"]
    assert isinstance(costs, dict)
    assert [costs[name]["total"] for name in ("asks", "calls", "unparsed", "completion_tokens")] == [5, 5, 0, 0]
    manifest = json.loads((Path(str(found["run_dir"])) / "manifest.json").read_text())
    assert "transformers" in json.dumps(manifest)
    again = r2llm("rerank", *words, "--json").json
    assert again["costs"] == costs  # shown, not executed


def test_what_it_reads_and_answered_is_shown(r2llm, words) -> None:
    shown = r2llm("prompt", "--query", "q1", "--quiet", *words)
    assert (shown.code, shown.err) == (0, "")
    assert "ask: relevance d1" in shown.out
    assert "why is the sea salt\n\nThe moon pulls the sea." in shown.out
    run = r2llm("rerank", *words, "--json").json["run_dir"]
    told = r2llm("inspect", run, "--query", "q1")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("relevance") >= 3


def test_it_is_estimated(r2llm, words) -> None:
    found = r2llm("estimate", *words)
    assert found.code == 0
    assert "pointwise.cross_encoder" in found.out
