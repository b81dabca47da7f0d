"""A query's story is what the run did: the same asks, the same answers, the same order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import inspect as inspection
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import costs, runfile
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.ledger import Ledger

Run = Callable[..., Path]
RUN = Path("run")


@pytest.fixture
def run(toy: Path) -> Run:
    """The folder of a run of the toy experiment with some settings."""

    def run(*settings: str) -> Path:
        experiment.rerank(config.load("toy.yaml", settings), RUN, Listener())
        return RUN

    return run


def docs(story: dict[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(doc["doc"] for doc in ask["docs"]) for ask in story["asks"]]


# The story


def test_each_ask_is_told_in_order_with_its_answer(run: Run) -> None:
    story = inspection.story(run("model.answers=oracle", "ranker.k=2"), "q1")
    assert story["query"]["text"] == "why is the sea salt"
    # The heap of d1 d2 d3 d4, two children a node: d4 under d2, d2 and d3 under d1.
    assert docs(story) == [("d2", "d4"), ("d1", "d2", "d3"), ("d4", "d2", "d1")]
    assert [ask["read_as"] for ask in story["asks"]] == ["d2", "d3", "d1"]
    assert [ask["round"] for ask in story["asks"]] == [1, 2, 3]
    assert [ask["labels"] for ask in story["asks"]] == [["A", "B"], ["A", "B", "C"], ["A", "B", "C"]]
    assert story["notes"] == []


def test_the_first_stage_and_the_moves_have_ranks_and_grades(run: Run) -> None:
    story = inspection.story(run("model.answers=oracle", "ranker.k=2"), "q1")
    assert [(hit["doc"], hit["score"]) for hit in story["first_stage"]] == [("d1", 9), ("d2", 8), ("d3", 7), ("d4", 6)]
    assert [hit["grade"] for hit in story["first_stage"]] == [1, None, 3, None]
    assert [tuple(move.values()) for move in story["moves"]] == [
        (1, 3, "d3", 3),
        (2, 1, "d1", 1),
    ]


METHODS = [
    *("setwise.heapsort", "setwise.bubblesort", "pairwise.heapsort", "pairwise.allpair"),
    *("listwise.sliding", "pointwise.yes_no", "pointwise.qlm"),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", ["given", "shuffle"])
def test_it_agrees_with_what_the_run_counted_and_wrote(run: Run, method: str, order: str) -> None:
    folder = run(f"ranker={{method: {method}}}", "model.answers=hash", f"first_stage.order={order}")
    written, _ = runfile.read(folder / "run.trec")
    counted = {query: cost for query, [cost] in costs.read(folder / "costs.jsonl").items()}
    for query, ranking in written.items():
        story = inspection.story(folder, query)
        assert len(story["asks"]) == counted[query].asks
        assert story["cost"] == asdict(counted[query])
        assert max((ask["round"] for ask in story["asks"]), default=0) == counted[query].rounds
        assert [move["doc"] for move in story["moves"]] == [doc for doc, _ in ranking][: len(story["moves"])]
        assert sum(ask["same_as"] is not None for ask in story["asks"]) == counted[query].cached
        assert story["notes"] == []


def test_a_repeated_ask_leads_to_the_first_of_its_kind(run: Run) -> None:
    story = inspection.story(run("ranker={method: listwise.sliding, repeats: 3}", "model.answers=oracle"), "q2")
    assert [ask["same_as"] for ask in story["asks"]] == [None, None, 2]
    assert docs(story)[1] == docs(story)[2] == ("d4", "d5")


def test_the_quickstart_has_a_story_without_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment.rerank(config.load("quickstart.yaml", queries=2), tmp_path / "run", Listener())
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "empty"))
    story = inspection.story(tmp_path / "run", "q02")
    assert len(story["first_stage"]) > 10
    assert len(story["moves"]) == 10
    assert not (tmp_path / "empty" / "indexes").exists()


def test_a_story_is_told_from_any_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run().resolve()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert inspection.story(folder, "q1")["asks"]


# Real models


@pytest.fixture
def generated(run: Run, tiny_t5: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A run of a model that writes its answers, and the folder of the model."""
    folder = Path(shutil.copytree(tiny_t5, tmp_path / "model"))
    settings = (f"model={{backend: transformers, name: {folder}, device: cpu}}", "ranker.scoring=generation")
    return run(*settings, "ranker.on_unparsed=retry", "ranker.passage_tokens=3"), folder


def test_raw_texts_tokens_and_second_attempts_are_told_without_the_model(generated: tuple[Path, Path]) -> None:
    run_dir, model = generated
    shutil.rmtree(model)
    for query, [cost] in costs.read(run_dir / "costs.jsonl").items():
        story = inspection.story(run_dir, query)
        assert len(story["asks"]) == cost.asks
        assert all(isinstance(ask["text"], str) for ask in story["asks"])
        assert sum(ask["prompt_tokens"] or 0 for ask in story["asks"]) == cost.prompt_tokens
        assert sum(not ask["parsed"] for ask in story["asks"]) == cost.unparsed
        again = [ask for ask in story["asks"] if ask["again"]]
        assert len(again) > 0  # a model of random weights writes no label
        assert story["asks"][0]["again"] is False


def test_prompts_are_shown_as_the_model_read_them(generated: tuple[Path, Path]) -> None:
    story = inspection.story(generated[0], "q1", prompts=True)
    for ask in story["asks"]:
        assert ask["prompt_cut"]
        assert "Sea water is salt." not in ask["prompt"]  # cut to three tokens
    assert story["notes"] == []


def test_without_the_tokenizer_prompts_are_whole_and_it_is_said(generated: tuple[Path, Path]) -> None:
    run_dir, model = generated
    shutil.rmtree(model)
    story = inspection.story(run_dir, "q1", prompts=True)
    assert any("Sea water is salt." in ask["prompt"] for ask in story["asks"])
    [note] = story["notes"]
    assert "prompts are shown whole" in note


def test_simulated_prompts_are_whole(run: Run) -> None:
    story = inspection.story(run(), "q1", prompts=True)
    assert story["asks"][0]["prompt"].startswith("[user]\nGiven a query")
    assert "no tokenizer" in story["notes"][0]


# What cannot be told


def test_of_recorded_texts_only_the_order_can_be_told(toy: Path) -> None:
    answers = [json.dumps({"query_id": query, "text": text}) for query, text in (("q1", "[3] > [1]"), ("q2", "[2]"))]
    Path("answers.jsonl").write_text("\n".join(answers), encoding="utf-8")
    settings = ("ranker={method: listwise.sliding}", "model={backend: replay, answers: answers.jsonl}")
    experiment.rerank(config.load("toy.yaml", [*settings, "queries.ids=[q1, q2]"]), RUN, Listener())
    story = inspection.story(RUN, "q1", prompts=True)
    assert story["asks"] == []
    assert [move["doc"] for move in story["moves"]] == ["d3", "d1", "d2", "d4"]
    assert story["notes"] == [inspection.REPLAYED_TEXTS]


def test_a_replayed_ledger_has_the_story_of_the_recording(run: Run, toy: Path) -> None:
    recorded = inspection.story(run(), "q1")
    settings = (f"model={{backend: replay, answers: {RUN / 'ledger.sqlite'}}}",)
    experiment.rerank(config.load("toy.yaml", settings), Path("replayed"), Listener())
    story = inspection.story(Path("replayed"), "q1", prompts=True)
    assert docs(story) == docs(recorded)
    assert story["moves"] == recorded["moves"]


def test_a_run_that_was_cut_off_is_told_as_far_as_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Ledger.add
    calls = []

    def add(self: Ledger, replies: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise BackendError("the power failed")
        keep(self, replies)

    monkeypatch.setattr(Ledger, "add", add)
    with pytest.raises(BackendError):
        run("model.answers=oracle")
    monkeypatch.setattr(Ledger, "add", keep)
    story = inspection.story(RUN, "q1")
    assert docs(story) == [("d2", "d4"), ("d1", "d2", "d3")]
    assert story["moves"] == []
    early, unfinished = story["notes"]
    assert early.startswith("the story ends early: run/ledger.sqlite: no answer for query q1 about")
    assert "no run.trec" in unfinished


def test_where_reading_was_given_up_the_unread_answer_is_told(run: Run, tiny_t5: Path) -> None:
    with pytest.raises(BackendError):
        run(f"model={{backend: transformers, name: {tiny_t5}}}", "ranker.scoring=generation", "ranker.on_unparsed=fail")
    stories = [inspection.story(RUN, query) for query in ("q1", "q2", "q3")]
    assert any("cannot be read" in story["notes"][0] for story in stories)


def test_a_run_file_that_says_something_else_is_noticed(run: Run) -> None:
    folder = run("model.answers=oracle")
    ranking, _ = runfile.read(folder / "run.trec")
    turned = {query: [doc for doc, _ in reversed(found)] for query, found in ranking.items()}
    runfile.write(folder / "run.trec", turned, turned, "toy")
    assert "run.trec has another order" in inspection.story(folder, "q1")["notes"][0]


def test_a_query_that_the_run_does_not_have_is_refused(run: Run) -> None:
    folder = run("queries.ids=[q2]")
    with pytest.raises(InputError, match=r"^run: query q1 is not among the run's 1; the first is q2$"):
        inspection.story(folder, "q1")


def test_a_folder_that_is_no_runs_is_refused(toy: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json in it; r2llm rerank makes one"):
        inspection.story(toy, "q1")


def test_of_a_first_stage_alone_there_is_little_to_tell(toy: Path) -> None:
    experiment.retrieve_only(config.load("toy.yaml"), RUN, Listener())
    story = inspection.story(RUN, "q1")
    assert (list(story["asks"]), list(story["moves"])) == ([], [])
    assert "no ledger.sqlite" in story["notes"][0]
