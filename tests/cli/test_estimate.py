"""`r2llm estimate`: tables as `rerank` prints its costs, or one JSON object; nothing is written."""

from __future__ import annotations

from pathlib import Path


def test_counts_without_a_tokenizer(r2llm, toy: Path) -> None:
    done = r2llm("estimate", "--config", "toy.yaml", "--set", "ranker.method=pointwise.yes_no")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "toy: 2 queries; the simulated model itself answers",
        "pointwise.yes_no: asks, calls, rounds exact",
        "cost\ta query\ttotal\tlow\thigh",
        "asks\t2.5\t5\t5\t5",
        "calls\t2.5\t5\t5\t5",
        "rounds\t1\t2\t2\t2",
        "prompt tokens\t-\t-\t-\t-",
        "completion tokens\t-\t-\t-\t-",
        "FLOPs\t-\t-\t-\t-",
        "seconds\t-\t-\t-\t-",
        "no tokens, FLOPs and USD: nothing is asked, or nothing here counts the model's tokens",
    ]
    assert not Path("runs").exists()


def test_a_real_model_by_its_prompts_and_by_a_query(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("estimate", "--config", "toy.yaml", "--set", model, "--quiet", "--queries", 1)
    done = r2llm(*words, "--probe-queries", 1)
    assert (done.code, done.err) == (0, "")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in done.out.splitlines() if "\t" in line}
    assert rows.keys() >= {"FLOPs", "seconds", "not in FLOPs: output head"}
    assert "-" not in {cell for row in rows.values() for cell in row[:2]}
    found = r2llm(*words, "--json").json
    assert found.keys() == {"name", "queries", "tried", "judged_by", "costs", "stages"}
    costs = found["costs"]
    assert isinstance(costs, dict)
    assert costs["prompt_tokens"]["total"] == costs["prompt_tokens"]["mean"] > 0
    assert costs["seconds"] == {"mean": None, "total": None, "low": None, "high": None}


def test_what_depends_on_the_answers_has_a_range(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("--config", "quickstart.yaml", "--set", model, "--quiet", "--queries", 1)
    done = r2llm("estimate", *words)
    assert "setwise.heapsort: nothing exact; asks, calls, rounds depend on the answers" in done.out
    assert "low, high: if the first document shown always won, or the last candidate, or a random one" in done.out


def test_queries_ranked_for_real(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    done = r2llm("estimate", "--config", "toy.yaml", "--set", model, "--quiet", "--probe-queries", 1)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "toy: 2 queries; 1 of them ranked for real, and scaled up"
    assert lines[1] == "setwise.heapsort: asks, calls, rounds exact"
    assert "prompt tokens" in {line.split("\t")[0] for line in lines}
    assert not Path("runs").exists()


def test_prices_are_shown_where_they_are_known(r2llm, toy: Path, tiny_t5: Path) -> None:
    server = f"model={{backend: openai, name: m, tokenizer: {tiny_t5}, prices: {{prompt: 100, completion: 200}}}}"
    done = r2llm("estimate", "--config", "toy.yaml", "--set", server, "--set", "ranker.scoring=generation", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert any(line.startswith("USD, at most\t0.") for line in done.out.splitlines())


def test_a_cascade_is_told_stage_by_stage(r2llm, toy: Path) -> None:
    done = r2llm("estimate", "--config", "cascade-quickstart.yaml", "--queries", 2, "--quiet")
    assert done.code == 0
    told = [line.partition(":")[0] for line in done.out.splitlines() if line.startswith(("stage ", "all stages"))]
    assert "stage 2: setwise.heapsort: asks, calls, rounds exact" in done.out
    assert told == ["stage 1", "stage 2", "stage 3", "all stages"]


def test_a_probe_by_seconds_is_one_of_a_query(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("estimate", "--config", "toy.yaml", "--set", model, "--json")
    done = r2llm(*words, "--probe-seconds", 0.1)
    assert "note: --probe-seconds is deprecated and counts as --probe-queries 1" in done.err
    assert (done.json["tried"], r2llm(*words, "--probe-seconds", 0).json["tried"]) == (1, 0)
    assert done.json["costs"]["seconds"]["total"] > 0
