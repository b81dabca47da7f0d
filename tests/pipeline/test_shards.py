"""Merged shards are the run that one execution would have left; anything else than all of them, whole, is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline import inspect as inspection
from r2llm.pipeline import shards as merging
from r2llm.pipeline import verify as verification
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.datasets import local
from r2llm.pipeline.datasets.records import records
from r2llm.pipeline.run import manifest
from r2llm.pipeline.run import read as record
from r2llm.pipeline.run.manifest import json_text
from r2llm.pipeline.run.shards import Shard
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.hashing import file_digest
from r2llm.rerankers.ledger import Ledger

Write = Callable[[str, str], Path]

EXPERIMENT = ("query_id", "asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed", "flops")
"""The fields of `costs.jsonl` that describe the experiment and not its executions."""

CASCADE = (
    "ranker=null",
    "stages=[{ranker: {method: pointwise.yes_no}}, {ranker: {method: setwise.heapsort, k: 2}, depth: 3}]",
)


def sharded(heard, of: int, *settings: str, output: Path, name: str = "toy.yaml") -> Path:
    """The folder of a run whose shards were all ranked."""
    for number in range(1, of + 1):
        experiment.rerank(config.load(name, settings), output, heard, Shard(number, of))
    return output


def merge(heard, *run_dirs: Path, output: Path | None = None) -> Path:
    return merging.merge(run_dirs, output, heard).run_dir


def read(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))


def costs(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "costs.jsonl").read_text(encoding="utf-8").splitlines()]


def check_same(whole: Path, merged: Path, heard) -> None:
    """Whether a merged run is what one execution left, down to the byte where nothing tells of an execution."""
    assert {path.name for path in merged.iterdir() if path.is_file()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        if path.suffix == ".trec" or path.name in ("config.yaml", "metrics.json"):
            assert (merged / path.name).read_bytes() == path.read_bytes(), path.name
    spent = [[[row[name] for name in EXPERIMENT] for row in costs(run_dir)] for run_dir in (whole, merged)]
    assert spent[0] == spent[1]
    assert all(row["asks"] == row["calls"] + row["cached"] for row in costs(merged))
    one, other = read(whole), read(merged)
    same = ("fingerprint", "experiment", "config", "prompts", "seeds", "schedule", "ledger", "model", "models")
    same += ("unparsed", "unparsed_by_kind", "answer_forms", "name", "simulated", "status")
    assert {name: one.get(name) for name in same} == {name: other.get(name) for name in same}
    assert one["files"].keys() == other["files"].keys()
    assert {check.state for check in verification.verify(merged, heard)} == {"agrees"}


# What comes of it


@pytest.mark.parametrize("of", [1, 2, 5])
def test_it_is_what_one_execution_leaves(toy: Path, heard, of: int) -> None:
    whole = experiment.rerank(config.load("toy.yaml"), toy / "whole", heard).run_dir
    check_same(whole, merge(heard, sharded(heard, of, output=toy / "parts")), heard)


@pytest.mark.parametrize(
    "settings",
    [
        CASCADE,
        (*CASCADE, "fuse={method: rrf}"),
        ("fuse={method: interpolate, with: first_stage, alpha: 0.3}", "ranker={method: pointwise.yes_no}"),
        ("fuse={method: rrf, with: bm25.trec}", "first_stage.order=shuffle", "seed=3"),
        ("queries.ids=[q3, q1]",),
        ("queries={sample: 2, seed: 1}", "first_stage.depth=1", "schedule=latency"),
        (
            "model.answers=noisy",
            "evaluate.measures=[AP, RR@10]",
            "ranker={method: listwise.sliding, window: 3, stride: 1}",
        ),
    ],
)
def test_whatever_the_settings(toy: Path, heard, settings: tuple[str, ...]) -> None:
    whole = experiment.rerank(config.load("toy.yaml", settings), toy / "whole", heard).run_dir
    check_same(whole, merge(heard, sharded(heard, 2, *settings, output=toy / "parts")), heard)


def test_a_file_of_documents_is_read_once_for_all_queries(toy: Path, heard, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = sharded(heard, 2, output=toy / "run")
    passes = []
    monkeypatch.setattr(local, "records", lambda path: passes.append(path) or records(path))
    merge(heard, run_dir)
    assert len(passes) == 1


def test_queries_without_candidates_and_judgements(toy: Path, write: Write, heard) -> None:
    write("queries.tsv", "".join(f"{query}\tabout {query}\n" for query in ("q0", "q1", "q4", "q2", "q5", "q3", "q6")))
    write("qrels.txt", "q4 0 d1 1\nq1 0 d3 1\n")
    whole = experiment.rerank(config.load("toy.yaml"), toy / "whole", heard).run_dir
    check_same(whole, merge(heard, sharded(heard, 4, output=toy / "parts")), heard)


def test_without_judgements_at_all(toy: Path, write: Write, heard) -> None:
    write("bare.yaml", (toy / "toy.yaml").read_text(encoding="utf-8").replace(", qrels: qrels.txt", ""))
    whole = experiment.rerank(config.load("bare.yaml"), toy / "whole", heard).run_dir
    check_same(whole, merge(heard, sharded(heard, 2, output=toy / "parts", name="bare.yaml")), heard)


def test_with_a_model_that_answers_equal_asks_of_several_queries_once(
    toy: Path, write: Write, tiny_t5: Path, heard
) -> None:
    """Two queries of one text in two shards: the model is called for both there, and the ledger is the same."""
    write("queries.tsv", "q1\twhy is the sea salt\nq2\tbread\nq3\twhy is the sea salt\n")
    rows = (toy / "bm25.trec").read_text(encoding="utf-8").splitlines()
    same = [row.replace("q1 ", "q3 ", 1) for row in rows if row.startswith("q1 ")]
    write("bm25.trec", "\n".join([row for row in rows if not row.startswith("q3 ")] + same) + "\n")
    model = (f"model={{backend: transformers, name: {tiny_t5}, device: cpu, dtype: float32}}",)
    whole = experiment.rerank(config.load("toy.yaml", model), toy / "whole", heard).run_dir
    merged = merge(heard, sharded(heard, 3, *model, output=toy / "parts"))
    check_same(whole, merged, heard)
    assert [row["cached"] for row in costs(whole)][2] > 0
    assert [row["cached"] for row in costs(merged)] == [0, 0, 0]


def test_the_manifest_says_which_shards_it_was(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    shards = [read(parts / f"shard-{number}-of-2") for number in (1, 2)]
    found = read(merge(heard, parts))
    assert [(each["number"], each["of"]) for each in found["merged"]["shards"]] == [(1, 2), (2, 2)]
    assert [each["manifest"] for each in found["merged"]["shards"]] == [each["sha256"] for each in shards]
    assert [each["files"] for each in found["merged"]["shards"]] == [each["files"] for each in shards]
    assert found["merged"]["differing_answers"] == 0
    [execution] = found["executions"]
    assert execution["calls"] == sum(each["executions"][-1]["calls"] for each in shards)
    assert (found["started"], found["wall_seconds"]) == (shards[0]["started"], None)
    assert "shard" not in found


def test_texts_that_changed_since_are_found_in_a_merged_run(toy: Path, write: Write, heard) -> None:
    merged = merge(heard, sharded(heard, 2, output=toy / "parts"))
    write("docs.jsonl", (toy / "docs.jsonl").read_text(encoding="utf-8").replace("Bread needs", "Bread wants"))
    found = {check.what: check for check in verification.verify(merged, heard)}["texts of the candidates"]
    assert found.state == "differs"


def test_it_can_be_shown_inspected_resumed_and_replayed(toy: Path, heard) -> None:
    merged = merge(heard, sharded(heard, 2, output=toy / "parts"))
    assert record.read(merged).manifest.status == "finished"
    story = inspection.story(merged, "q1")
    assert story["asks"]
    assert [note for note in story["notes"] if "no tokenizer" not in note] == []
    again = experiment.rerank(config.load("toy.yaml"), merged, heard)
    assert (again.executed, again.costs["calls"]["total"]) == (False, sum(row["calls"] for row in costs(merged)))
    settings = ("model={backend: replay, answers: parts/ledger.sqlite}",)
    replayed = experiment.rerank(config.load("toy.yaml", settings), toy / "replayed", heard)
    assert replayed.run_file.read_bytes() == (merged / "run.trec").read_bytes()


def test_merged_again_it_is_the_same(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    first = {path.name: path.read_bytes() for path in merge(heard, parts).iterdir() if path.suffix == ".trec"}
    experiment.rerank(config.load("toy.yaml"), parts, heard, Shard(1, 2))  # nothing is left to be asked
    merge(heard, parts)
    assert {name: (parts / name).read_bytes() for name in first} == first
    assert read(parts)["executions"][-1]["calls"] == sum(row["calls"] for row in costs(parts))


def test_into_another_folder_and_from_folders_of_shards(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    (toy / "elsewhere").mkdir()
    (parts / "shard-2-of-2").rename(toy / "elsewhere" / "shard-2-of-2")
    dirs = (parts / "shard-1-of-2", toy / "elsewhere")
    with pytest.raises(InputError, match=r"in 2 folders: say with --output"):
        merge(heard, *dirs)
    whole = experiment.rerank(config.load("toy.yaml"), toy / "whole", heard).run_dir
    check_same(whole, merge(heard, *dirs, output=toy / "joined"), heard)


def test_a_models_folder_that_is_gone_is_still_named_the_same(toy: Path, tiny_t5: Path, heard) -> None:
    shutil.copytree(tiny_t5, toy / "model")
    model = ("model={backend: transformers, name: model, device: cpu, dtype: float32}",)
    whole = experiment.rerank(config.load("toy.yaml", model), toy / "whole", heard).run_dir
    parts = sharded(heard, 2, *model, output=toy / "parts")
    shutil.rmtree(toy / "model")
    assert (merge(heard, parts) / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()


def test_of_answers_that_differ_the_first_querys_is_kept(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    key, texts = bytes(16), {"shard-1-of-2": ("q3", "late"), "shard-2-of-2": ("q2", "early")}
    for name, (query, text) in texts.items():
        with closing(Ledger(parts / name / "ledger.sqlite")) as ledger:
            ledger.add([(key, query, Reply(text=text))])
            told = {"content": ledger.digest(), "answers": len(ledger)}
        reseal(parts / name, ledger=told)
    merged = merge(heard, parts)
    with closing(Ledger(merged / "ledger.sqlite", read_only=True)) as ledger:
        assert ledger.get(key) == Reply(text="early")
    assert read(merged)["merged"]["differing_answers"] == 1
    assert heard.notes[-1].startswith("1 answers differ between shards")


def reseal(run_dir: Path, **changes: object) -> None:
    """Change a manifest, its hashes of files too, and seal it anew, so that it is believed."""
    found = read(run_dir) | changes
    found["files"] = {name: file_digest(run_dir / name) for name in found["files"]}
    (run_dir / "manifest.json").write_text(json_text(manifest.sealed(found)), encoding="utf-8")


def test_configs_that_differ_in_speed_are_noted(toy: Path, tiny_t5: Path, heard) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}, device: cpu, dtype: float32}}"
    for number, settings in ((1, ()), (2, ("model.batch_size=3",))):
        experiment.rerank(config.load("toy.yaml", (model, *settings)), toy / "parts", heard, Shard(number, 2))
    merge(heard, toy / "parts")
    assert heard.notes[-1] == "the shards' configs differ in model.batch_size; the merged run has that of shard 1/2"


# What is refused


def refused(heard, *run_dirs: Path) -> str:
    with pytest.raises(InputError) as error:
        merge(heard, *run_dirs)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_shard(toy: Path, heard) -> None:
    parts = sharded(heard, 3, output=toy / "parts")
    shutil.rmtree(parts / "shard-2-of-3")
    assert "missing: 2/3; run r2llm rerank --shard 2/3" in refused(heard, parts)
    assert not (parts / "manifest.json").exists()


def test_a_shard_that_is_there_twice(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    shutil.copytree(parts / "shard-1-of-2", toy / "copy" / "shard-1-of-2")
    message = refused(heard, parts, toy / "copy")
    assert "shard 1/2 is there twice" in message
    assert str(toy / "copy" / "shard-1-of-2") in message
    shutil.rmtree(parts / "shard-2-of-2")
    (toy / "copy" / "shard-1-of-2").rename(parts / "shard-2-of-2")
    assert "shard 1/2 is there twice" in refused(heard, parts)


def test_another_experiment(toy: Path, heard) -> None:
    parts = sharded(heard, 3, output=toy / "parts")
    other = sharded(heard, 3, "ranker.k=2", output=toy / "other")
    shutil.rmtree(parts / "shard-3-of-3")
    shutil.copytree(other / "shard-3-of-3", parts / "shard-3-of-3")
    message = refused(heard, parts)
    assert message.startswith(f"{parts / 'shard-3-of-3'}: is of another experiment")
    assert str(read(other / "shard-3-of-3")["fingerprint"])[:8] in message


def test_another_division_or_schedule(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    experiment.rerank(config.load("toy.yaml"), parts, heard, Shard(2, 3))
    assert refused(heard, parts).startswith(f"{parts / 'shard-2-of-3'}: is of another division")
    shutil.rmtree(parts / "shard-2-of-3")
    experiment.rerank(config.load("toy.yaml", ["schedule=latency"]), parts, heard, Shard(2, 2))
    assert "another schedule" in refused(heard, parts)


def test_an_unfinished_shard(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    reseal(parts / "shard-2-of-2", status="running")
    assert refused(heard, parts).startswith(f"{parts / 'shard-2-of-2'}: is not finished; run r2llm rerank --shard 2/2")
    (parts / "shard-2-of-2" / "manifest.json").unlink()
    assert "shard-2-of-2: is not finished" in refused(heard, parts)


def test_a_shard_whose_files_are_not_what_its_manifest_says(toy: Path, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    for name in ("run.trec", "first_stage.trec", "costs.jsonl", "ledger.sqlite", "config.yaml"):
        damaged = parts / "shard-1-of-2" / name
        whole = damaged.read_bytes()
        content = bytearray(whole)
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        message = refused(heard, parts)
        assert message.startswith(f"{damaged}: sha256:")
        assert "remove" in message
        assert "--shard 1/2" in message
        damaged.write_bytes(whole)
    merge(heard, parts)


def test_a_changed_manifest(toy: Path, heard) -> None:
    path = sharded(heard, 2, output=toy / "parts") / "shard-1-of-2" / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"calls": ', '"calls": 1'), encoding="utf-8")
    assert refused(heard, toy / "parts").startswith(f"{path}: was changed")


def test_queries_that_changed_since(toy: Path, write: Write, heard) -> None:
    parts = sharded(heard, 2, output=toy / "parts")
    write("queries.tsv", "q2\tbread\nq1\twhy is the sea salt\nq3\tships\n")
    assert "its queries are not those of" in refused(heard, parts)


def test_a_folder_without_shards_or_with_another_run(toy: Path, heard) -> None:
    (toy / "empty").mkdir()
    assert "no shards in it" in refused(heard, toy / "empty")
    experiment.rerank(config.load("toy.yaml"), toy / "whole", heard)
    assert "no shards in it" in refused(heard, toy / "whole")
    sharded(heard, 2, output=toy / "whole")
    before = (toy / "whole" / "manifest.json").read_bytes()
    assert "holds a run that was not merged" in refused(heard, toy / "whole")
    assert (toy / "whole" / "manifest.json").read_bytes() == before


def test_shards_without_any_candidates(toy: Path, heard) -> None:
    experiment.rerank(config.load("toy.yaml", ["queries.limit=1"]), toy / "parts", heard, Shard(2, 2))
    shutil.copytree(toy / "parts" / "shard-2-of-2", toy / "parts" / "shard-1-of-2")
    reseal(toy / "parts" / "shard-1-of-2", shard={"number": 1, "of": 2})
    assert "none of the queries has candidates" in refused(heard, toy / "parts")
