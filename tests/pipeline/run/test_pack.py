"""A packed run is verified and ranked again elsewhere, without its model, to the same bytes."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io import archive
from r2llm.pipeline.run.pack import pack
from r2llm.pipeline.verify import verify
from r2llm.rerankers.errors import InputError

CASCADE = (
    "ranker=null",
    "model=null",
    "stages=[{ranker: {method: pointwise.yes_no}, model: {backend: simulated, answers: oracle}}, "
    "{ranker: {method: setwise.heapsort, k: 2}, model: {backend: simulated, answers: rel}, depth: 3}]",
)


def elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch, pack: Path) -> Path:
    """A folder with the pack alone, and a cache of its own."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("R2LLM_CACHE", str(folder / "cache"))
    return Path(shutil.move(pack, folder / pack.name))


def check_same(run_dir: Path, again: Path) -> None:
    for name in ("run.trec", "first_stage.trec"):
        assert (again / name).read_bytes() == (run_dir / name).read_bytes(), name
    measures = [json.loads((folder / "metrics.json").read_text()) for folder in (run_dir, again)]
    assert [one["all"] for one in measures[:1]] == [one["all"] for one in measures[1:]]
    about = [json.loads((folder / "manifest.json").read_text()) for folder in (run_dir, again)]
    assert about[0]["data"]["candidates"] == about[1]["data"]["candidates"]
    assert about[0]["ledger"] == about[1]["ledger"]


@pytest.mark.parametrize(
    "settings",
    [
        (),
        CASCADE,
        ("fuse={method: rrf, with: bm25.trec}",),
        ("fuse={method: interpolate, with: first_stage, alpha: 0.3}", "ranker={method: pointwise.yes_no}"),
        ("first_stage.order=shuffle", "seed=3"),
        ("queries.ids=[q3, q1]", "evaluate.measures=[AP, NumRel]"),
    ],
    ids=lambda settings: " ".join(settings)[:20],
)
def test_it_is_ranked_again_elsewhere(toy, heard, tmp_path, monkeypatch: pytest.MonkeyPatch, settings) -> None:
    run = experiment.rerank(config.load("toy.yaml", settings), toy / "run", heard)
    pack([run.run_dir], tmp_path / "x.zip", True, heard)
    shutil.move(toy / "run", tmp_path / "kept")
    for path in toy.glob("*.*"):
        if path.suffix != ".zip":
            path.unlink()
    packed = elsewhere(tmp_path / "elsewhere", monkeypatch, tmp_path / "x.zip")
    [folder] = archive.unpacked(packed).values()
    assert {check.state for check in verify(folder, heard)} <= {"agrees", "not checked"}
    again = experiment.rerank(config.load("x.zip"), Path("again"), heard)
    check_same(tmp_path / "kept", again.run_dir)


@pytest.mark.slow
def test_a_real_models_run_is_replayed_without_it(tmp_path, tiny_t5, heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = shutil.copytree(tiny_t5, tmp_path / "model")
    settings = [f"model={{backend: transformers, name: {model}}}", "queries.limit=3", "first_stage.depth=12"]
    run = experiment.rerank(config.load("quickstart.yaml", settings), Path("run"), heard)
    for name in ("x.zip", "y.zip"):
        pack([run.run_dir], tmp_path / name, False, heard)
    assert (tmp_path / "x.zip").read_bytes() == (tmp_path / "y.zip").read_bytes()
    shutil.rmtree(model)
    packed = elsewhere(tmp_path / "elsewhere", monkeypatch, tmp_path / "x.zip")
    checks = [check for folder in archive.unpacked(packed).values() for check in verify(folder, heard)]
    assert [check.file for check in checks if check.state != "agrees"] == ["model"]
    again = experiment.rerank(config.load("x.zip"), Path("again"), heard)
    check_same(tmp_path / "run", again.run_dir)


def test_texts_are_left_out_unless_told(toy, heard) -> None:
    run = experiment.rerank(config.load("toy.yaml"), toy / "run", heard)
    pack([run.run_dir], toy / "x.zip", False, heard)
    with zipfile.ZipFile(toy / "x.zip") as packed:
        assert not [name for name in packed.namelist() if name.endswith(".jsonl") and "replay" in name]
        crate = json.loads(packed.read("ro-crate-metadata.json"))["@graph"]
        described = {one["@id"] for one in crate if one["@type"] == "File"}
        assert described == {*packed.namelist()} - {"ro-crate-metadata.json"}
    assert "the texts of" in heard.notes[-1]
    assert "--texts" in heard.notes[-1]


def test_what_is_no_pack_is_refused(toy) -> None:
    (toy / "x.zip").write_text("no zip")
    with pytest.raises(InputError, match=r"x\.zip: no pack of runs"):
        config.load("x.zip")
