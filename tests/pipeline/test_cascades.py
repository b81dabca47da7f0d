"""Cascades: what a config says of them, what a run leaves behind, and that it can be resumed, replayed and checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import inspect as inspection
from r2llm.pipeline.compare import check
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import costs, runfile
from r2llm.pipeline.run import read as record
from r2llm.pipeline.run.read import Run
from r2llm.pipeline.verify import verify
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.ledger import Ledger

Write = Callable[[str, str], Path]

CASCADE = """\
dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
first_stage: {run: bm25.trec}
model: {backend: simulated, answers: oracle}
stages:
- ranker: {method: pointwise.yes_no}
  model: {backend: simulated, answers: hash}
- ranker: {method: pairwise.allpair}
  depth: 4
- ranker: {method: listwise.sliding, window: 2, stride: 1}
  depth: 3
"""

SAME = ("query_id", "asks", "rounds", "comparisons", "unparsed")


@pytest.fixture
def cascade(toy: Path, write: Write) -> Path:
    write("cascade.yaml", CASCADE)
    return toy


def rerank(heard, *settings: str, name: str = "cascade.yaml", output: Path | None = None) -> Run:
    return experiment.rerank(config.load(name, settings), output, heard)


def manifest(outcome: Run) -> dict[str, Any]:
    return json.loads((outcome.run_dir / "manifest.json").read_text())


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "costs.jsonl").read_text().splitlines()]


def same(folder: Path) -> list[dict[str, Any]]:
    """What an interruption must not change."""
    kept = [{key: row[key] for key in SAME} for row in rows(folder)]
    stages = [[{key: stage[key] for key in SAME[1:]} for stage in row["stages"]] for row in rows(folder)]
    return [*kept, *stages]


# Config


def test_stages_take_the_shared_model_unless_they_have_their_own(cascade: Path) -> None:
    loaded = config.load("cascade.yaml")
    assert [stage.model for stage in loaded.stages] == [
        {"backend": "simulated", "answers": "hash"},
        {"backend": "simulated", "answers": "oracle"},
        {"backend": "simulated", "answers": "oracle"},
    ]
    assert [stage.depth for stage in loaded.stages] == [None, 4, 3]
    assert [ranker.prompt.name for ranker in loaded.rankers] == ["yes_no", "pairwise", "rankgpt"]


def test_a_setting_changes_one_stage(cascade: Path) -> None:
    loaded = config.load("cascade.yaml", ["stages.1.ranker.k=2", "stages.2.depth=2", "stages.0.model.answers=rel"])
    assert loaded.stages[1].ranker == {"method": "pairwise.allpair", "k": 2}
    assert loaded.stages[2].depth == 2
    assert loaded.stages[0].model == {"backend": "simulated", "answers": "rel"}
    assert loaded.changes_ranking
    assert not config.load("cascade.yaml", ["schedule=latency"]).changes_ranking
    with pytest.raises(InputError, match=r"--set stages\.3\.depth=2: stages has no item 3; there are 0, 1, 2"):
        config.load("cascade.yaml", ["stages.3.depth=2"])


def test_a_child_replaces_ranker_by_stages_and_stages_by_a_ranker(cascade: Path, write: Write) -> None:
    write("one.yaml", "extends: cascade.yaml\nranker: {method: setwise.heapsort}\n")
    assert config.load("one.yaml").config.stages is None
    write("two.yaml", "extends: one.yaml\nstages: [{ranker: {method: pointwise.qlm}, depth: 2}]\n")
    [stage] = config.load("two.yaml").stages
    assert (stage.ranker, stage.depth, stage.model) == (
        {"method": "pointwise.qlm"},
        2,
        config.load("one.yaml").config.model,
    )


def test_keys_of_other_methods_are_noted_for_each_stage(cascade: Path) -> None:
    loaded = config.load(
        "cascade.yaml", ["stages.0.ranker.window=3", "stages.2.model={noise: 0.5, backend: replay, answers: x.sqlite}"]
    )
    assert loaded.notes == (
        "stages.0.ranker.window is not used by pointwise.yes_no",
        "stages.2.model.noise is not used by replay",
    )


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("depth: 3", "depht: 3", r"line 10: unknown key stages\.2\.depht; did you mean 'depth'\?"),
        ("depth: 3", "depth: 0", r"line 10: stages\.2\.depth: should be greater than or equal to 1"),
        ("window: 2", "windw: 2", r"line 9: unknown key stages\.2\.ranker\.windw; did you mean 'window'"),
        ("window: 2", "window: none", r"line 9: stages\.2\.ranker\.window: should be a valid integer"),
        (
            "pairwise.allpair",
            "pairwise.alpair",
            r"line 7: stages\.1\.ranker\.method: unknown method 'pairwise\.alpair'",
        ),
        ("answers: hash", "answers: hush", r"line 6: stages\.0\.model\.answers: should be 'oracle'"),
        ("{method: pairwise.allpair}", "{k: 3}", r"line 7: stages\.1\.ranker\.method must be one of"),
        ("- ranker: {method: pairwise.allpair}\n  depth", "- depth", r"line 7: stages\.1\.ranker is missing"),
        (
            "model: {backend: simulated, answers: o",
            "ranker: {method: setwise.heapsort}\nmodel: {backend: simulated, answers: o",
            r"line 5: stages: give one of ranker and stages",
        ),
        (
            "{method: pairwise.allpair}",
            "{method: pairwise.allpair, passages: {}}",
            "line 7: pairwise.allpair gives documents no",
        ),
        (
            "yes_no}",
            "yes_no, passages: {word: 3}}",
            r"line 5: unknown key stages\.0\.ranker\.passages\.word; did you mean 'words'",
        ),
    ],
)
def test_a_mistake_in_a_stage_has_its_line(cascade: Path, write: Write, old: str, new: str, complaint: str) -> None:
    write("cascade.yaml", CASCADE.replace(old, new))
    with pytest.raises(InputError, match=complaint):
        config.load("cascade.yaml")


def test_a_stages_files_are_looked_up_beside_the_config(cascade: Path, write: Write, monkeypatch) -> None:
    prompts = Path(config.SHIPPED).parent / "rerankers" / "prompts"
    write("mine.yaml", (prompts / "pairwise.yaml").read_text())
    write("cascade.yaml", CASCADE.replace("pairwise.allpair", "pairwise.allpair, prompt: mine.yaml"))
    monkeypatch.chdir("/")
    loaded = config.load(str(cascade / "cascade.yaml"))
    assert loaded.stages[1].ranker["prompt"] == str(cascade / "mine.yaml")


# A run


def test_the_files_of_a_run(cascade: Path, heard) -> None:
    outcome = rerank(heard)
    assert {path.name for path in outcome.run_dir.iterdir()} - {".lock"} == {
        *("config.yaml", "first_stage.trec", "run.trec", "costs.jsonl", "metrics.json", "manifest.json"),
        *("ledger.sqlite", "ir-metadata.yml"),
    }
    found = manifest(outcome)
    assert found["experiment"].keys() == {"first_stage", "stages", "seed"}
    assert [stage["depth"] for stage in found["experiment"]["stages"]] == [None, 4, 3]
    assert [model["backend"] for model in found["models"]] == ["simulated"] * 3
    assert found["prompts"].keys() == {"yes_no", "pairwise", "rankgpt"}
    assert record.read(outcome.run_dir).costs == outcome.costs
    with closing(Ledger(outcome.run_dir / "ledger.sqlite", read_only=True)) as ledger:
        assert [model["answers"] for model in ledger.models()] == ["hash", "oracle"]


def test_costs_are_told_in_all_and_by_stage(cascade: Path, heard) -> None:
    folder = rerank(heard).run_dir
    for row, stages in zip(rows(folder), costs.read(folder / "costs.jsonl").values(), strict=True):
        assert [stage["method"] for stage in row["stages"]] == [
            "pointwise.yes_no",
            "pairwise.allpair",
            "listwise.sliding",
        ]
        assert row["stages"][0].keys() == row.keys() - {"query_id", "stages"} | {"method"}
        for name in ("asks", "calls", "cached", "rounds", "comparisons", "unparsed"):
            assert row[name] == sum(stage[name] for stage in row["stages"])
            assert [getattr(stage, name) for stage in stages] == [stage[name] for stage in row["stages"]]
    [first, *_] = rows(folder)
    assert [stage["asks"] for stage in first["stages"]] == [5, 12, 2]


def test_one_stage_without_a_depth_is_the_same_experiment_as_a_ranker(cascade: Path, write: Write, heard) -> None:
    write("one.yaml", "extends: toy.yaml\nstages: [{ranker: {method: setwise.heapsort, k: 3}}]\n")
    plain, one = rerank(heard, name="toy.yaml"), rerank(heard, name="one.yaml")
    assert manifest(plain)["fingerprint"] == manifest(one)["fingerprint"]
    assert "stages" not in rows(one.run_dir)[0]
    shallow = rerank(heard, "stages.0.depth=2", name="one.yaml")
    assert manifest(shallow)["fingerprint"] != manifest(one)["fingerprint"]
    assert {check.state for check in verify(shallow.run_dir, heard)} == {"agrees"}


def test_every_part_of_every_stage_and_their_order_are_in_the_fingerprint(cascade: Path, write: Write, heard) -> None:
    first, second = (
        "- ranker: {method: pairwise.allpair}\n  depth: 4\n",
        CASCADE[CASCADE.index("- ranker: {method: list") :],
    )
    write("turned.yaml", CASCADE.replace(first + second, second + first))
    settings = [
        "seed=0",
        "stages.0.model.answers=rel",
        "stages.1.depth=5",
        "stages.2.ranker.window=3",
        "model.answers=rel",
    ]
    found = [manifest(rerank(heard, setting))["fingerprint"] for setting in settings]
    found.append(manifest(rerank(heard, name="turned.yaml"))["fingerprint"])
    assert len(set(found)) == len(found)


def test_a_shared_model_is_opened_once(cascade: Path, heard, monkeypatch) -> None:
    from r2llm.rerankers.backends import simulated

    opened = []
    keep = simulated.open

    def counting(options, setting):
        opened.append(options.answers)
        return keep(options, setting)

    monkeypatch.setattr(simulated, "open", counting)
    rerank(heard)
    assert opened == ["hash", "oracle"]


def test_the_last_stages_order_is_the_runs(cascade: Path, heard) -> None:
    outcome = rerank(heard, "stages.0.model.answers=oracle")
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == 1


@pytest.mark.parametrize("portion", [1, 2, 256])
def test_the_config_in_the_folder_runs_to_the_same_result(cascade: Path, heard, monkeypatch, portion: int) -> None:
    first = rerank(heard, output=cascade / "elsewhere" / "run")
    monkeypatch.setattr("r2llm.rerankers.cascade.IN_FLIGHT", portion)
    monkeypatch.chdir("/")
    again = rerank(heard, name=str(first.run_dir / "config.yaml"), output=cascade / "again")
    assert manifest(again)["fingerprint"] == manifest(first)["fingerprint"]
    assert again.run_file.read_bytes() == first.run_file.read_bytes()
    assert same(again.run_dir) == same(first.run_dir)


# Interruptions


@pytest.mark.parametrize("failing", [1, 2, 5, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4, 6, 7, 8))])
@pytest.mark.parametrize("schedule", ["throughput", "latency"])
def test_it_goes_on_whichever_stage_was_cut_off(cascade: Path, heard, monkeypatch, failing: int, schedule: str) -> None:
    whole = rerank(heard, f"schedule={schedule}", output=cascade / "whole")
    keep, batches = Ledger.add, []

    def add(self: Ledger, replies: object) -> None:
        batches.append(1)
        if len(batches) == failing:
            raise BackendError("the power failed")
        keep(self, replies)

    monkeypatch.setattr(Ledger, "add", add)
    try:
        rerank(heard, f"schedule={schedule}", output=cascade / "cut")
    except BackendError:
        assert json.loads((cascade / "cut" / "manifest.json").read_text())["status"] == "running"
    monkeypatch.setattr(Ledger, "add", keep)
    resumed = rerank(heard, f"schedule={schedule}", output=cascade / "cut")
    assert resumed.run_file.read_bytes() == whole.run_file.read_bytes()
    assert same(resumed.run_dir) == same(whole.run_dir)
    assert manifest(resumed)["ledger"] == manifest(whole)["ledger"]
    assert {check.state for check in verify(resumed.run_dir, heard)} == {"agrees"}


KILLED = """
import os, signal, sys
from pathlib import Path
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.ledger import Ledger

keep, batches = Ledger.add, []

def add(self, replies):
    keep(self, replies)
    batches.append(1)
    if len(batches) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

Ledger.add = add
experiment.rerank(config.load("cascade.yaml"), Path("cut"), Listener())
"""


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_killed_process_leaves_what_it_answered(cascade: Path, heard, batch: int) -> None:
    whole = rerank(heard, output=cascade / "whole")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(batch)], env=environment, check=False)
    assert killed.returncode == -9
    resumed = rerank(heard, output=cascade / "cut")
    assert resumed.run_file.read_bytes() == whole.run_file.read_bytes()
    assert [execution["status"] for execution in manifest(resumed)["executions"]] == ["interrupted", "finished"]
    assert (
        sum(execution["calls"] for execution in manifest(resumed)["executions"]) == manifest(whole)["ledger"]["answers"]
    )


# Replaying and looking into it


def test_a_cascade_is_replayed_without_its_models(cascade: Path, heard) -> None:
    recorded = rerank(heard, output=cascade / "recorded")
    ledger = "backend: replay, answers: recorded/ledger.sqlite"
    settings = (f"model={{{ledger}, of: {{answers: oracle}}}}", f"stages.0.model={{{ledger}, of: {{answers: ha}}}}")
    replayed = rerank(heard, *settings, output=cascade / "replayed")
    assert replayed.run_file.read_bytes() == recorded.run_file.read_bytes()
    assert manifest(replayed)["fingerprint"] == manifest(recorded)["fingerprint"]
    assert manifest(replayed)["ledger"] == manifest(recorded)["ledger"]
    assert {check.state for check in verify(replayed.run_dir, heard)} == {"agrees"}
    assert inspection.story(replayed.run_dir, "q1")["notes"] == []
    with pytest.raises(
        InputError, match=r"holds answers of 2 models; a replay needs those of one, so say which with `of"
    ):
        rerank(heard, f"model={{{ledger}}}", output=cascade / "no")
    with pytest.raises(
        InputError,
        match=r"2 models, 0 of which fit \{'answers': 'rel'\}.*: answers: hash, backend: simulated, seed: 0; answers",
    ):
        rerank(heard, f"model={{{ledger}, of: {{answers: rel}}}}", output=cascade / "no")


def test_real_models_are_told_apart_checked_and_replayed(
    cascade: Path, write: Write, heard, tiny_t5: Path, tiny_llama: Path
) -> None:
    write(
        "real.yaml",
        "extends: toy.yaml\nqueries: {limit: 2}\nstages:\n"
        f"- ranker: {{method: pointwise.qlm}}\n  model: {{backend: transformers, name: {tiny_t5}, device: cpu}}\n"
        f"- ranker: {{method: setwise.heapsort}}\n  model: {{backend: transformers, name: {tiny_llama}, device: cpu}}\n"
        "  depth: 2\n",
    )
    recorded = rerank(heard, name="real.yaml", output=cascade / "recorded")
    checks = verify(recorded.run_dir, heard)
    assert {check.state for check in checks} == {"agrees"}
    assert {check.file for check in checks} >= {"model of stage 1", "model of stage 2"}
    for row in rows(recorded.run_dir):
        assert row["prompt_tokens"] == sum(stage["prompt_tokens"] for stage in row["stages"]) > 0
    assert inspection.story(recorded.run_dir, "q1", prompts=True)["notes"] == []
    ledger = "backend: replay, answers: recorded/ledger.sqlite"
    settings = [
        f"stages.{number}.model={{{ledger}, of: {{architecture: {architecture}}}}}"
        for number, architecture in enumerate(("encoder_decoder", "decoder_only"))
    ]
    replayed = rerank(heard, *settings, name="real.yaml", output=cascade / "replayed")
    assert replayed.run_file.read_bytes() == recorded.run_file.read_bytes()
    assert manifest(replayed)["fingerprint"] == manifest(recorded)["fingerprint"]


def test_two_prompts_of_one_name_are_both_in_the_manifest(cascade: Path, write: Write, heard) -> None:
    prompts = Path(config.SHIPPED).parent / "rerankers" / "prompts"
    write("yes_no.yaml", (prompts / "yes_no.yaml").read_text().replace("Passage:", "Text:"))
    stage = "stages.1.ranker={method: pointwise.yes_no, prompt: yes_no.yaml}"
    found = manifest(rerank(heard, stage))
    shipped, mine = (stage["ranker"]["prompts"][0] for stage in found["experiment"]["stages"][:2])
    assert shipped != mine
    assert {prompt["digest"] for prompt in found["prompts"].values()} >= {shipped, mine}


def test_recorded_texts_are_replayed_through_all_stages(cascade: Path, heard) -> None:
    texts = {"q1": ["Yes", "No", "[2] > [1]"], "q2": ["No", "Yes", "[2] > [1]"]}
    lines = [json.dumps({"query_id": query, "text": text}) for query, each in texts.items() for text in each]
    Path("answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pointwise = "{ranker: {method: pointwise.yes_no, scoring: generation}, depth: 2}"
    stages = f"[{pointwise}, {{ranker: {{method: listwise.sliding}}, depth: 2}}]"
    settings = (f"stages={stages}", "model={backend: replay, answers: answers.jsonl}", "queries.ids=[q1, q2]")
    ranking, _ = runfile.read(rerank(heard, *settings).run_file)
    assert [doc for doc, _ in ranking["q1"]] == ["d2", "d1", "d3", "d4", "d5"]
    assert [doc for doc, _ in ranking["q2"]] == ["d5", "d4"]


def test_a_flipped_count_of_a_stage_is_found(cascade: Path, heard) -> None:
    folder = rerank(heard).run_dir
    text = (folder / "costs.jsonl").read_text()
    (folder / "costs.jsonl").write_text(
        text.replace('"method": "pairwise.allpair", "asks": 12', '"method": "pairwise.allpair", "asks": 13', 1)
    )
    details = [check.detail for check in verify(folder, heard) if check.file == "costs.jsonl" and "again" in check.what]
    assert len(details) == 1
    assert details[0].startswith("query q1 ")


def test_a_story_tells_each_stage(cascade: Path, heard) -> None:
    folder = rerank(heard, "schedule=latency").run_dir
    [row, *_] = rows(folder)
    story = inspection.story(folder, "q1", prompts=True)
    assert [told["ranker"]["method"] for told in story["stages"]] == [stage["method"] for stage in row["stages"]]
    for number, stage in enumerate(row["stages"], 1):
        own = [ask for ask in story["asks"] if ask["stage"] == number]
        assert len(own) == stage["asks"]
        assert max(ask["round"] for ask in own) == stage["rounds"]
        assert all(ask["prompt"] for ask in own)
        told = story["stages"][number - 1]
        assert told["cost"] is not None
        assert told["cost"]["asks"] == stage["asks"]
    assert [ask["stage"] for ask in story["asks"]] == sorted(ask["stage"] for ask in story["asks"])
    ranking, _ = runfile.read(folder / "run.trec")
    assert [move["doc"] for move in story["moves"]] == [doc for doc, _ in ranking["q1"]]
    assert story["notes"] == ["no tokenizer is at hand, so prompts are shown whole: neither query nor passages are cut"]


def test_a_story_of_a_cut_off_cascade_tells_as_far_as_it_came(cascade: Path, heard, monkeypatch) -> None:
    keep, batches = Ledger.add, []

    def add(self: Ledger, replies: object) -> None:
        batches.append(1)
        if len(batches) == 3:
            raise BackendError("the power failed")
        keep(self, replies)

    monkeypatch.setattr(Ledger, "add", add)
    with pytest.raises(BackendError):
        rerank(heard, output=cascade / "cut")
    story = inspection.story(cascade / "cut", "q1")
    assert {ask["stage"] for ask in story["asks"]} == {1, 2}
    assert story["notes"][0].startswith("the story ends early")


@pytest.mark.parametrize(("stage", "kind", "docs"), [(1, "score", 1), (2, "compare", 2), (3, "permute", 2)])
def test_the_prompt_of_any_stage_is_shown(cascade: Path, heard, stage: int, kind: str, docs: int) -> None:
    found = inspection.preview("cascade.yaml", [], "q1", heard, stage)
    assert (found["stage"], found["stages"], found["kind"], len(found["docs"])) == (stage, 3, kind, docs)
    with pytest.raises(InputError, match=r"--stage 4: config cascade has 3 stages"):
        inspection.preview("cascade.yaml", [], "q1", heard, 4)


def test_long_documents_reach_a_comparing_stage_as_their_best_passage(cascade: Path, write: Write, heard) -> None:
    write(
        "long.yaml",
        "extends: toy.yaml\nstages:\n- ranker: {method: pointwise.yes_no, passages: {words: 3, overlap: 1}}\n"
        "- ranker: {method: setwise.heapsort}\n  depth: 3\n",
    )
    outcome = rerank(heard, "model.answers=oracle", name="long.yaml")
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == 1
    story = inspection.story(outcome.run_dir, "q1", prompts=True)
    assert [ask["docs"][0]["doc"] for ask in story["asks"] if ask["stage"] == 1][:3] == ["d1", "d1#2", "d1#3"]
    passages = re.findall(r'Passage [A-Z]: "(.*)"', story["asks"][-1]["prompt"])
    assert passages
    assert all(len(text.split()) <= 3 for text in passages)
    assert ["no tokenizer" in note for note in story["notes"]] == [True]
    assert {check.state for check in verify(outcome.run_dir, heard)} == {"agrees"}


def test_a_cascade_is_held_against_its_baseline(cascade: Path, heard) -> None:
    plan = check.Plan(("cascade.yaml",), (Path("baseline.json"),), update=True, output=Path("checked"))
    list(check.check_each(plan, heard))
    [again] = check.check_each(check.Plan(("cascade.yaml",), (Path("baseline.json"),)), heard)
    assert again.comparison
    assert (again.exit_code, again.comparison.differing_parts) == (0, ())
    changed = check.Plan(("cascade.yaml",), (Path("baseline.json"),), settings=("stages.2.depth=2",))
    [moved] = check.check_each(changed, heard)
    assert moved.comparison
    assert moved.comparison.differing_parts == ("stages",)
