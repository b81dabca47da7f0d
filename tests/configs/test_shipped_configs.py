"""Every config that ships with the package is one that loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from r2llm.pipeline import experiment, listing
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener

FOLDERS = sorted({str(Path(name).parent) for name in config.names()})
"""The folders of the shipped experiments; a test goes through all in one."""


def inside(folder: str) -> list[str]:
    return [name for name in config.names() if str(Path(name).parent) == folder]


def test_each_loads_without_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in config.names():
        loaded = config.load(name)
        assert (loaded.notes, loaded.changes_ranking) == ((), False), name
        assert all(ranker.method.name for ranker in loaded.rankers), name
        assert len(loaded.models) == len(loaded.rankers) > 0, name


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_runs_with_simulated_answers_over_the_embedded_collection(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (
        f"dataset={config.SHIPPED / 'quickstart'}",
        "first_stage={bm25: {index: build}, depth: 20}",
        "model={backend: simulated, answers: oracle}",
    )
    for name in inside(folder):
        outcome = experiment.rerank(config.load(name, settings, queries=2), tmp_path / name, Listener())
        assert outcome.metrics is not None
        assert outcome.metrics.first_stage is not None
        assert outcome.metrics.mean["nDCG@10"] > outcome.metrics.first_stage.mean["nDCG@10"], name
        assert outcome.costs["unparsed"]["total"] == 0, name


def test_a_copy_of_each_works_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in config.names():
        if name.count("/") < 2 or "xl-setwise.heap" in name:
            shutil.copy(config.SHIPPED / name, "mine.yaml")
            original = config.load(str(config.SHIPPED / name)).config
            assert config.load("mine.yaml", [f"name={original.name}"]).config == original, name


def test_no_config_repeats_another() -> None:
    contents: dict[str, str] = {}
    for name in config.files():
        lines = (config.SHIPPED / name).read_text(encoding="utf-8").splitlines()
        said = "\n".join(line for line in lines if not line.startswith("#"))
        assert contents.setdefault(said, name) == name


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what ships, to which a test may add."""
    copy = Path(shutil.copytree(config.SHIPPED, tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(config, "SHIPPED", copy)
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return copy


def moons(folder: Path) -> None:
    """Write five documents about moons, and a query that one of them answers, in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(f'{{"_id": "d{i}", "text": "moon number {i} of mars"}}\n' for i in range(5))
    )
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "moon of mars"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td3\t1\n")


def ranked(text: str, tmp_path: Path) -> tuple[str, int, float]:
    """Rank by a config with an oracle's answers; return its dataset, the number of queries and their nDCG@10."""
    (tmp_path / "own.yaml").write_text(f"{text}\nmodel: {{answers: oracle}}\n")
    outcome = experiment.rerank(config.load("own.yaml"), tmp_path / "run", Listener())
    assert outcome.metrics is not None
    return str(outcome.manifest.config.dataset), outcome.queries, outcome.metrics.mean["nDCG@10"]


def test_a_dataset_is_added_by_one_folder(shipped: Path, tmp_path: Path) -> None:
    moons(shipped / "moons")
    assert "moons" in config.datasets()
    assert ranked("extends: quickstart.yaml\ndataset: moons", tmp_path) == ("moons", 1, 1.0)


def test_a_dataset_is_added_by_one_yaml_part(shipped: Path, tmp_path: Path) -> None:
    moons(tmp_path / "elsewhere" / "moons")
    (shipped / "parts" / "datasets" / "moons.yaml").write_text(
        "# Five documents about moons.\ndataset: ../../../elsewhere/moons\nfirst_stage: {bm25: {index: build}}\n"
    )
    assert ranked("extends: [quickstart.yaml, parts/datasets/moons.yaml]", tmp_path) == ("moons", 1, 1.0)


def test_the_list_says_something_about_each() -> None:
    rows = dict(listing.rows("configs"))
    assert sorted(rows) == config.names()
    assert all(about and "\n" not in about for about in rows.values())


def test_the_setwise_papers_tables_are_complete() -> None:
    paper = [name for name in config.names() if name.startswith("setwise-paper/")]
    assert len(paper) == 3 * (9 * 2 + 8 * 8)  # models, times methods and collections of Table 2 and Table 3


def test_published_figures_have_a_source() -> None:
    for name in config.names():
        for figure in config.load(name).config.expected.values():
            assert figure.source


def test_the_quickstart_needs_neither_network_nor_model() -> None:
    quickstart = config.load("quickstart.yaml").config
    assert quickstart.dataset == str((config.SHIPPED / "quickstart").resolve())
    assert quickstart.first_stage.bm25 is not None
    assert quickstart.first_stage.bm25.index == "build"
    assert quickstart.model is not None
    assert quickstart.model["backend"] == "simulated"
