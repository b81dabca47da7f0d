"""`r2llm estimate`: tables as `rerank` prints its costs, or one JSON object; nothing is written."""

from __future__ import annotations

from pathlib import Path


def test_counts_without_a_tokenizer(r2llm, toy: Path) -> None:
    done = r2llm("estimate", "--config", "toy.yaml", "--set", "ranker.method=pointwise.yes_no")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "toy: 2 queries; oracle answers stood in for the model's",
        "pointwise.yes_no: asks, calls, rounds exact, independent of the answers",
        "cost\ta query\ttotal",
        "asks\t2.5\t5",
        "calls\t2.5\t5",
        "rounds\t1\t2",
        "prompt tokens\t-\t-",
        "completion tokens, at most\t-\t-",
        "FLOPs\t-\t-",
        "seconds\t-\t-",
        "no tokens, FLOPs and seconds: nothing is asked, or the backend has no tokenizer of its own",
    ]
    assert not Path("runs").exists()


def test_a_real_model_with_a_probe(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("estimate", "--config", "toy.yaml", "--set", model, "--quiet", "--queries", 1)
    done = r2llm(*words, "--probe-seconds", 0.1)
    assert (done.code, done.err) == (0, "")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in done.out.splitlines() if "\t" in line}
    assert rows.keys() >= {"FLOPs", "seconds", "not in FLOPs: output head"}
    assert "-" not in {cell for row in rows.values() for cell in row}
    found = r2llm(*words, "--probe-seconds", 0, "--json").json
    assert found.keys() == {"name", "queries", "judge", "costs", "stages"}
    costs = found["costs"]
    assert isinstance(costs, dict)
    assert costs["prompt_tokens"]["total"] == costs["prompt_tokens"]["mean"] > 0
    assert costs["seconds"] == {"mean": None, "total": None}


def test_a_cascade_is_told_stage_by_stage(r2llm, toy: Path) -> None:
    done = r2llm("estimate", "--config", "cascade-quickstart.yaml", "--queries", 2, "--quiet")
    assert done.code == 0
    told = [line.partition(":")[0] for line in done.out.splitlines() if line.startswith(("stage ", "all stages"))]
    assert "stage 2: setwise.heapsort: nothing exact; asks, calls, rounds depend on the answers (" in done.out
    assert told == ["stage 1", "stage 2", "stage 3", "all stages"]
