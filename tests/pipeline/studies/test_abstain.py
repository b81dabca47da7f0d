"""Abstention: the authors' formula, what is left out, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from r2llm.pipeline.compare.runs import Judgements
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.studies import abstain
from r2llm.rerankers.errors import InputError

Write = Callable[[str, str], Path]

DICE = np.random.default_rng(1)
SCORES = np.sort(DICE.random((300, 10)), axis=1)
QUALITY = np.clip(SCORES[:, -1] - SCORES[:, -2] + 0.3 * DICE.random(300), 0, 1)


def authors_nauc(confidence: np.ndarray, quality: np.ndarray) -> float:
    """The definition in the paper's code, artefactory/abstention-reranker at b6ad13c, `eval_utils.py`."""
    from sklearn.metrics import auc

    rates = np.arange(0, 1, 0.1)
    order = np.argsort(quality)
    best = [quality[order[round(rate * len(quality)) :]].mean() for rate in rates]
    reached = [quality[confidence >= limit].mean() for limit in np.quantile(confidence, rates)]
    chance = auc(rates, [best[0]] * len(rates))
    return (auc(rates, reached) - chance) / (auc(rates, best) - chance)


def test_the_authors_formula_to_nine_digits() -> None:
    from sklearn.linear_model import Ridge

    learnt = Ridge(alpha=0.1).fit(SCORES[:200], QUALITY[:200]).predict(SCORES[200:])
    confidences = {"ridge": abstain.ridge(SCORES[:200], QUALITY[:200])(SCORES[200:])}
    confidences |= {name: confidence(SCORES[200:]) for name, confidence in abstain.BASELINES.items()}
    found = abstain.curves(confidences, QUALITY[200:])
    ordered = {
        "ridge": learnt,
        "max": SCORES[200:].max(axis=1),
        "sd": SCORES[200:].std(axis=1),
        "first_second": SCORES[200:, -1] - SCORES[200:, -2],
    }
    for name, confidence in ordered.items():
        assert found[name]["nauc"] == pytest.approx(authors_nauc(confidence, QUALITY[200:]), abs=1e-9)
    assert found["first_second"]["nauc"] > 0.5 > found["max"]["nauc"]
    assert found["oracle"]["quality"][0] == found["random"]["quality"][5] == pytest.approx(QUALITY[200:].mean())
    assert abstain.nauc(QUALITY[200:], QUALITY[200:]) == pytest.approx(1.0, abs=0.02)


def test_equally_good_queries_have_no_nauc() -> None:
    assert abstain.nauc(SCORES[:, 0], np.full(300, 0.5)) is None


@pytest.fixture
def trec(write: Write) -> Callable[..., Path]:
    """Write a run file of queries with twelve scored documents each, the first of which is relevant or not."""

    def trec(name: str, queries: range, step: float = 0.1) -> Path:
        rows = [f"q{q} Q0 d{i} {i} {20 - i - step * (q % 7) * (i > 1)} x\n" for q in queries for i in range(1, 13)]
        return write(name, "".join(rows))

    return trec


def test_shared_queries_are_left_out_and_few_are_said_to_be_few(trec, write, heard) -> None:
    judgements = Judgements(write("qrels.txt", "".join(f"q{q} 0 d{1 + (q % 7 < 3)} 1\n" for q in range(60))))
    run, reference = trec("run.trec", range(40)), trec("reference.trec", range(30, 60))
    found = abstain.abstain(run, reference, judgements, "nDCG@10", 10, heard)
    assert (found["queries"], found["reference_queries"], found["few"]) == (30, 30, True)
    assert found["curves"]["first_second"]["nauc"] > 0.8
    assert any("10 queries of" in note for note in heard.notes)
    assert any("30 queries and 30 of the reference are too few" in note for note in heard.notes)
    assert found["rates"] == [i / 10 for i in range(10)]


def test_scores_that_follow_from_the_rank_are_refused(trec, write) -> None:
    judgements = Judgements(write("qrels.txt", "".join(f"q{q} 0 d1 1\n" for q in range(60))))
    ranks = trec("ranks.trec", range(20), step=0.0)
    with pytest.raises(InputError, match="follow from the rank alone"):
        abstain.abstain(ranks, trec("reference.trec", range(20, 40)), judgements, "nDCG@10", 10, Listener())
