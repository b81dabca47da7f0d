"""Every published reranker that ships loads, says what it is, and runs; one more is one YAML."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import listing
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.configs import shipped as names
from r2llm.pipeline.io.progress import Listener

EMBEDDED = ("dataset=quickstart", "first_stage={bm25: {index: build}, depth: 20}")
SIMULATED = "model={backend: simulated, answers: oracle}"


def check_ranks(name: str, folder: Path) -> None:
    """Rank the embedded collection's first queries by a system's method with an oracle's answers."""
    outcome = experiment.rerank(config.load(name, [*EMBEDDED, SIMULATED], queries=2), folder, Listener())
    assert outcome.metrics is not None
    assert outcome.metrics.first_stage is not None
    assert outcome.costs["unparsed"]["total"] == 0, name
    assert outcome.metrics.mean["nDCG@10"] > outcome.metrics.first_stage.mean["nDCG@10"], name


def test_each_loads_and_runs_with_simulated_answers(tmp_path: Path, monkeypatch) -> None:
    """Those that differ in their model alone are run once."""
    monkeypatch.chdir(tmp_path)
    differing = {}
    for name in names.of_kind("systems"):
        loaded = config.load(name, EMBEDDED)
        assert loaded.notes == (), name
        assert len(loaded.models) == len(loaded.rankers) > 0, name
        differing[str([stage.ranker for stage in loaded.stages])] = name
    for name in differing.values():
        check_ranks(name, tmp_path / name)


def test_each_says_its_own_size_and_figures() -> None:
    for name in names.of_kind("systems"):
        own = yaml.safe_load((names.SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
        # What a file extends has those of another model.
        assert {"size", "expected"} <= own["about"].keys(), name
        assert all(figure["source"] for figure in own["about"]["expected"]), name
        assert "name" in own["model"], name


@pytest.mark.slow
def test_two_are_added_by_one_yaml_each(shipped: Path, tmp_path: Path) -> None:
    folder, before = shipped / "systems", len(names.of_kind("systems"))
    (folder / "moon.yaml").write_text(
        "# A system of one's own.\n"
        "about: {family: Moon, size: 7B, licence: MIT, source: here, verified: no, check: all, expected: []}\n"
        "ranker: {method: listwise.sliding, prompt: rank_zephyr, passage_tokens: 300}\n"
        "model: {backend: transformers, name: someone/moon-7b}\n"
    )
    (folder / "moon-1b.yaml").write_text(
        "extends: moon.yaml\nabout: {size: 1B, needs: remote code, expected: [{collection: DL19, value: 0.7, source: "
        "somewhere}]}\nmodel: {name: someone/moon-1b}\n"
    )
    rows = {row[0]: row[1:] for row in listing.rows("systems")}
    assert len(rows) == before + 2
    assert rows["moon"] == ("Moon", "listwise.sliding", "7B", "MIT", "nothing", "no", "9 prompts, 322.6 TFLOP", "none")
    assert rows["moon-1b"][2:] == ("1B", "MIT", "remote code", "no", "9 prompts, 46.1 TFLOP", "DL19: nDCG@10 0.7")
    assert config.load("systems/moon-1b", EMBEDDED).config.model == {
        "backend": "transformers",
        "name": "someone/moon-1b",
    }
    assert listing.about("systems", "moon-1b") == (folder / "moon-1b.yaml").read_text()
    check_ranks("systems/moon-1b", tmp_path / "run")


def test_a_dataset_and_a_system_make_an_experiment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: [parts/datasets/dl20.yaml, systems/monot5-base.yaml]\n")
    loaded = config.load("mine.yaml").config
    assert (loaded.name, loaded.dataset) == ("mine", "msmarco-passage/trec-dl-2020/judged")
    Path("all.yaml").write_text("grid: {dataset: [dl19, dl20], system: [monot5-base, rankzephyr]}\n")
    cells = [config.load(f"all/dataset=dl20/system={name}").config for name in ("monot5-base", "rankzephyr")]
    assert cells[0].model == loaded.model
    assert cells[1].name == "dl20-rankzephyr"
