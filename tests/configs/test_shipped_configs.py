"""Every config that ships with the package is one that loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import grid, listing
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.configs import shipped as names
from r2llm.pipeline.io.progress import Listener

GRIDS = {name: grid.read(name).cells for name in names.of_kind("grids")}

SHIPPED = [grid.cell(name) for name in names.names()] + [
    cell for cells in GRIDS.values() for cell in cells[:: 1 + len(cells) // 250 * 12]
]
"""Every config that ships with the package, of a grid with more than 250 cells some; a test goes through all in one."""


def test_each_loads_without_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cell in SHIPPED:
        loaded = cell.load()
        assert (loaded.notes, loaded.changes_ranking) == ((), False), cell.name
        assert all(ranker.method.name for ranker in loaded.rankers), cell.name
        assert len(loaded.models) == len(loaded.rankers) > 0, cell.name
        assert all(figure.source for figure in loaded.config.expected.values()), cell.name


@pytest.mark.slow
def test_each_runs_with_simulated_answers_over_the_embedded_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (
        f"dataset={config.SHIPPED / 'quickstart'}",
        "first_stage={bm25: {index: build}, depth: 20}",
        "model={backend: simulated, answers: oracle}",
        "name=any",
    )
    every = (cell.load(settings, queries=2) for cell in SHIPPED)
    differing = {str(loaded.config.model_copy(update={"expected": {}})): loaded for loaded in every}
    for number, loaded in enumerate(differing.values()):
        outcome = experiment.rerank(loaded, tmp_path / str(number), Listener())
        assert outcome.metrics is not None
        assert outcome.metrics.first_stage is not None
        assert outcome.metrics.mean["nDCG@10"] > outcome.metrics.first_stage.mean["nDCG@10"], loaded.config
        assert outcome.costs["unparsed"]["total"] == 0, loaded.config


def test_a_copy_of_each_works_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in names.names():
        shutil.copy(config.SHIPPED / name, "mine.yaml")
        original = config.load(str(config.SHIPPED / name)).config
        assert config.load("mine.yaml", [f"name={original.name}"]).config == original, name


def test_no_config_repeats_another() -> None:
    contents: dict[str, str] = {}
    for name in config.files():
        lines = (config.SHIPPED / name).read_text(encoding="utf-8").splitlines()
        said = "\n".join(line for line in lines if not line.startswith("#"))
        assert contents.setdefault(said, name) == name


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
    assert sorted(rows) == sorted([*names.names(), *names.of_kind("grids")])
    assert all(about and "\n" not in about for about in rows.values())


def test_the_quickstart_needs_neither_network_nor_model() -> None:
    quickstart = config.load("quickstart.yaml").config
    assert quickstart.dataset == str((config.SHIPPED / "quickstart").resolve())
    assert quickstart.first_stage.bm25 is not None
    assert quickstart.first_stage.bm25.index == "build"
    assert quickstart.model is not None
    assert quickstart.model["backend"] == "simulated"
