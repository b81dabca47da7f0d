"""The manifest: what it says of an experiment, what it must not say, and how it tells of a killed run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import r2llm
import yaml
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import environment, manifest
from r2llm.pipeline.run.read import Run
from r2llm.rerankers.backends import replay, simulated
from r2llm.rerankers.backends.replay import LedgerReplay
from r2llm.rerankers.errors import BackendError

Write = Callable[[str, str], Path]

HEX = re.compile(r"[0-9a-f]{64}")

ANNOTATED = ("platform", "research goal", "implementation", "method", "data")
"""The components of PRIMAD that can be filled in; nobody said who the actor is."""


def rerank(heard, *settings: str, name: str = "toy.yaml", output: Path | None = None) -> Run:
    return experiment.rerank(config.load(name, settings), output, heard)


def read(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text(encoding="utf-8"))
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_of_the_run_is_in_it_with_its_hash(toy: Path, heard) -> None:
    run_dir = rerank(heard).run_dir
    files = read(run_dir)["files"]
    assert files.keys() == {path.name for path in run_dir.iterdir()} - {".lock", "manifest.json"}
    assert all(files[name] == digest(run_dir / name) for name in files)


def test_it_holds_a_hash_of_its_own_content(toy: Path, heard) -> None:
    found = read(rerank(heard).run_dir)
    assert found["sha256"] == manifest.sealed(found)["sha256"]
    assert manifest.sealed({**found, "wall_seconds": 0})["sha256"] != found["sha256"]


def test_the_prompt_is_in_it_in_full(toy: Path, heard) -> None:
    prompt = read(rerank(heard).run_dir)["prompts"]["setwise"]
    assert "which of the following passages is the most relevant one" in prompt["messages"][0]["content"]
    assert prompt["digest"] == config.load("toy.yaml").rankers[0].prompt.digest


def test_the_data_are_told_apart_by_content(toy: Path, write: Write, heard) -> None:
    before = read(rerank(heard, output=toy / "a").run_dir)["data"]
    assert all(HEX.fullmatch(before[name]) for name in ("queries", "qrels", "candidates"))
    write("docs.jsonl", (toy / "docs.jsonl").read_text().replace("Sea water", "Ocean water"))
    write("qrels.txt", (toy / "qrels.txt").read_text().replace("q3 0 d5 1", "q3 0 d5 2"))
    after = read(rerank(heard, output=toy / "b").run_dir)["data"]
    assert {name for name in before if before[name] != after[name]} == {"qrels", "candidates"}


def test_candidates_are_hashed_in_the_order_of_presentation(toy: Path, heard) -> None:
    given = read(rerank(heard, output=toy / "a").run_dir)["data"]
    inverse = read(rerank(heard, "first_stage.order=inverse", output=toy / "b").run_dir)["data"]
    assert {name for name in given if given[name] != inverse[name]} == {"candidates"}


def test_unparsed_answers_are_counted_by_kind_of_ask(toy: Path, write: Write, heard) -> None:
    texts = [{"query_id": "q1", "text": "?"}, {"query_id": "q2", "text": "A"}, {"query_id": "q3", "text": "?"}]
    write("answers.jsonl", "".join(json.dumps(text) + "\n" for text in texts))
    settings = ("ranker={method: pointwise.yes_no, scoring: generation}", "first_stage.depth=1")
    found = read(rerank(heard, *settings, "model={backend: replay, answers: answers.jsonl}").run_dir)
    assert (found["unparsed"], found["unparsed_by_kind"]) == (3, {"score": 3})
    assert found["model"] == {"backend": "replay", "answers": "answers.jsonl"}
    assert read(rerank(heard).run_dir)["unparsed_by_kind"] == {}


def test_a_transformers_model_says_what_it_is_made_of_and_how_it_computed(toy: Path, tiny_t5: Path, heard) -> None:
    settings = (f"model={{backend: transformers, name: {tiny_t5}, device: cpu}}", "queries.limit=1")
    model = read(rerank(heard, *settings).run_dir)["model"]
    assert model["files"]["model.safetensors"] == digest(tiny_t5 / "model.safetensors")
    assert model["files"].keys() >= {"config.json", "tokenizer.json"}
    assert (model["dtype"], model["exact"], model["batch_size"], model["device"]) == ("float32", True, 1, "cpu")
    assert (model["name"], model["revision"], model["architecture"]) == (tiny_t5.name, None, "encoder_decoder")
    assert model["threads"] >= 1
    assert HEX.fullmatch(model["tokenizer"])
    batched = rerank(heard, *settings, "model.exact=false", "model.batch_size=7", output=toy / "batched")
    found = read(batched.run_dir)
    assert (found["model"]["exact"], found["model"]["batch_size"]) == (False, 7)
    assert found["model"]["tokenizer"] == model["tokenizer"]


def test_a_replayed_ledger_is_called_a_replay(toy: Path, heard) -> None:
    recorded = rerank(heard, output=toy / "a").run_dir
    settings = ("model={backend: replay, answers: a/ledger.sqlite}",)
    found = read(rerank(heard, *settings, output=toy / "b").run_dir)
    assert found["model"]["backend"] == "replay"
    assert found["model"]["content"] == read(recorded)["ledger"]["content"]
    assert found["fingerprint"] == read(recorded)["fingerprint"]


def test_machine_and_checkout(toy: Path, heard) -> None:
    found = read(rerank(heard).run_dir)["environment"]
    assert found["hardware"]["cores"] == os.cpu_count()
    assert found["hardware"]["memory"] > 2**28
    assert found["packages"]["torch"]
    assert found["git"] is None or re.fullmatch(r"[0-9a-f]{40}", found["git"]["commit"])


def test_a_checkout_is_looked_for_where_the_package_lies() -> None:
    assert Path(r2llm.__file__).parent == environment.CHECKOUT


def test_an_installed_package_has_no_checkout(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert environment.checkout() is None


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for the tool")
def test_gpus_are_listed_without_pytorch(write: Write, monkeypatch) -> None:
    tool = write(
        "bin/nvidia-smi", "#!/bin/sh\necho 'NVIDIA H200, 143771 MiB, 570.1'\necho 'NVIDIA H200, 143771 MiB, 570.1'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    assert environment.hardware()["gpus"] == [{"name": "NVIDIA H200", "memory": "143771 MiB", "driver": "570.1"}] * 2


def test_no_secret_no_user_and_no_path_gets_in(toy: Path, tiny_t5: Path, heard, monkeypatch) -> None:
    """With everything given by an absolute path, from a home folder with a telling name."""
    home = toy / "home" / "ada.lovelace"
    work = home / "projects"
    work.mkdir(parents=True)
    for path in [path for path in toy.iterdir() if path.is_file()]:
        path.rename(work / path.name)
    secrets = {"HF_TOKEN": "hf_abcdefgh", "OPENAI_API_KEY": "sk-verysecret", "MY_PASSWORD": "opensesame"}
    for name, value in {**secrets, "HOME": str(home), "USER": "ada.lovelace", "LOGNAME": "ada.lovelace"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(work)
    settings = [f"dataset={{docs: {work}/docs.jsonl, queries: {work}/queries.tsv, qrels: {work}/qrels.txt}}"]
    settings += [f"first_stage.run={work}/bm25.trec", f"model={{backend: transformers, name: {tiny_t5}}}"]
    run_dir = rerank(heard, *settings, output=toy / "out").run_dir
    recorded = rerank(heard, *settings[:2], f"model={{backend: replay, answers: {run_dir}/ledger.sqlite}}").run_dir
    retrieved = experiment.retrieve_only(config.load("toy.yaml", settings[:2]), None, heard).run_dir
    for folder in (run_dir, recorded, retrieved):
        for name in ("manifest.json", "ir-metadata.yml"):
            text = (folder / name).read_text(encoding="utf-8")
            for forbidden in (*secrets.values(), str(home), str(work), str(toy), "ada.lovelace", str(tiny_t5)):
                assert forbidden not in text, f"{forbidden} in {name}"
            assert not re.search(r'[":\s]/(home|tmp|root|Users|var)/', text)


def test_only_absolute_paths_are_cut() -> None:
    assert manifest.portable({"a": ["/home/me/docs.jsonl", "google/flan-t5-large", 1, None]}) == {
        "a": ["docs.jsonl", "google/flan-t5-large", 1, None]
    }


def test_what_a_backend_tells_changes_neither_fingerprint_nor_key(toy: Path, heard, monkeypatch) -> None:
    before = rerank(heard, output=toy / "a").run_dir
    monkeypatch.setattr(simulated.Simulated, "details", property(lambda self: {"mood": "sunny"}))
    after = rerank(heard, output=toy / "b").run_dir
    assert read(after)["model"] == {"backend": "simulated", "mood": "sunny"}
    assert read(after)["fingerprint"] == read(before)["fingerprint"]
    assert read(after)["ledger"] == read(before)["ledger"]


# Executions


class Dying(simulated.Simulated):
    """A simulated model that fails after so many answers."""

    left = 4

    def collect(self):
        if Dying.left <= 0:
            raise BackendError("the model died")
        taken = self.take(1)
        Dying.left -= 1
        return [(request, self._reply(request)) for request in taken]


def test_a_run_that_was_cut_off_twice_tells_of_three_executions(toy: Path, heard, monkeypatch) -> None:
    whole = rerank(heard, output=toy / "whole").run_dir
    monkeypatch.setattr(simulated, "Simulated", Dying)
    for answers in (3, 2):
        Dying.left = answers
        with pytest.raises(BackendError, match="died"):
            rerank(heard, output=toy / "cut")
    assert read(toy / "cut")["status"] == "running"
    Dying.left = 10_000
    cut = rerank(heard, output=toy / "cut").run_dir
    found = read(cut)
    total = read(whole)["ledger"]["answers"]
    assert [each["status"] for each in found["executions"]] == ["interrupted", "interrupted", "finished"]
    assert [each["calls"] for each in found["executions"]] == [3, 2, total - 5]
    assert [each["answers_before"] for each in found["executions"]] == [0, 3, 5]
    assert all(each["started"] <= each["ended"] for each in found["executions"])
    assert found["started"] == found["executions"][0]["started"]
    assert found["finished"] >= found["executions"][-1]["ended"]  # the measures come after the ranking
    for name in ("run.trec", "first_stage.trec"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert found["ledger"] == read(whole)["ledger"]


def test_ranking_again_is_another_execution_without_calls(toy: Path, heard) -> None:
    rerank(heard)
    again = experiment.rerank(config.load("toy.yaml"), None, heard, again=True)
    found = read(again.run_dir)["executions"]
    assert [each["status"] for each in found] == ["finished", "finished"]
    assert found[1]["calls"] == 0 < found[0]["calls"] == found[1]["answers_before"]
    assert again.manifest.wall_seconds == found[0]["seconds"]
    assert again.costs["calls"]["total"] == found[0]["calls"]


def test_an_execution_that_left_no_answer_has_no_known_end() -> None:
    earlier = manifest.Execution(status="running", started="2026-01-01T00:00:00+00:00", answers_before=5)
    closed = earlier.closed(5, "2026-01-02T00:00:00+00:00")
    assert (closed.status, closed.calls, closed.ended) == ("interrupted", 0, None)


# ir_metadata


def test_the_annotation_has_the_components_of_primad(toy: Path, heard) -> None:
    run_dir = rerank(heard).run_dir
    found = yaml.safe_load((run_dir / "ir-metadata.yml").read_text(encoding="utf-8"))
    assert (found["schema-version"], found["tag"]) == (0.1, "toy")
    assert found.keys() == {"schema-version", "run-version", "tag", *ANNOTATED}
    assert found["platform"]["hardware"]["cpu"]["number of cores"] == os.cpu_count()
    assert any(line.startswith("torch==") for line in found["platform"]["software"]["libraries"]["python"])
    first, second = found["method"]["retrieval"]
    assert "automatic" not in found["method"]  # nobody knows how the given run was made
    assert (first["name"], second["name"], second["reranks"]) == ("given run", "setwise.heapsort", "given run")
    assert second["simulated"] is True
    assert found["research goal"]["evaluation"]["reported measures"] == ["nDCG@10"]


def test_the_annotation_names_bm25_and_its_parameters(heard, tmp_path: Path) -> None:
    run_dir = rerank(heard, "queries.limit=2", name="quickstart.yaml", output=tmp_path / "run").run_dir
    found = yaml.safe_load((run_dir / "ir-metadata.yml").read_text(encoding="utf-8"))
    first = found["method"]["retrieval"][0]
    assert (first["name"], first["k1"], first["b"], found["method"]["automatic"]) == ("bm25", 0.9, 0.4, True)
    assert found["platform"]["software"]["retrieval toolkit"][0].startswith("pyserini==")
    assert found["data"]["test collection"]["name"] == "quickstart"


def test_backends_that_replay_are_described_by_what_they_read(toy: Path, write: Write, heard) -> None:
    run_dir = rerank(heard, output=toy / "a").run_dir
    opened = replay.open(replay.Options(answers=str(run_dir / "ledger.sqlite")), experiment.Setting())
    assert isinstance(opened, LedgerReplay)
    assert opened.details == {"answers": "ledger.sqlite", "content": read(run_dir)["ledger"]["content"]}
    opened.close()
