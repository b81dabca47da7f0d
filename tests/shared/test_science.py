"""Statistics over the shared DL 2019 runs: all printed digits of the oracle tables, which were computed twice."""

import json

import numpy as np
import pytest
from r2llm.pipeline.compare import similarity, statistics
from r2llm.pipeline.run import runfile

from ..conftest import SHARED

pytestmark = pytest.mark.shared

NAMES = {"bm25": "B", "rankvicuna": "V", "vicuna800": "C", "setwise4o": "S"}


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    scores = json.loads((SHARED / "science" / "oracle_per_query_scores.json").read_text())
    queries = sorted(scores["bm25"]["nDCG@10"])
    return {short: np.array([scores[name]["nDCG@10"][q] for q in queries]) for name, short in NAMES.items()}


def pairs() -> list[dict[str, object]]:
    path = SHARED / "science" / "oracle_pairs.json"
    return (
        [pair for pair in json.loads(path.read_text()) if {pair["a"], pair["b"]} <= NAMES.keys()]
        if path.exists()
        else []
    )


@pytest.mark.parametrize("pair", pairs(), ids=lambda pair: f"{pair['a']}-{pair['b']}")
def test_a_pair(values, pair) -> None:
    a, b = values[NAMES[pair["a"]]], values[NAMES[pair["b"]]]
    assert float((b - a).mean()) == pytest.approx(pair["diff"], abs=1e-10)
    assert statistics.p_value(a, b, "t") == pytest.approx(pair["p_t"], abs=1e-10)
    assert statistics.p_value(a, b, "wilcoxon") == pytest.approx(pair["p_w"], abs=1e-10)
    assert statistics.p_value(a, b, "permutation") == pytest.approx(pair["p_perm"], abs=1e-10)
    found = statistics.interval(a, b)
    assert (found.low, found.high) == pytest.approx((pair["ci_lo"], pair["ci_hi"]), abs=1e-10)
    [found] = statistics.bootstrap_intervals((b - a)[None])
    assert (found.low, found.high) == pytest.approx((pair["bca_lo"], pair["bca_hi"]), abs=1e-10)
    assert statistics.effect_size(a, b) == pytest.approx(pair["dz"], abs=1e-10)


def test_families(values) -> None:
    names = [("B", "V"), ("B", "C"), ("B", "S"), ("V", "C"), ("V", "S"), ("C", "S")]
    p_values = [statistics.p_value(values[a], values[b], "t") for a, b in names]
    printed = [7.5066e-7, 7.0449e-8, 1.0219e-9, 0.970844, 3.3680e-4, 1.3689e-5]
    assert statistics.corrected(p_values, "holm") == pytest.approx(printed, rel=5e-5)
    tukey = statistics.tukey(values)
    assert tukey["B", "V"] == pytest.approx(5.6e-10, rel=0.02)
    assert tukey["V", "C"] == pytest.approx(0.99998998, abs=5e-9)
    assert tukey["V", "S"] == pytest.approx(0.00145353, abs=5e-9)
    assert tukey["C", "S"] == pytest.approx(0.00130607, abs=5e-9)


def test_equivalence_and_detectable_differences(values) -> None:
    v, c, s = values["V"], values["C"], values["S"]
    for margin, p in ((0.01, 0.312511), (0.02, 0.156431), (0.05, 0.00626456)):
        assert statistics.equivalence(v, c, margin) == pytest.approx(p, rel=5e-6)
    assert statistics.smallest_margin(v, c) == pytest.approx(0.032482, abs=5e-7)
    assert statistics.detectable_difference(v, c) == pytest.approx(0.054196, abs=5e-7)
    assert statistics.detectable_difference(v, s) == pytest.approx(0.059947, abs=5e-7)


def test_reproduction(values) -> None:
    b, v, c, s = (values[name] for name in "BVCS")
    for again, rmse, er, dri in ((c, 0.122479, 0.995719, 0.001374), (s, 0.160652, 1.531934, -0.170706)):
        assert similarity.root_mean_square_error(v, again) == pytest.approx(rmse, abs=5e-7)
        assert similarity.effect_ratio(b, v, b, again) == pytest.approx(er, abs=5e-7)
        assert similarity.relative_improvement_change(b, v, b, again) == pytest.approx(dri, abs=5e-7)


RUNS = {
    "B": "dl19/bm25.trec",
    "V": "recorded/rankvicuna_dl19.trec",
    "C": "recorded/vicuna_checkpoint800_dl19.trec",
    "S": "runs/dl19_setwise_gpt4omini.trec",
}


@pytest.mark.parametrize(
    ("a", "b", "tau", "overlap", "rbo_10", "rbo"),
    [
        ("V", "C", 0.794870, 0.727907, 0.706603, 0.727705),
        ("B", "V", 0.722349, 0.602326, 0.559787, 0.592029),
        ("B", "S", 0.891323, 0.351163, 0.306519, 0.422084),
        ("V", "S", 0.723477, 0.518605, 0.483415, 0.547980),
    ],
)
def test_rankings(a, b, tau, overlap, rbo_10, rbo) -> None:
    runs = [{q: [d for d, _ in docs] for q, docs in runfile.read(SHARED / "data" / RUNS[x])[0].items()} for x in (a, b)]
    scores = json.loads((SHARED / "science" / "oracle_per_query_scores.json").read_text())
    pairs = [(runs[0][q], runs[1][q]) for q in scores["bm25"]["nDCG@10"]]
    assert len(pairs) == 43
    full = np.mean([similarity.of_pairs(pair, [(0, 1)]) for pair in pairs], axis=0)
    top = np.mean([similarity.of_pairs([ranking[:10] for ranking in pair], [(0, 1)]) for pair in pairs], axis=0)
    assert full.ravel() == pytest.approx([tau, rbo, overlap], abs=5e-7)
    assert top[1] == pytest.approx(rbo_10, abs=5e-7)
