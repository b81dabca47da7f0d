"""Bad input: exit 2, one line on stderr that names the culprit, and nothing written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

RERANK = ("rerank", "--config", "toy.yaml", "--output", "out")
TRANSFORMERS = "model: {backend: transformers, name: "

CASES: Mapping[str, tuple[Mapping[str, str], tuple[str, ...], tuple[str, ...]]] = {
    # what is wrong: files to write or change (old>new), the command, what the line must hold
    "unknown key": ({"toy.yaml": "ranker: {>ranker: {num_chlid: 2, "}, RERANK, ("toy.yaml, line 3", "num_child")),
    "unknown section": ({"toy.yaml": "ranker: >rankr: "}, RERANK, ("toy.yaml, line 3", "rankr", "'ranker'")),
    "unknown method": ({"toy.yaml": "heapsort>heapsrt"}, RERANK, ("line 3", "heapsrt", "setwise.heapsort")),
    "unknown measure": ({}, (*RERANK, "--set", "evaluate.measures=nDGC@10"), ("nDGC@10",)),
    "negative number": ({"toy.yaml": "ranker: {>ranker: {k: -1, "}, RERANK, ("line 3", "ranker.k", "-1")),
    "negative queries": ({}, (*RERANK, "--queries", "-1"), ("queries.limit", "-1")),
    "missing model folder": (
        {"toy.yaml": "model: {backend: simulated, answers: oracle}>model: {backend: transformers, name: ./no-model}"},
        RERANK,
        ("model.name", "./no-model"),
    ),
    "folder without a model": (
        {"toy.yaml": "model: {backend: simulated, answers: oracle}>model: {backend: transformers, name: .}"},
        RERANK,
        ("model.name", "config.json"),
    ),
    "missing recording": ({}, (*RERANK, "--set", "model={backend: replay, answers: no.jsonl}"), ("no.jsonl",)),
    "broken YAML": ({"toy.yaml": "ranker: {>ranker: [{"}, RERANK, ("toy.yaml, line", "not valid YAML")),
    "Python tag": (
        {"toy.yaml": "{method: setwise.heapsort}>!!python/object/apply:os.system ['touch hacked']"},
        RERANK,
        ("toy.yaml, line 3", "python/object/apply:os.system"),
    ),
    "control character": ({"toy.yaml": "heapsort>heap\x07sort"}, RERANK, ("toy.yaml", "not valid YAML")),
    "empty file": ({"toy.yaml": ""}, RERANK, ("toy.yaml", "empty")),
    "list, not mapping": ({"toy.yaml": "- a\n- b\n"}, RERANK, ("toy.yaml, line 1", "mapping")),
    "config that is not there": ({}, ("rerank", "--config", "no.yaml", "--output", "out"), ("no.yaml",)),
    "setting without value": ({}, (*RERANK, "--set", "ranker.k"), ("--set ranker.k", "ranker.num_child=4")),
    "setting that is no YAML": ({}, (*RERANK, "--set", "ranker.k=[1"), ("--set ranker.k=[1",)),
    "unknown document": ({"bm25.trec": "q2 Q0 d1>q2 Q0 d9"}, RERANK, ("bm25.trec", "q2", "d9")),
    "duplicate": ({"bm25.trec": "q1 Q0 d2>q1 Q0 d1"}, RERANK, ("bm25.trec:2", "q1", "d1")),
    "short line": ({"bm25.trec": "q1 Q0 d2 2 2.0 bm25>q1 Q0 d2 2 2.0"}, RERANK, ("bm25.trec:2", "5 columns")),
    "empty run": ({"bm25.trec": ""}, RERANK, ("bm25.trec", "empty")),
    "run that is not there": ({}, (*RERANK, "--set", "first_stage.run=no.trec"), ("no.trec",)),
    "no candidates": ({"bm25.trec": "q9 Q0 d1 1 1.0 t\n"}, RERANK, ("bm25.trec", "q9")),
    "no first stage": ({"toy.yaml": "{run: bm25.trec}>{depth: 3}"}, RERANK, ("first_stage", "bm25", "run")),
    "unknown query": ({}, (*RERANK, "--set", "queries.ids=[q7]"), ("q7",)),
    "oracle without qrels": ({"toy.yaml": ", qrels: qrels.txt>"}, RERANK, ("oracle", "qrels")),
    "qrels that are not there": ({"toy.yaml": "qrels.txt>no-qrels.txt"}, RERANK, ("no-qrels.txt",)),
    "qrels of other queries": ({"qrels.txt": "q9 0 d1 1\n"}, RERANK, ("judgements",)),
    "malformed qrels": ({"qrels.txt": "q1 0 d3 1\nq2 0 d1\n"}, RERANK, ("qrels.txt:2", "3 columns")),
    "documents that are not there": ({"toy.yaml": "docs.jsonl>no-docs.jsonl"}, RERANK, ("no-docs.jsonl",)),
    "malformed documents": ({"docs.jsonl": '{"_id": "d1", "text": {}}\n'}, RERANK, ("docs.jsonl:1", "text")),
    "unknown dataset": ({}, (*RERANK, "--set", "dataset=vaswanii"), ("vaswanii", "vaswani")),
    "dataset folder that is not there": ({}, (*RERANK, "--set", "dataset=./no-data"), ("./no-data",)),
    "index that is no index": (
        {},
        (*RERANK, "--set", "first_stage.bm25.index=./no-index"),
        ("no-index",),
    ),
    "output that is a file": ({}, ("rerank", "--config", "toy.yaml", "--output", "docs.jsonl"), ("docs.jsonl",)),
    "evaluate: no judgements named": ({}, ("evaluate", "bm25.trec"), ("--qrels", "--dataset")),
    "evaluate: two kinds of judgements": (
        {},
        ("evaluate", "bm25.trec", "--qrels", "qrels.txt", "--config", "toy.yaml"),
        ("one of",),
    ),
    "evaluate: qrels that are not there": ({}, ("evaluate", "bm25.trec", "--qrels", "no.txt"), ("no.txt",)),
    "evaluate: config without qrels": (
        {"toy.yaml": ", qrels: qrels.txt>"},
        ("evaluate", "bm25.trec", "--config", "toy.yaml"),
        ("no relevance judgements",),
    ),
    "evaluate: folder that is not there": (
        {},
        ("evaluate", "runs/toy-1a2b3c4d"),
        ("no file or folder", "toy-1a2b3c4d"),
    ),
    "evaluate: run that is not there": ({}, ("evaluate", "no.trec", "--qrels", "qrels.txt"), ("no.trec",)),
    "evaluate: run of other queries": (
        {"other.trec": "q9 Q0 d1 1 1.0 t\n"},
        ("evaluate", "other.trec", "--qrels", "qrels.txt"),
        ("other.trec", "q9"),
    ),
    "evaluate: unknown measure": (
        {},
        ("evaluate", "bm25.trec", "--qrels", "qrels.txt", "--measure", "nDCG@0"),
        ("nDCG@0",),
    ),
    "evaluate: unknown dataset": ({}, ("evaluate", "bm25.trec", "--dataset", "vaswanii"), ("vaswanii",)),
    "evaluate: no run yet": ({}, ("evaluate", "--config", "toy.yaml"), ("no finished run of toy",)),
    "retrieve: short line": (
        {"bm25.trec": "q1 Q0 d2 2 2.0 bm25>q1 Q0 d2 2 2.0"},
        ("retrieve", "--config", "toy.yaml", "--output", "out"),
        ("bm25.trec:2",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_costs_one_line_and_leaves_nothing(r2llm, toy: Path, name: str) -> None:
    files, words, culprits = CASES[name]
    for file, text in files.items():
        old, changes, new = text.partition(">")
        before = (toy / file).read_text() if changes else ""
        assert old in before or not changes
        (toy / file).write_text(before.replace(old, new, 1) if changes else text)
    before_files = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}

    done = r2llm(*words)

    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert [culprit for culprit in culprits if culprit not in done.err] == [], done.err
    assert {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()} == before_files
    assert not (toy / "out").exists()
    assert not (toy / "runs").exists()
