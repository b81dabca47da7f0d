"""An estimate is held against the run: counts that do not depend on answers are its counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.estimate import COUNTS, estimate
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run.read import Run
from r2llm.rerankers.backends._local.weights import Weights
from r2llm.rerankers.errors import InputError

Content = dict[str, Any]

QUICKSTART = ("queries.limit=5", "first_stage.depth=20")


def before(name: str, *settings: str, tried: int = 0) -> Content:
    return estimate(config.load(name, settings), tried, Listener())


def totals(found: Content) -> dict[str, float | None]:
    return {name: cost["total"] for name, cost in found["costs"].items()}


def after(name: str, *settings: str) -> Run:
    return experiment.rerank(config.load(name, settings), Path("run"), Listener())


def measured(outcome: Run) -> dict[str, float | None]:
    return {name: figures["total"] for name, figures in outcome.costs.items()}


def counts(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: found[name] for name in COUNTS}


def t5(folder: Path) -> str:
    return f"model={{backend: transformers, name: {folder}, device: cpu}}"


@pytest.mark.parametrize(
    "method", ["pointwise.yes_no", "pointwise.qlm", "pairwise.allpair", "listwise.sliding", "pointwise.judgerank"]
)
def test_counts_that_do_not_depend_on_answers_are_the_runs(toy: Path, tiny_t5: Path, method: str) -> None:
    settings = (f"ranker={{method: {method}, max_new_tokens: 4}}", t5(tiny_t5))
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert found["stages"][0]["exact"] == COUNTS
    assert found["queries"] == run.queries
    assert counts(totals(found)) == counts(measured(run))
    assert all(
        found["costs"][name]["low"] == found["costs"][name]["high"] == found["costs"][name]["total"] for name in COUNTS
    )


@pytest.mark.parametrize("method", ["setwise.heapsort", "pairwise.heapsort", "pairwise.sliding"])
@pytest.mark.parametrize("answers", ["oracle", "noisy"])
def test_counts_of_a_simulated_model_are_the_runs(write: Callable[..., Path], method: str, answers: str) -> None:
    settings = (*QUICKSTART, f"ranker={{method: {method}}}", f"model.answers={answers}")
    found, run = before("quickstart.yaml", *settings), after("quickstart.yaml", *settings)
    assert found["judged_by"] == "model"
    assert found["stages"][0]["exact"] == COUNTS
    assert counts(totals(found)) == counts(measured(run))
    assert {totals(found)[name] for name in ("prompt_tokens", "completion_tokens", "flops", "usd", "seconds")} == {None}
    assert found["stages"][0]["sampled"] == 0


@pytest.mark.parametrize(
    ("method", "exact"), [("setwise.heapsort", ()), ("pairwise.heapsort", ()), ("pairwise.sliding", ("asks", "rounds"))]
)
def test_counts_that_depend_on_answers_are_said_to_with_a_range(
    write: Callable[..., Path], tiny_t5: Path, method: str, exact: tuple[str, ...]
) -> None:
    found = before("quickstart.yaml", *QUICKSTART, f"ranker={{method: {method}}}", t5(tiny_t5))
    assert found["stages"][0]["exact"] == exact
    for name in COUNTS:
        low, total, high = (found["costs"][name][each] for each in ("low", "total", "high"))
        assert low < total < high or name in exact
    flops, asks = found["costs"]["flops"], found["costs"]["asks"]
    assert (flops["low"], flops["high"]) == (
        pytest.approx(flops["total"] * asks["low"] / asks["total"]),
        pytest.approx(flops["total"] * asks["high"] / asks["total"]),
    )


def test_equal_texts_are_one_call_to_a_model_that_reads_them(toy: Path, tiny_t5: Path) -> None:
    docs = "".join(f'{{"_id": "d{number}", "text": "The moon pulls the sea."}}\n' for number in range(1, 6))
    (toy / "docs.jsonl").write_text(docs, encoding="utf-8")
    settings = ("ranker={method: pointwise.yes_no}", t5(tiny_t5))
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert (totals(found)["asks"], totals(found)["calls"]) == (8, 3)
    assert measured(run)["calls"] == 3
    assert totals(found)["prompt_tokens"] == pytest.approx(measured(run)["prompt_tokens"], rel=0.05)


def test_an_answer_that_is_asked_for_again_makes_counts_an_estimate(toy: Path, tiny_t5: Path) -> None:
    again = "ranker={method: pointwise.yes_no, on_unparsed: retry}"
    assert before("toy.yaml", "ranker={method: pointwise.yes_no}", t5(tiny_t5))["stages"][0]["exact"] == COUNTS
    assert before("toy.yaml", again, t5(tiny_t5))["stages"][0]["exact"] == ()
    assert before("toy.yaml", again)["stages"][0]["exact"] == COUNTS


@pytest.mark.parametrize("schedule", ["throughput", "latency"])
def test_repeated_asks_are_one_call_where_they_are_pooled(toy: Path, schedule: str) -> None:
    settings = (
        "ranker={method: listwise.sliding, window: 2, stride: 1, repeats: 3}",
        f"schedule={schedule}",
        "model.answers=oracle",
    )
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert counts(totals(found)) == counts(measured(run))
    assert (totals(found)["calls"] == totals(found)["asks"]) == (schedule == "latency")


@pytest.mark.parametrize(
    "ranker",
    [
        "{method: pointwise.yes_no}",
        "{method: pointwise.qlm}",
        "{method: pairwise.allpair}",
        "{method: pointwise.graded, prompt: graded_3l}",
    ],
)
def test_tokens_and_operations_are_those_that_the_run_measures(toy: Path, tiny_llama: Path, ranker: str) -> None:
    settings = (f"ranker={ranker}", t5(tiny_llama))
    found, run = totals(before("toy.yaml", *settings)), measured(after("toy.yaml", *settings))
    assert found["prompt_tokens"] == pytest.approx(run["prompt_tokens"], rel=1e-9)
    assert found["completion_tokens"] == run["completion_tokens"] == 0
    assert found["flops"] == pytest.approx(run["flops"], rel=1e-9)
    assert found["usd"] is run["usd"] is None


def test_what_the_estimate_of_operations_leaves_out_is_told(toy: Path, tiny_t5: Path) -> None:
    found = before("toy.yaml", t5(tiny_t5))
    assert found["stages"][0]["flops_left_out"].keys() == {"gated_ffn", "output_head", "attention_scores"}


def test_tokens_of_a_sample_are_about_those_of_all(write: Callable[..., Path], tiny_t5: Path, monkeypatch) -> None:
    monkeypatch.setattr("r2llm.pipeline.estimate.simulation.SAMPLE", 20)
    settings = (*QUICKSTART, "ranker={method: pointwise.yes_no}", t5(tiny_t5))
    found, run = before("quickstart.yaml", *settings), after("quickstart.yaml", *settings)
    assert found["stages"][0]["sampled"] == 20
    assert totals(found)["prompt_tokens"] == pytest.approx(measured(run)["prompt_tokens"], rel=0.15)


def test_generated_answers_are_bounded_until_the_model_is_asked(toy: Path, tiny_t5: Path) -> None:
    settings = ("ranker={method: listwise.sliding, window: 2, stride: 1, max_new_tokens: 3}", t5(tiny_t5))
    found = before("toy.yaml", *settings)
    assert found["stages"][0]["bounded"]
    assert totals(found)["completion_tokens"] == 3 * (totals(found)["asks"] or 0)
    asked, run = before("toy.yaml", *settings, tried=2), after("toy.yaml", *settings)
    assert not asked["stages"][0]["bounded"]
    assert totals(asked)["completion_tokens"] == pytest.approx(measured(run)["completion_tokens"], rel=0.15)


def test_notes_count_at_most_by_their_limit_and_with_a_probe_as_they_are_written(toy: Path, tiny_llama: Path) -> None:
    settings = ("ranker={method: pointwise.judgerank, max_new_tokens: 24}", t5(tiny_llama))
    most = before("toy.yaml", *settings)
    asked, run = totals(before("toy.yaml", *settings, tried=2)), measured(after("toy.yaml", *settings))
    assert most["stages"][0]["bounded"]
    assert (totals(most)["completion_tokens"] or 0) >= (run["completion_tokens"] or 0)
    for name in ("prompt_tokens", "flops"):
        assert asked[name] == pytest.approx(run[name], rel=0.15)


def test_without_a_probe_no_weights_are_loaded(toy: Path, tiny_t5: Path, monkeypatch) -> None:
    monkeypatch.setattr(Weights, "load", lambda *_: pytest.fail("loaded"))
    assert totals(before("toy.yaml", t5(tiny_t5)))["seconds"] is None


@pytest.mark.parametrize("ranker", ["{method: setwise.heapsort, k: 3}", "{method: pairwise.bubblesort, k: 2}"])
def test_all_queries_tried_are_the_run(write: Callable[..., Path], tiny_t5: Path, ranker: str) -> None:
    settings = (*QUICKSTART, "queries.limit=2", "first_stage.depth=8", f"ranker={ranker}", t5(tiny_t5))
    found, run = before("quickstart.yaml", *settings, tried=50), measured(after("quickstart.yaml", *settings))
    assert found["tried"] == found["queries"] == 2
    for name in (*COUNTS, "prompt_tokens", "completion_tokens", "flops"):
        assert totals(found)[name] == pytest.approx(run[name])
        assert (found["costs"][name]["low"], found["costs"][name]["high"]) == (
            pytest.approx(run[name]),
            pytest.approx(run[name]),
        )
    assert (totals(found)["seconds"] or 0) > 0
    assert found["costs"]["seconds"]["low"] is None


def test_some_queries_tried_are_scaled_up(write: Callable[..., Path], tiny_t5: Path) -> None:
    settings = (*QUICKSTART, "first_stage.depth=9", "ranker={method: setwise.heapsort, k: 3}", t5(tiny_t5))
    found, run = before("quickstart.yaml", *settings, tried=3), measured(after("quickstart.yaml", *settings))
    assert found["tried"] == 3
    for name in ("asks", "prompt_tokens", "flops"):
        assert totals(found)[name] == pytest.approx(run[name], rel=0.15)
        assert (found["costs"][name]["low"] or 0) < (totals(found)[name] or 0) < (found["costs"][name]["high"] or 0)


def test_a_stage_is_estimated_on_what_the_simulated_stage_before_leaves(toy: Path, tiny_t5: Path) -> None:
    stages = (
        f"stages=[{{ranker: {{method: pointwise.yes_no}}, model: {{backend: transformers, name: {tiny_t5}}}}}, "
        "{ranker: {method: pairwise.allpair}, model: {backend: simulated}, depth: 2}]"
    )
    (toy / "cascade.yaml").write_text((toy / "toy.yaml").read_text().partition("ranker:")[0])
    for tried in (0, 2):
        found = before("cascade.yaml", stages, tried=tried)
        assert [stage["method"] for stage in found["stages"]] == ["pointwise.yes_no", "pairwise.allpair"]
        assert [stage["costs"]["asks"]["total"] for stage in found["stages"]] == [8, 6]
        assert totals(found)["asks"] == 14
        assert found["stages"][0]["costs"]["prompt_tokens"]["total"]
        assert found["stages"][1]["costs"]["prompt_tokens"]["total"] is totals(found)["prompt_tokens"] is None


def test_stages_of_one_model_share_their_calls(toy: Path, tiny_t5: Path) -> None:
    stages = "stages=[{ranker: {method: pointwise.yes_no}}, {ranker: {method: pointwise.yes_no}}]"
    (toy / "cascade.yaml").write_text((toy / "toy.yaml").read_text().partition("ranker:")[0])
    found, run = (act("cascade.yaml", stages, t5(tiny_t5)) for act in (before, after))
    assert [stage["costs"]["calls"]["total"] for stage in found["stages"]] == [8, 0]
    assert totals(found)["flops"] == pytest.approx(measured(run)["flops"])
    assert counts(totals(found)) == counts(measured(run))


def test_what_the_answers_went_by_is_told(toy: Path, tiny_t5: Path) -> None:
    assert before("toy.yaml")["judged_by"] == "model"
    assert before("toy.yaml", t5(tiny_t5))["judged_by"] == "qrels"
    assert before("toy.yaml", t5(tiny_t5), "dataset.qrels=null")["judged_by"] == "first_stage"


def test_a_server_is_not_asked_unless_told(toy: Path) -> None:
    model = "model={backend: openai, name: m, base_url: 'http://127.0.0.1:9/v1', prices: {prompt: 1, completion: 2}}"
    found = before("toy.yaml", model)
    assert totals(found)["asks"]
    assert totals(found)["seconds"] is totals(found)["usd"] is None


def test_prices_of_a_server_whose_tokens_are_counted_here(toy: Path, tiny_llama: Path) -> None:
    model = f"model={{backend: openai, name: m, tokenizer: {tiny_llama}, prices: {{prompt: 1, completion: 2}}}}"
    found = totals(before("toy.yaml", "ranker={method: pointwise.yes_no}", model))
    assert found["usd"] == pytest.approx((found["prompt_tokens"] or 0) / 1e6)


def test_less_than_nothing_is_refused(toy: Path) -> None:
    with pytest.raises(InputError, match=r"--probe-queries -1: the number of queries must be 0 or more"):
        before("toy.yaml", tried=-1)


def test_a_replay_is_not_tried(toy: Path) -> None:
    (toy / "answers.jsonl").write_text('{"query_id": "q1", "text": "Yes"}\n')
    model = "model={backend: replay, answers: answers.jsonl}"
    assert totals(before("toy.yaml", "ranker={method: pointwise.yes_no}", model))["asks"] == 8
    with pytest.raises(InputError, match=r"--probe-queries: recorded answers serve one whole run"):
        before("toy.yaml", model, tried=1)
