"""How often sorts ask real models, as published, beside what is foretold. Skipped where the shared data is absent."""

from __future__ import annotations

import os
import statistics
from contextlib import closing
from pathlib import Path

import pytest
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.estimate.simulation import open_rule
from r2llm.pipeline.first_stage.retrieve import retrieve
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler

SHARED = Path(os.environ["R2LLM_SHARED"])
DL19 = SHARED / "data" / "dl19"

PUBLISHED = {
    "setwise.heapsort": (125.4, 129.5, 130.1),
    "setwise.bubblesort": (460.5, 466.9, 468.3),
    "pairwise.heapsort": (230.3, 241.9, 239.4),
    "pairwise.bubblesort": (844.2, 886.9, 870.5),
}
"""Comparisons a query of flan-t5-large, -xl and -xxl on TREC DL 2019, BM25's top 100, k = 10.

arXiv:2310.09497, Table 2.
"""

pytestmark = pytest.mark.shared


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("method", PUBLISHED)
def test_the_likely_rule_asks_about_as_often_as_real_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, judged: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = f"{{candidates: {DL19 / 'candidates.json'}, qrels: {DL19 / 'qrels.dl19-passage.txt'}}}"
    Path("dl19.yaml").write_text(f"dataset: {dataset}\nfirst_stage: {{run: {DL19 / 'bm25.trec'}}}\n")
    first_stage = retrieve(config.load("dl19.yaml"), Listener())
    grades = first_stage.dataset.qrels() if judged else None
    rule = open_rule("likely", first_stage.run, grades, seed=0)
    ranker = Ranker.create({"method": method, "k": 10})
    with closing(Ledger(None)) as ledger:
        costs = [cost for _, cost in Scheduler(ranker, rule, ledger).rank(first_stage)]
    found = statistics.fmean(cost.comparisons for cost in costs)
    assert all(found == pytest.approx(published, rel=0.15) for published in PUBLISHED[method])
