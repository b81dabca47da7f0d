"""Runs that share a ledger: what one was answered the other does not ask, and each is whole by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import shards as merging
from r2llm.pipeline import verify as verification
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import manifest as manifests
from r2llm.pipeline.run.read import Run
from r2llm.pipeline.run.shards import Shard
from r2llm.rerankers import shared_ledger
from r2llm.rerankers.errors import InputError

SHARED = "shared_ledger=answers"


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for what others have published each time."""
    monkeypatch.setattr(shared_ledger, "REFRESH", -1.0)


def rerank(heard, output: str, *settings: str, shard: Shard | None = None) -> Run:
    return experiment.rerank(config.load("toy.yaml", settings), Path(output), heard, shard)


def manifest(outcome: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((outcome.run_dir / "manifest.json").read_text(encoding="utf-8"))
    return found


def counts(outcome: Run) -> tuple[float | None, ...]:
    return tuple(outcome.costs[name]["total"] for name in ("asks", "calls", "cached"))


def test_a_second_run_asks_nothing_and_is_whole_by_itself(toy: Path, heard) -> None:
    alone, first, second = rerank(heard, "a"), rerank(heard, "b", SHARED), rerank(heard, "c", SHARED)
    asks = counts(alone)[0]
    assert [counts(each) for each in (alone, first, second)] == [(asks, asks, 0), (asks, asks, 0), (asks, 0, asks)]
    found = [manifest(each) for each in (alone, first, second)]
    for name in ("fingerprint", "ledger"):
        assert found[0][name] == found[1][name] == found[2][name]
    assert first.run_file.read_bytes() == second.run_file.read_bytes() == alone.run_file.read_bytes()
    assert [each.get("shared_ledger") for each in found] == [
        None,
        {"taken": 0, "published": asks},
        {"taken": asks, "published": 0},
    ]
    assert {check.state for check in verification.verify(second.run_dir, heard)} == {"agrees"}
    assert heard.notes == []


def test_another_experiment_takes_what_is_the_same(toy: Path, heard) -> None:
    rerank(heard, "a", SHARED, "queries.limit=2")
    more = rerank(heard, "b", SHARED, "ranker.k=4")
    asks, calls, cached = counts(more)
    assert calls == asks - cached
    assert 0 < cached < asks
    assert counts(rerank(heard, "c", SHARED, "model.answers=hash"))[2] == 0


def test_latency_does_not_read_it_but_gives_to_it(toy: Path, heard) -> None:
    rerank(heard, "a", SHARED)
    timed = rerank(heard, "b", SHARED, "schedule=latency")
    assert counts(timed)[2] == 0
    rerank(heard, "c", "shared_ledger=others", "schedule=latency")
    assert counts(rerank(heard, "d", "shared_ledger=others"))[1] == 0


def test_a_run_that_was_there_before_gives_its_answers(toy: Path, heard) -> None:
    rerank(heard, "a")
    given = rerank(heard, "a", SHARED)
    assert (given.executed, len(manifest(given)["executions"])) == (False, 1)
    assert counts(rerank(heard, "b", SHARED))[1] == 0


def test_a_replay_answers_from_its_recording_alone(toy: Path, heard) -> None:
    rerank(heard, "a", SHARED)
    rerank(heard, "b", "queries.limit=1")
    with pytest.raises(InputError, match="no answer for query"):
        rerank(heard, "c", SHARED, "model={backend: replay, answers: b/ledger.sqlite}")


def test_a_damaged_segment_is_a_note_and_no_end(toy: Path, heard) -> None:
    asks = counts(rerank(heard, "a", SHARED))[0]
    [segment] = (toy / "answers").glob("*.sqlite")
    segment.write_bytes(segment.read_bytes()[:100])
    assert counts(rerank(heard, "b", SHARED)) == (asks, asks, 0)
    [note] = heard.notes
    assert note.startswith(f"shared_ledger {toy / 'answers'}: segment {segment.name} is left out")


def test_shards_share_one_and_merge_to_the_same(toy: Path, heard) -> None:
    whole = rerank(heard, "whole", SHARED)
    shards = [rerank(heard, "parts", SHARED, shard=Shard(number, 2)) for number in (1, 2)]
    assert [counts(each)[1] for each in shards] == [0, 0]
    merged = merging.merge([toy / "parts"], None, heard)
    assert merged.run_file.read_bytes() == whole.run_file.read_bytes()
    assert (merged.run_dir / "config.yaml").read_bytes() == (whole.run_dir / "config.yaml").read_bytes()
    assert manifest(merged)["ledger"] == manifest(whole)["ledger"]
    assert manifest(merged)["shared_ledger"] == {"taken": counts(whole)[0], "published": 0}


def test_it_lies_beside_the_config_that_names_it(toy: Path, write, heard, monkeypatch) -> None:
    write("there/toy.yaml", "extends: ../toy.yaml\nshared_ledger: answers\n")
    experiment.rerank(config.load("there/toy.yaml"), toy / "a", heard)
    assert list((toy / "there" / "answers").glob("*.sqlite"))
    loaded = config.load("toy.yaml", [SHARED])
    assert (loaded.config.shared_ledger, loaded.changes_ranking) == (str(toy / "answers"), False)


def test_calls_of_an_interrupted_execution_are_not_known(toy: Path) -> None:
    """What its ledger holds more than before may have been taken or asked."""
    for shared, calls in ((False, 5), (True, None)):
        closed = manifests.Execution.begin(3, shared=shared).closed(8, "2026-01-01T00:00:00+00:00")
        assert (closed.status, closed.calls, closed.ended) == ("interrupted", calls, "2026-01-01T00:00:00+00:00")


def test_a_plan_says_what_a_run_will_be_without_weights(toy, heard) -> None:
    about = json.loads((rerank(heard, "whole").run_dir / "manifest.json").read_text())
    plan = experiment.prepare(config.load("toy.yaml"), heard, weights=False)
    plan.close()
    assert (plan.content, plan.fingerprint) == (about["experiment"], about["fingerprint"])
