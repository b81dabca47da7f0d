"""The reference implementation's rankings and counts, reproduced: with answers from rules, and with tiny models.

The data lies beside the repository (see its README there) or where R2LLM_SHARED says; without it, these are skipped.
"""

import gzip
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers.backends import simulated, transformers
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.types import Candidates, Doc, Query

SHARED = Path(os.environ["R2LLM_SHARED"])
PARITY = SHARED / "parity"
pytestmark = pytest.mark.shared


@cache
def control_flow() -> list[dict[str, Any]]:
    """The cases whose answers come from a rule."""
    if not PARITY.is_dir():
        return []
    cases: list[dict[str, Any]] = json.loads((PARITY / "control_flow.json").read_text())
    return cases


@cache
def expected() -> dict[str, dict[str, Any]]:
    """The cases that were answered by the tiny models, by name."""
    if not PARITY.is_dir():
        return {}
    with gzip.open(PARITY / "expected.json.gz") as file:
        cases: dict[str, dict[str, Any]] = json.load(file)
    return cases


@cache
def candidates(hits: int) -> dict[str, Candidates]:
    """The first `hits` documents of each query."""
    with gzip.open(PARITY / "candidates.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    return {
        row["qid"]: Candidates(
            Query(row["qid"], row["query"]),
            tuple(Doc(doc["docid"], doc["text"]) for doc in row["docs"][:hits]),
            tuple(doc["score"] for doc in row["docs"][:hits]),
        )
        for row in rows
    }


def test_all_cases_are_there() -> None:
    assert len(control_flow()) == 189
    assert len(expected()) == 12


def settings(kind: str, told: dict[str, Any]) -> dict[str, Any]:
    """The method and its parameters that do what the reference was told to do."""
    if kind.startswith("setwise"):
        return {"method": kind, "k": told["k"], "num_child": told["num_child"]}
    if kind.startswith("pairwise"):
        return {"method": kind, "k": told["k"]}
    if kind == "listwise":
        sizes = {
            "window": ("window_size", "window"),
            "stride": ("step_size", "step"),
            "repeats": ("num_repeat", "repeat"),
        }
        found = {ours: next(told[name] for name in theirs if name in told) for ours, theirs in sizes.items()}
        return {"method": "listwise.sliding"} | found
    return {"method": kind}


@pytest.mark.parametrize("scoring", ["generation", "likelihood"])
@pytest.mark.parametrize("compat", ["llm-rankers", None])
@pytest.mark.parametrize("pooled", [True, False])
def test_control_flow(rank, scoring: str, compat: str | None, pooled: bool) -> None:
    for case in control_flow():
        ids = [f"d{i:03d}" for i in range(case["n"])]
        given = Candidates(Query("q", "q"), tuple(Doc(i, i) for i in ids), tuple(-float(i) for i in range(len(ids))))
        options = settings(case["kind"], case) | {"scoring": scoring, "compat": compat}
        if case["kind"] == "setwise.bubblesort":
            options["skip"] = "reference"
        if case["kind"] == "listwise":
            options["tail"] = "drop"
        backend = simulated.open(simulated.Options(answers=case["answers"]), Setting(seed=case["seed"]))
        calls: list[list[str]] = []
        submit = backend.submit
        backend.submit = lambda requests, submit=submit, calls=calls: (  # type: ignore[method-assign]
            calls.extend(list(request.ask.docs) for request in requests),
            submit(requests),
        )
        [(ranking, cost)] = rank(options, backend, [given], pooled=pooled)
        label = {key: case[key] for key in ("kind", "n", "seed", "answers", "k", "num_child")}
        assert [int(doc[1:]) for doc in ranking.docs] == case["ranking"], label
        assert (cost.comparisons, cost.asks) == (case["comparisons"], case["prompts"]), label
        if case["kind"].startswith("pairwise"):  # one call stands for both orders there
            assert all(ab == ba[::-1] for ab, ba in zip(calls[::2], calls[1::2], strict=True)) or pooled
            calls = calls[::2]
        if not pooled:  # pooled, an ask that comes again is not a call
            assert calls[: len(case["first_calls"])] == case["first_calls"], label
            digest = hashlib.sha256(json.dumps(calls, separators=(",", ":")).encode()).hexdigest()
            assert digest == case["calls_sha256"], label


def check(rank, name: str, queries: int | None = None, *, pooled: bool = True, **model: Any) -> None:
    """Rank some of a case's queries and compare with what the reference did."""
    case = expected()[name]
    backend = transformers.open(
        transformers.Options(name=str(PARITY / "models" / case["model"]), device="cpu", **model), Setting()
    )
    told = case["settings"]
    given = [candidates(told["hits"])[query_id] for query_id in list(case["queries"])[:queries]]
    options = settings(case["kind"], told) | {
        "compat": "llm-rankers",
        "scoring": "likelihood" if case["kind"].startswith("pointwise") else told["scoring"],
        "query_tokens": told["query_length"],
        "passage_tokens": told["passage_length"],
    }
    results = rank(options, backend, given, pooled=pooled)
    assert len(results) == len(given)
    for ranking, cost in results:
        reference = case["queries"][cost.query_id]
        assert list(ranking.docs) == reference["ranking"], cost.query_id
        if case["kind"].startswith("pointwise"):  # the reference counts batches there
            assert (cost.asks, cost.comparisons) == (len(ranking.docs), 0)
        else:
            prompts = 2 if case["kind"].startswith("pairwise") else 1
            assert cost.comparisons == reference["comparisons"] == cost.asks // prompts, cost.query_id


@pytest.mark.parametrize("name", sorted(expected()))
def test_models_prompt_by_prompt(rank, name: str) -> None:
    check(rank, name)


@pytest.mark.parametrize("name", sorted(expected()))
def test_models_in_padded_batches(rank, name: str) -> None:
    check(rank, name, 1, exact=False, batch_size=7)


@pytest.mark.parametrize("name", [name for name in sorted(expected()) if "-sw-" in name or "yesno" in name])
def test_models_in_large_batches_one_query_at_a_time(rank, name: str) -> None:
    check(rank, name, 1, pooled=False, exact=False, batch_size=32)
