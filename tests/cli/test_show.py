"""`r2llm show`: a run, for people and for programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture(scope="module")
def stub() -> Iterator[str]:
    """The URL of a server on this machine."""
    command = [sys.executable, str(TOOLS / "stub_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.kill()


def test_what_was_run_with_what_when_and_what_came_of_it(r2llm, toy: Path) -> None:
    assert r2llm("rerank", "--config", "toy.yaml", "--output", "out").code == 0
    done = r2llm("show", "out")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "toy in out"
    facts = dict(line.split("\t", 1) for line in lines if line.count("\t") == 1)
    assert facts["method"].startswith("setwise.heapsort (k ")
    assert facts["prompt"].startswith("setwise, ")
    assert re.match(r"status finished, started \S+, ended \S+, calls [\d,]+", facts["executions"])
    assert "r2llm" in facts["environment packages"]
    digest = json.loads(Path("out/manifest.json").read_text())["files"]["run.trec"]
    assert f"run.trec {digest[:12]}," in facts["files"]
    assert "nDCG@10\t0.5655\t1.0000\t+0.4345" in lines
    assert any(line.startswith("asks\t") for line in lines)


def test_which_run_it_was_comes_before_how_it_went(r2llm, toy: Path) -> None:
    reranked = r2llm("rerank", "--config", "toy.yaml", "--set", "queries.limit=2", "--output", "out").out
    for lines in (reranked.splitlines(), r2llm("show", "out").out.splitlines()):
        begin = lines.index("what\tvalue") + 1
        assert [line.split("\t")[0] for line in lines[begin : begin + 6]] == [
            *("dataset", "first stage", "method", "model", "prompt", "queries")
        ]
        facts = dict(line.split("\t") for line in lines[begin : begin + 6])
        assert facts["dataset"] == "docs docs.jsonl, queries queries.tsv, qrels qrels.txt"
        assert facts["first stage"] == "run bm25.trec, depth 100, order given, exclude_same_id auto"
        assert facts["model"] == "oracle (simulated)"
        assert facts["queries"] == "2 (limit 2)"
        assert {"queries\t2\t2\t", "queries\t\t\t\t2"} <= set(lines)
        assert [line for line in lines if line.startswith("nDCG@10")] == ["nDCG@10\t0.5655\t1.0000\t+0.4345"]


SERVED = "backend: openai, name: stub, max_concurrency: 2"

MODELS = [
    "{backend: simulated, answers: oracle}",
    "{backend: simulated, answers: noisy, noise: 0.5}",
    "{backend: replay, answers: recorded/ledger.sqlite}",
    "{backend: transformers, name: T5, device: cpu}",
    "{backend: transformers, name: T5, device: cpu, batch_size: 2, exact: false}",
    f"{{{SERVED}, base_url: URL}}",
    f"{{{SERVED}, base_url: URL, api: completions}}",
    f"{{{SERVED}, base_url: URL, api: completions, tokenizer: T5}}",
    f"{{{SERVED}, base_url: URL, api: chat, tokenizer: T5, budget: {{calls: 100}}}}",
    f"{{{SERVED}, base_url: URL, api: chat, prices: {{prompt: 1, completion: 2}}}}",
    f"{{{SERVED}, base_url: URL, api: rerank}}",
]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_of_every_backend_is_shown(r2llm, toy: Path, tiny_t5: Path, stub: str, model: str) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "recorded")
    method = "pointwise.cross_encoder" if "rerank" in model else "setwise.heapsort"
    setting = model.replace("T5", str(tiny_t5)).replace("URL", stub)
    done = r2llm(
        "rerank",
        "--config",
        "toy.yaml",
        "--set",
        f"model={setting}",
        "--set",
        f"ranker.method={method}",
        "--output",
        "out",
        "--quiet",
    )
    assert done.code == 0, done.err
    shown = r2llm("show", "out")
    assert (shown.code, shown.err) == (0, "")
    facts = dict(line.split("\t") for line in shown.out.splitlines() if line.count("\t") == 1)
    assert facts["method"].startswith(("setwise.heapsort (k 10, ", "pointwise.cross_encoder (l"))
    assert facts["model"].split(" (")[1].startswith(model[1:].split(", ")[0].removeprefix("backend: "))
    assert str(toy.parent) not in shown.out
    assert ("tokenizer " in facts.get("model details", "")) == ("T5" in model)


def test_what_vllm_tells_is_shown(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    manifest["model"] = {
        "backend": "vllm",
        "name": "a/b",
        "revision": "c0ffee",
        "files": {"model.safetensors": "0" * 64},
        "tokenizer": "1" * 64,
        "quantization": None,
        "engine": "vllm 0.10",
        "deterministic": True,
        "tensor_parallel_size": 2,
        "adapter": {"name": "x", "files": {"adapter.safetensors": "2" * 64}},
    }
    Path("out/manifest.json").write_text(json.dumps(manifest))
    shown = r2llm("show", "out").out
    assert (
        f"revision c0ffee, tokenizer {'1' * 12}, engine vllm 0.10, deterministic true, tensor_parallel_size 2" in shown
    )
    assert f"model details files\tmodel.safetensors {'0' * 12}\n" in shown


def test_simulated_answers_are_said_loudly(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    assert r2llm("show", "out").out.splitlines()[1] == "SIMULATED ANSWERS: these figures are no model's result"


def test_a_model_is_shown_with_its_files(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("--set", model, "--queries", 1, "--output", "out")
    assert r2llm("rerank", "--config", "toy.yaml", *words).code == 0
    shown = r2llm("show", "out").out
    assert "SIMULATED" not in shown
    assert "dtype float32, device cpu, " in shown
    assert ", exact true, batch_size 1, threads" in shown
    assert "model details files\tconfig.json " in shown
    assert str(tiny_t5) not in shown


def test_a_first_stage_alone(r2llm, toy: Path) -> None:
    assert r2llm("retrieve", "--config", "toy.yaml", "--output", "out").code == 0
    shown = r2llm("show", "out").out
    assert "measure\tfirst stage\n" in shown
    assert "cost\t" not in shown


def test_a_run_that_is_not_finished(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    for key in ("model", "data", "files", "ledger", "unparsed", "unparsed_by_kind", "wall_seconds"):
        del manifest[key]
    manifest["executions"][-1] |= {"status": "running", "ended": None, "calls": None}
    Path("out/manifest.json").write_text(json.dumps(manifest | {"status": "running", "finished": None}))
    Path("out/costs.jsonl").unlink()
    Path("out/metrics.json").unlink()
    done = r2llm("show", "out")
    assert done.code == 0
    assert "NOT FINISHED" in done.out
    assert "status running, " in done.out


def test_json_is_one_object(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    found = r2llm("show", "out", "--json").json
    assert found.keys() == {"run_dir", "manifest", "metrics", "costs"}
    assert found["manifest"] == json.loads(Path("out/manifest.json").read_text())
    assert found["metrics"]["all"]["nDCG@10"] == 1.0
    assert found["costs"]["asks"].keys() == {"mean", "p50", "p95", "total", "queries"}


def test_what_is_no_run_is_one_line_and_exit_2(r2llm, toy: Path) -> None:
    done = r2llm("show", ".")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "no run's folder" in done.err
    (toy / "manifest.json").write_text("{")
    assert (r2llm("show", ".").code, r2llm("show", ".").err.count("\n")) == (2, 1)


def test_a_cascade_and_what_it_was_fused_with(r2llm, toy: Path) -> None:
    stages = "stages=[{ranker: {method: pointwise.yes_no}}, {ranker: {method: setwise.heapsort}, depth: 2}]"
    settings = ("--set", stages, "--set", "fuse={method: interpolate, alpha: 0.3}")
    assert r2llm("rerank", "--config", "toy.yaml", *settings, "--output", "out").code == 0
    lines = r2llm("show", "out").out.splitlines()
    assert any(line.startswith("stage 1, method\tpointwise.yes_no") for line in lines)
    assert any(line.startswith("stage 2, method\tsetwise.heapsort") and line.endswith("the first 2") for line in lines)
    assert "fused\tmethod interpolate, with first_stage, alpha 0.3" in lines
    assert "measure\tfirst stage\treranked\tfused\tchange" in lines
    assert "cost\tstage 1\tstage 2" in lines
    found = r2llm("show", "out", "--json").json
    assert [stage["rounds"]["mean"] for stage in found["stages"]] == [1, 1]


def test_operations_and_what_they_came_to_are_shown_where_they_are_known(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}"
    words = ("rerank", "--config", "toy.yaml", "--output", "out", "--quiet")
    done = r2llm(*words, "--set", model)
    assert "FLOPs\t" in done.out
    assert "RPP, nDCG@10 per PetaFLOP: " in done.out
    assert "USD" not in done.out
    assert done.out.partition("RPP, ")[2].partition("run file")[0] in r2llm("show", "out").out
    efficiency = r2llm("show", "out", "--json").json["metrics"]["efficiency"]
    assert efficiency == r2llm(*words, "--set", model, "--json").json["efficiency"]
    assert efficiency.keys() == {"qpp", "rpp"}


def test_unknown_operations_are_not_shown(r2llm, toy: Path) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out", "--quiet")
    shown = r2llm("show", "out").out
    assert "FLOPs" not in shown
    assert "RPP" not in shown


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("manifest.json", ("schedule",), "often"),
        ("manifest.json", ("environment", "hardware", "memory"), "much"),
        ("manifest.json", ("config", "model"), "x"),
        ("metrics.json", ("all", "nDCG@10"), None),
        ("metrics.json", ("first_stage", "per_query", "q1", "nDCG@10"), None),
    ],
)
def test_a_manifest_that_was_changed_is_one_line(r2llm, toy: Path, name: str, key: tuple, value: object) -> None:
    r2llm("rerank", "--config", "toy.yaml", "--output", "out")
    content = json.loads(Path("out", name).read_text())
    part = content
    for step in key[:-1]:
        part = part[step]
    if value is None:
        del part[key[-1]]
    else:
        part[key[-1]] = value
    Path("out", name).write_text(json.dumps(content))
    words = ("inspect", "out", "--worst", 1) if "per_query" in key else ("show", "out")
    done = r2llm(*words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: out")
    assert "verify" in done.err
