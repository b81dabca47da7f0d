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
from r2llm.rerankers.backends import Setting, simulated, transformers
from r2llm.rerankers.types import Candidates, Doc, Query

SHARED = Path(os.environ.get("R2LLM_SHARED", Path(__file__).parents[2].parent / "shared"))
PARITY = SHARED / "parity"
KINDS = ("setwise.heapsort", "setwise.bubblesort", "pointwise.yes_no")

pytestmark = pytest.mark.shared


@cache
def control_flow() -> list[dict[str, Any]]:
    """The cases whose answers come from a rule, of the methods that there are."""
    if not PARITY.is_dir():
        return []
    cases: list[dict[str, Any]] = json.loads((PARITY / "control_flow.json").read_text())
    return [case for case in cases if case["kind"] in KINDS]


@cache
def expected() -> dict[str, dict[str, Any]]:
    """The cases that were answered by the tiny models, of the methods that there are, by name."""
    if not PARITY.is_dir():
        return {}
    with gzip.open(PARITY / "expected.json.gz") as file:
        return {name: case for name, case in json.load(file).items() if case["kind"] in KINDS}


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
    assert len(control_flow()) == 93
    assert sorted(expected()) == [
        "ll-sw-heap-gen",
        "t5-pw-yesno",
        "t5-sw-bub-like",
        "t5-sw-heap-gen",
        "t5-sw-heap-like",
    ]


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """The `ranker` section that does what the reference was told to do."""
    told = case["settings"]
    options = {
        "method": case["kind"],
        "compat": "llm-rankers",
        "query_tokens": told["query_length"],
        "passage_tokens": told["passage_length"],
    }
    if case["kind"].startswith("setwise"):
        options |= {"k": told["k"], "num_child": told["num_child"], "scoring": told["scoring"]}
    return options


@pytest.mark.parametrize("scoring", ["generation", "likelihood"])
@pytest.mark.parametrize("compat", ["llm-rankers", None])
@pytest.mark.parametrize("pooled", [True, False])
def test_control_flow(rank, scoring: str, compat: str | None, pooled: bool) -> None:
    for case in control_flow():
        ids = [f"d{i:03d}" for i in range(case["n"])]
        given = Candidates(Query("q", "q"), tuple(Doc(i, i) for i in ids), tuple(-float(i) for i in range(len(ids))))
        options = {
            "method": case["kind"],
            "k": case["k"],
            "num_child": case["num_child"],
            "scoring": scoring,
            "compat": compat,
        }
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
    hits = case["settings"]["hits"]
    given = [candidates(hits)[query_id] for query_id in list(case["queries"])[:queries]]
    results = rank(settings(case), backend, given, pooled=pooled)
    assert len(results) == len(given)
    for ranking, cost in results:
        reference = case["queries"][cost.query_id]
        assert list(ranking.docs) == reference["ranking"], cost.query_id
        if case["kind"].startswith("pointwise"):  # the reference counts batches there
            assert (cost.asks, cost.comparisons) == (len(ranking.docs), 0)
        else:
            assert cost.comparisons == cost.asks == reference["comparisons"], cost.query_id


@pytest.mark.parametrize("name", sorted(expected()))
def test_models_prompt_by_prompt(rank, name: str) -> None:
    check(rank, name)


@pytest.mark.parametrize("name", sorted(expected()))
@pytest.mark.parametrize("batch_size", [7, 32])
def test_models_in_padded_batches(rank, name: str, batch_size: int) -> None:
    check(rank, name, 2, exact=False, batch_size=batch_size)


@pytest.mark.parametrize("name", sorted(expected()))
@pytest.mark.parametrize("model", [{}, {"exact": False, "batch_size": 7}, {"exact": False, "batch_size": 32}])
def test_models_one_query_at_a_time(rank, name: str, model: dict[str, Any]) -> None:
    check(rank, name, 1, pooled=False, **model)
