"""An estimate is held against the run: counts that do not depend on answers are its counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline import config, experiment
from r2llm.pipeline.estimate import COUNTS, Estimate, estimate
from r2llm.pipeline.experiment import Outcome
from r2llm.pipeline.progress import Listener
from r2llm.rerankers.backends import transformers
from r2llm.rerankers.errors import InputError

QUICKSTART = ("queries.limit=5", "first_stage.depth=20")


def before(name: str, *settings: str, probe: float = 0) -> Estimate:
    return estimate(config.load(name, settings), probe, Listener())


def after(name: str, *settings: str) -> Outcome:
    return experiment.rerank(config.load(name, settings), Path("run"), Listener())


def t5(folder: Path) -> str:
    return f"model={{backend: transformers, name: {folder}, device: cpu}}"


@pytest.mark.parametrize(
    "method", ["pointwise.yes_no", "pointwise.qlm", "pairwise.allpair", "listwise.sliding", "pointwise.judgerank"]
)
def test_counts_that_do_not_depend_on_answers_are_the_runs(toy: Path, method: str) -> None:
    settings = (f"ranker={{method: {method}}}",)
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert found.stages[0].exact == COUNTS
    assert found.queries == run.queries
    assert {name: found.total[name] for name in COUNTS} == {name: run.costs[name]["total"] for name in COUNTS}
    assert {found.total[name] for name in ("prompt_tokens", "completion_tokens", "flops", "seconds")} == {None}
    assert found.stages[0].sampled == 0


@pytest.mark.parametrize("method", ["setwise.heapsort", "pairwise.heapsort"])
def test_counts_that_depend_on_answers_are_said_to(write: Callable[..., Path], method: str) -> None:
    # With the judge as the run's own model, they are the run's all the same.
    settings = (*QUICKSTART, f"ranker={{method: {method}}}", "model.answers=oracle")
    found, run = before("quickstart.yaml", *settings), after("quickstart.yaml", *settings)
    assert found.stages[0].exact == ()
    assert {name: found.total[name] for name in COUNTS} == {name: run.costs[name]["total"] for name in COUNTS}


def test_how_often_equal_asks_come_may_alone_depend_on_answers(write: Callable[..., Path]) -> None:
    found = before("quickstart.yaml", *QUICKSTART, "ranker={method: pairwise.sliding}", "model.answers=oracle")
    assert found.stages[0].exact == ("asks", "rounds")


def test_equal_texts_are_one_call_to_a_model_that_reads_them(toy: Path, tiny_t5: Path) -> None:
    docs = "".join(f'{{"_id": "d{number}", "text": "The moon pulls the sea."}}\n' for number in range(1, 6))
    (toy / "docs.jsonl").write_text(docs, encoding="utf-8")
    settings = ("ranker={method: pointwise.yes_no}", t5(tiny_t5))
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert (found.total["asks"], found.total["calls"]) == (8, 3)
    assert run.costs["calls"]["total"] == 3
    assert found.total["prompt_tokens"] == pytest.approx(run.costs["prompt_tokens"]["total"], rel=0.05)


def test_an_answer_that_is_asked_for_again_makes_counts_an_estimate(toy: Path) -> None:
    assert before("toy.yaml", "ranker={method: pointwise.yes_no}").stages[0].exact == COUNTS
    assert before("toy.yaml", "ranker={method: pointwise.yes_no, on_unparsed: retry}").stages[0].exact == ()


@pytest.mark.parametrize("schedule", ["throughput", "latency"])
def test_repeated_asks_are_one_call_where_they_are_pooled(toy: Path, schedule: str) -> None:
    settings = (
        "ranker={method: listwise.sliding, window: 2, stride: 1, repeats: 3}",
        f"schedule={schedule}",
        "model.answers=oracle",
    )
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert {name: found.total[name] for name in COUNTS} == {name: run.costs[name]["total"] for name in COUNTS}
    assert (found.total["calls"] == found.total["asks"]) == (schedule == "latency")


@pytest.mark.parametrize(
    "ranker", ["{method: pointwise.yes_no}", "{method: pointwise.qlm}", "{method: pairwise.allpair}"]
)
def test_tokens_are_about_those_that_the_run_measures(toy: Path, tiny_t5: Path, ranker: str) -> None:
    settings = (f"ranker={ranker}", t5(tiny_t5))
    found, run = before("toy.yaml", *settings), after("toy.yaml", *settings)
    assert found.total["prompt_tokens"] == pytest.approx(run.costs["prompt_tokens"]["total"], rel=0.01)
    assert found.total["completion_tokens"] == run.costs["completion_tokens"]["total"] == 0
    assert found.total["flops"]
    assert found.stages[0].corrections.keys() == {"gated_ffn", "output_head", "attention_scores"}


def test_tokens_of_a_sample_are_about_those_of_all(write: Callable[..., Path], tiny_t5: Path, monkeypatch) -> None:
    monkeypatch.setattr("r2llm.pipeline.estimate.SAMPLE", 20)
    settings = (*QUICKSTART, "ranker={method: pointwise.yes_no}", t5(tiny_t5))
    found, run = before("quickstart.yaml", *settings), after("quickstart.yaml", *settings)
    assert found.stages[0].sampled == 20
    assert found.total["prompt_tokens"] == pytest.approx(run.costs["prompt_tokens"]["total"], rel=0.15)


def test_generated_answers_are_bounded(toy: Path, tiny_t5: Path) -> None:
    settings = ("ranker={method: setwise.heapsort, scoring: generation, max_new_tokens: 3}", t5(tiny_t5))
    found = before("toy.yaml", *settings)
    assert found.total["completion_tokens"] == 3 * (found.total["asks"] or 0)


def test_without_a_probe_no_weights_are_loaded(toy: Path, tiny_t5: Path, monkeypatch) -> None:
    monkeypatch.setattr(transformers.Transformers, "model", property(lambda self: pytest.fail("loaded")))
    assert before("toy.yaml", t5(tiny_t5)).total["seconds"] is None


def test_a_probe_measures_the_time(toy: Path, tiny_t5: Path) -> None:
    assert (before("toy.yaml", t5(tiny_t5), probe=0.1).total["seconds"] or 0) > 0


def test_a_stage_is_estimated_on_what_the_simulated_stage_before_leaves(toy: Path, tiny_t5: Path) -> None:
    stages = (
        f"stages=[{{ranker: {{method: pointwise.yes_no}}, model: {{backend: transformers, name: {tiny_t5}}}}}, "
        "{ranker: {method: pairwise.allpair}, model: {backend: simulated}, depth: 2}]"
    )
    (toy / "cascade.yaml").write_text((toy / "toy.yaml").read_text().partition("ranker:")[0])
    found = before("cascade.yaml", stages)
    assert [stage.method for stage in found.stages] == ["pointwise.yes_no", "pairwise.allpair"]
    assert [stage.figures["asks"] for stage in found.stages] == [8, 6]
    assert found.total["asks"] == 14
    assert found.stages[0].figures["prompt_tokens"]
    assert found.stages[1].figures["prompt_tokens"] is found.total["prompt_tokens"] is None


def test_without_judgements_a_hash_judges(toy: Path) -> None:
    assert before("toy.yaml").judge == "oracle"
    assert before("toy.yaml", "dataset.qrels=null").judge == "rel"


def test_time_is_no_less_than_none(toy: Path) -> None:
    with pytest.raises(InputError, match=r"--probe-seconds -1: a time is 0 or more"):
        before("toy.yaml", probe=-1)
