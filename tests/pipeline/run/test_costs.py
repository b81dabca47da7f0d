"""What a run came to per PetaFLOP: computed, written, shown, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import costs
from r2llm.pipeline.run import read as record
from r2llm.pipeline.run.costs import efficiency
from r2llm.pipeline.verify import verify
from r2llm.rerankers.types import Cost


def spent(**flops: int | None) -> list[Cost]:
    return [Cost(query, flops=each) for query, each in flops.items()]


def test_rpp_is_over_queries_that_were_measured_and_cost_anything_and_qpp_over_all() -> None:
    per_query = {"q1": {"nDCG@10": 0.5, "Judged@10": 1.0}, "q2": {"nDCG@10": 1.0, "Judged@10": 1.0}}
    found = efficiency(spent(q1=10**15, q2=4 * 10**15, q3=7 * 10**15), per_query)
    assert found == {"qpp": 0.25, "rpp": {"nDCG@10": {"mean_of_ratios": 0.375, "ratio_of_means": 0.3}}}
    free = efficiency(spent(q1=10**15, q2=0), per_query)
    assert free == {"qpp": 2.0, "rpp": {"nDCG@10": {"mean_of_ratios": 0.5, "ratio_of_means": 0.5}}}


@pytest.mark.parametrize(
    ("flops", "per_query"),
    [
        ({"q1": 10, "q2": None}, {"q1": {"AP": 0.5}}),
        ({"q1": 10}, None),
        ({"q1": 10}, {"q2": {"AP": 0.5}}),
        ({"q1": 0}, {"q1": {"AP": 0.5}}),
        ({}, {}),
    ],
)
def test_none_where_operations_or_measures_are_not_known(flops, per_query) -> None:
    assert efficiency(spent(**flops), per_query) is None


def test_a_run_with_a_known_shape_writes_it_and_verify_checks_it(toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    outcome = experiment.rerank(config.load("toy.yaml", [model]), Path("run"), Listener())
    written = json.loads(Path("run/metrics.json").read_text())
    total = outcome.costs["flops"]["total"]
    assert total
    assert written["efficiency"] == outcome.metrics.content["efficiency"]
    assert written["efficiency"]["qpp"] == pytest.approx(3e15 / total)
    assert written["efficiency"]["rpp"].keys() == {"nDCG@10"}
    assert record.read(Path("run")).costs == outcome.costs
    checks = {(check.file, check.what): check for check in verify(Path("run"), Listener())}
    assert checks["metrics.json", "measures"].state == "agrees"
    written["efficiency"]["qpp"] *= 2
    Path("run/metrics.json").write_text(json.dumps(written))
    checks = {(check.file, check.what): check for check in verify(Path("run"), Listener())}
    assert checks["metrics.json", "measures"].state == "differs"
    assert checks["metrics.json", "measures"].detail.startswith("efficiency qpp: ")
    Path("run/metrics.json").write_text(json.dumps(written | {"efficiency": {"qpp": "much"}}))
    checks = {(check.file, check.what): check for check in verify(Path("run"), Listener())}
    assert checks["metrics.json", "measures"].detail.startswith("run/metrics.json: cannot be read")


def test_a_run_of_unknown_shape_has_none(toy: Path) -> None:
    outcome = experiment.rerank(config.load("toy.yaml"), Path("run"), Listener())
    assert outcome.metrics.efficiency is None
    assert "efficiency" not in json.loads(Path("run/metrics.json").read_text())
    assert {cost.flops for [cost] in costs.read(Path("run/costs.jsonl")).values()} == {None}


def test_costs_written_before_there_were_operations_and_prices_are_read(toy: Path) -> None:
    outcome = experiment.rerank(config.load("toy.yaml"), Path("run"), Listener())
    path = Path("run/costs.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in r.items() if k not in ("flops", "usd")}) + "\n" for r in rows))
    assert costs.summary(cost for [cost] in costs.read(path).values()) == outcome.costs
    checks = {(check.file, check.what): check.state for check in verify(Path("run"), Listener())}
    assert checks["costs.jsonl", "ranked again from the ledger"] == checks["metrics.json", "measures"] == "agrees"
