"""The JSON Schema: it is the shipped one, takes what the loader takes, and refuses what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from r2llm.pipeline.configs import json_schema as schema
from r2llm.pipeline.configs import load as config
from r2llm.rerankers import catalog
from r2llm.rerankers.errors import InputError

MODELINE = "# yaml-language-server: $schema="


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    found = schema.schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def complaints(validator: jsonschema.Draft202012Validator, text: str) -> list[str]:
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def test_the_shipped_file_is_the_generated_one() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "r2llm schema > configs/schema.json"


def test_each_shipped_config_is_valid_and_leads_editors_to_the_schema(
    validator: jsonschema.Draft202012Validator,
) -> None:
    for name in config.files():
        path = config.SHIPPED / name
        text = path.read_text(encoding="utf-8")
        assert complaints(validator, text) == [], name
        first = text.partition("\n")[0]
        assert first.startswith(MODELINE), name
        assert (path.parent / first.removeprefix(MODELINE)).resolve() == schema.FILE.resolve(), name


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("datset: vaswani", "datset"),
        ("ranker: {method: setwise.heapsort, num_chld: 3}", "num_chld"),
        ("model: {backend: transformers, name: x, dtpye: float32}", "dtpye"),
        ("first_stage: {bm25: {index: build, k: 1}}", "first_stage"),
        ("dataset: {beir: x, splt: y}", "dataset"),
        ("expected: {nDCG@10: {value: 1, tolerance: 0, source: x, page: 3}}", "page"),
        ("ranker: {method: setwise.bublesort}", "setwise.bublesort"),
        ("model: {backend: transformer}", "transformer"),
        ("ranker: {method: setwise.heapsort, num_child: two}", "two"),
        ("ranker: {method: setwise.heapsort, k: 0}", "0"),
        ("ranker: {scoring: guess}", "guess"),
        ("model: {backend: simulated, answers: orcale}", "orcale"),
        ("model: {backend: simulated, noise: 2}", "2"),
        ("seed: x", "x"),
        ("schedule: fast", "fast"),
        ("queries: {limit: 1.5}", "1.5"),
        ("name: 'a b'", "a b"),
        ("extends: {a: b}", "b"),
        ("ranker: {method: pointwise.qlm, passages: {word: 3}}", "word"),
        ("ranker: {method: pointwise.qlm, passages: {aggregate: median}}", "median"),
        ("stages: [{ranker: {method: setwise.heapsort, num_chld: 3}}]", "num_chld"),
        ("stages: [{ranker: {method: setwise.heapsort}, model: {backend: simulated, noise: 2}}]", "2"),
        ("stages: [{ranker: {method: setwise.heapsort}, depht: 3}]", "depht"),
        ("stages: []", "stages"),
        ("fuse: {method: borda}", "borda"),
        ("fuse: {method: rrf, wiht: x}", "wiht"),
    ],
)
def test_a_mistake_is_found_by_the_schema_and_by_the_loader(
    validator: jsonschema.Draft202012Validator, write: Callable[[str, str], Path], text: str, culprit: str
) -> None:
    found = complaints(validator, text)
    assert found
    assert culprit in "\n".join(found) or any(
        culprit in map(str, error.path) for error in validator.iter_errors(yaml.safe_load(text))
    )
    write("a.yaml", text if text.startswith(("datset", "dataset")) else f"dataset: vaswani\n{text}")
    with pytest.raises(InputError):
        config.load("a.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "ranker: {method: pointwise.yes_no, num_child: 3, window: 4}",
        "model: {backend: simulated, dtype: float32, answers: noisy}",
        "model: {backend: replay, answers: ledger.sqlite}",
        "queries: {ids: [19335, q2]}",
        "queries: {ids: q2}",
        "queries: {ids: 19335}",
        "evaluate: {measures: AP}",
        "dataset: {docs: index, queries: q.tsv, qrels: q.txt}",
        "dataset: {candidates: c.jsonl}",
        "dataset: {beir: folder, split: dev}",
        "ranker: {method: setwise.heapsort, query_tokens: null}",
        "ranker: null",
        "ranker: {method: pointwise.qlm, passages: {}}",
        "stages: [{ranker: {method: pointwise.qlm, passages: {words: 9, overlap: 3, aggregate: sum}}, depth: 3}]",
        "stages: [{ranker: {method: setwise.heapsort, window: 3}, model: {backend: simulated}}]",
        "model: {backend: replay, answers: ledger.sqlite, of: {backend: transformers}}",
        "fuse: {method: rrf, with: first_stage, k: 10}",
        "fuse: {method: interpolate, with: other.trec, alpha: 0.3}",
    ],
)
def test_what_the_loader_takes_is_valid(
    validator: jsonschema.Draft202012Validator, write: Callable[[str, str], Path], text: str
) -> None:
    assert complaints(validator, text) == []
    write("ledger.sqlite", "")
    write("a.yaml", text if text.startswith("dataset") else f"dataset: vaswani\n{text}")
    config.load("a.yaml")


def test_a_part_that_others_extend_is_valid(validator: jsonschema.Draft202012Validator) -> None:
    assert complaints(validator, "extends: [a.yaml, b.yaml]\nranker: {compat: llm-rankers, k: 10}") == []
    assert complaints(validator, "first_stage: {bm25: {k1: 1.2}}") == []


def test_every_key_of_every_method_and_backend_is_described(validator: jsonschema.Draft202012Validator) -> None:
    found: dict[str, Any] = schema.schema()
    sections = found["properties"]
    assert sections["ranker"]["properties"]["method"]["enum"] == catalog.names("method")
    assert sections["model"]["properties"]["backend"]["enum"] == catalog.names("backend")
    for name in (*catalog.names("method"), *catalog.names("backend")):
        taker = found["$defs"][name]
        assert taker["description"]
        for key, meaning in taker["properties"].items():
            assert meaning["description"], f"{name}: {key}"
    assert found["$defs"]["setwise.heapsort"]["properties"]["num_child"]["default"] == 2
