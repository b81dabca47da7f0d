"""The committed ledger of a run with a real model: it replays without the model, and it is what the model answers.

With R2LLM_RECORD=1 in the environment the second test writes the ledger and its baseline anew, as after a change of
prompts or of what a ledger's key hashes.
"""

import os
from contextlib import closing
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.compare import check
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import ledgers
from r2llm.rerankers.ledger import Ledger

FOLDER = Path(__file__).parents[2] / "runs" / "baselines" / "tiny-t5"
CONFIG, LEDGER, BASELINE = FOLDER / "replay.yaml", FOLDER / "ledger.sqlite", FOLDER / "baseline.json"


def answered(tiny_t5: Path, folder: Path) -> Path:
    """The ledger of the recorded run's experiment, answered by the model."""
    model = f"model={{backend: transformers, name: {tiny_t5}}}"
    outcome = experiment.rerank(config.load(str(CONFIG), [model]), folder, Listener())
    assert outcome.queries == 10
    return folder / "ledger.sqlite"


@pytest.mark.slow
def test_it_is_what_the_model_answers(tiny_t5: Path, tmp_path: Path) -> None:
    ledger = answered(tiny_t5, tmp_path / "run")
    if os.environ.get("R2LLM_RECORD"):
        LEDGER.unlink(missing_ok=True)
        ledgers.export(ledger, LEDGER)
    with closing(Ledger(ledger)) as new, closing(Ledger(LEDGER, read_only=True)) as recorded:
        known = {key: reply for key, _, reply in recorded.rows()}
        shared = [(reply, known[key]) for key, _, reply in new.rows() if key in known]
        if new.models() != recorded.models():
            pytest.skip("this version of transformers writes another model folder")
    assert len(shared) > 100
    for now, before in shared:
        assert now.scores == pytest.approx(before.scores, abs=1e-3)
        assert now.prompt_tokens == before.prompt_tokens


def test_it_replays_to_its_baseline_without_the_model(tmp_path: Path) -> None:
    update = bool(os.environ.get("R2LLM_RECORD"))
    plan = check.Plan((str(CONFIG),), (BASELINE,), update=update, output=tmp_path / "run")
    [result] = check.check_each(plan, Listener())
    assert (result.updated, result.exit_code) == (update, 0)
    assert LEDGER.stat().st_size < 200_000
