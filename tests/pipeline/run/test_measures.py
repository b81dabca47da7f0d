"""Evaluation, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
from r2llm.pipeline.run import measures
from r2llm.rerankers.errors import InputError

QRELS = {"q1": {"d1": 1, "d3": 3}, "q2": {"d4": 2}, "q3": {"d5": 1}}
RUN = {"q1": ["d1", "d2", "d3", "d4"], "q2": ["d5", "d4"]}
NDCG_Q1 = (1 / math.log2(2) + 3 / math.log2(4)) / (3 / math.log2(2) + 1 / math.log2(3))
"""Linear gains: grades 1, -, 3, - against the ideal 3, 1."""
NDCG_Q2 = 1 / math.log2(3)


def measured(*names: str, run: dict[str, list[str]] = RUN, queries: tuple[str, ...] = ("q1", "q2", "q3")):
    return measures.measure(names, QRELS, run, queries)


def test_figures_by_hand() -> None:
    metrics = measured("nDCG@10", "RR@10", "AP", "AP(rel=2)", "Judged@10", "P@2", "R@1", queries=("q1", "q2"))
    assert metrics.per_query["q1"] == pytest.approx(
        {"nDCG@10": NDCG_Q1, "RR@10": 1, "AP": (1 + 2 / 3) / 2, "AP(rel=2)": 1 / 3, "Judged@10": 0.5}
        | {"P@2": 0.5, "R@1": 0.5}
    )
    assert metrics.per_query["q2"] == pytest.approx(
        {"nDCG@10": NDCG_Q2, "RR@10": 0.5, "AP": 0.5, "AP(rel=2)": 0.5, "Judged@10": 0.5, "P@2": 0.5, "R@1": 0}
    )
    assert metrics.mean["nDCG@10"] == pytest.approx((NDCG_Q1 + NDCG_Q2) / 2)
    assert metrics.mean["AP"] == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_a_cutoff_counts_from_the_top() -> None:
    assert measured("nDCG@2", queries=("q1",)).mean["nDCG@2"] == pytest.approx(1 / (3 + 1 / math.log2(3)))
    assert measured("RR@1", queries=("q2",)).mean["RR@1"] == 0


def test_rel_asks_for_a_grade() -> None:
    metrics = measured("RR(rel=2)", "RR(rel=4)", queries=("q1",))
    assert metrics.mean == pytest.approx({"RR(rel=2)": 1 / 3, "RR(rel=4)": 0})


def test_a_query_without_results_counts_zero() -> None:
    metrics = measured("nDCG@10", "AP")
    assert metrics.per_query["q3"] == {"nDCG@10": 0.0, "AP": 0.0}
    assert metrics.mean["nDCG@10"] == pytest.approx((NDCG_Q1 + NDCG_Q2) / 3)


def test_no_results_at_all_are_zero() -> None:
    assert measured("nDCG@10", run={}).mean == {"nDCG@10": 0.0}
    assert measured("nDCG@10", run={"q1": []}).mean == {"nDCG@10": 0.0}


def test_a_subset_averages_over_the_subset() -> None:
    assert measured("nDCG@10", queries=("q2",)).mean["nDCG@10"] == pytest.approx(NDCG_Q2)
    assert list(measured("nDCG@10", queries=("q3", "q1")).per_query) == ["q3", "q1"]


def test_a_query_without_judgements_does_not_count() -> None:
    metrics = measured("nDCG@10", queries=("q2", "unjudged"))
    assert list(metrics.per_query) == ["q2"]
    assert metrics.mean["nDCG@10"] == pytest.approx(NDCG_Q2)


def test_no_judged_query_is_an_error() -> None:
    with pytest.raises(InputError, match="none of the queries has relevance judgements"):
        measured("nDCG@10", queries=("other",))


def test_only_the_order_counts_not_the_identifiers() -> None:
    """An evaluator given tied scores would order by identifier."""
    for ids in (["z", "a"], ["a", "z"]):
        metrics = measures.measure(["RR@10"], {"q": {ids[1]: 1}}, {"q": ids}, ["q"])
        assert metrics.mean["RR@10"] == 0.5


def test_query_ids_may_be_any_word() -> None:
    qrels = {"PLAIN-2/ü": {"d": 1}, "19335": {"d": 1}}
    metrics = measures.measure(["nDCG@10", "ERR@10"], qrels, {query: ["x", "d"] for query in qrels}, qrels)
    assert metrics.per_query["PLAIN-2/ü"] == metrics.per_query["19335"]


def test_long_rankings_keep_their_order() -> None:
    ranking = [f"d{i}" for i in range(5000)]
    metrics = measures.measure(["RR", "R@1000"], {"q": {"d3999": 1}}, {"q": ranking}, ["q"])
    assert metrics.mean == pytest.approx({"RR": 1 / 4000, "R@1000": 0})


@pytest.mark.parametrize(
    "name", ["nDGC@10", "", "nDCG@", "nDCG@0", "P@-1", "nDCG@x", "nDCG(foo=1)", "AP(rel='x')", "P", "1+1", "os.name"]
)
def test_an_unknown_measure_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"is no measure of ir-measures .*examples: nDCG@10") as caught:
        measures.parse([name])
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("ndcg_cut_10", ["nDCG@10"]),
        ("ndcg_cut.5,10", ["nDCG@5", "nDCG@10"]),
        ("map", ["AP"]),
        ("map_cut_10", ["AP@10"]),
        ("P_10", ["P@10"]),
        ("recall_1000", ["R@1000"]),
        ("recip_rank", ["RR"]),
        ("num_q", ["NumQ"]),
        ("nDCG@10 P@5", ["nDCG@10", "P@5"]),
        ("AP(rel = 2) map", ["AP(rel=2)", "AP"]),
    ],
)
def test_trec_evals_names_are_understood(name: str, known: list[str]) -> None:
    assert [str(measure) for measure in measures.parse([name])] == known


@pytest.mark.parametrize(
    ("name", "meant"),
    [("nDGC@10", "nDCG@10"), ("map@10", "AP@10"), ("map_10", "AP@10"), ("ndcg@5", "nDCG@5"), ("Recal@100", "R@100")],
)
def test_the_nearest_measure_is_offered(name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"; did you mean {meant}\\?"):
        measures.parse([name])


@pytest.mark.parametrize("name", ["nDCG@10^20", "P@99999999999999999999", "P_10x", "official", "-" * 100_000])
def test_what_no_evaluator_takes_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match="is no measure") as caught:
        measures.parse([name])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_counts_are_sums_over_all_judged_queries() -> None:
    """As trec_eval -c has them: a query without a ranking is a query, and its relevant documents are relevant."""
    counted = measured("NumRet", "NumRel", "num_rel_ret", "NumQ", "AP", run={"q1": ["d1", "d2"]})
    assert counted.mean == {"NumRet": 2, "NumRel": 4, "NumRet(rel=1)": 1, "NumQ": 3, "AP": pytest.approx(1 / 2 / 3)}


def test_what_is_left_out_is_said_with_its_number() -> None:
    def notes(*names: str, run: dict[str, list[str]] = RUN) -> list[str]:
        return measures.notes(names, QRELS, run, ("q1", "q2", "q3"))

    everything = {"q1": ["d1"], "q2": ["d4"], "q3": ["d5"]}
    assert notes("nDCG@10", "Judged@10", "AP(rel=2)", run=everything) == []
    assert notes("nDCG@10") == ["1 of 3 judged queries have no documents in the run and count 0"]
    unjudged = "1 of 4 queries of the run are not measured: they have no judgements here"
    assert notes("nDCG@10", run=everything | {"q9": ["d1"]}) == [unjudged]
    graded = "judgements go up to 3, and AP, R@10 count 1 as relevant; AP(rel=2) would not"
    assert notes("AP", "R@10", "nDCG@10", run=everything) == [graded]


def test_judged_goes_with_ndcg() -> None:
    assert measures.with_judged(["nDCG@10", "AP"]) == ["nDCG@10", "AP", "Judged@10"]
    assert measures.with_judged(["Judged@10", "nDCG@10", "nDCG@5"]) == ["Judged@10", "nDCG@10", "nDCG@5", "Judged@5"]
    assert measures.with_judged(["RR@10"]) == ["RR@10"]


@pytest.mark.parametrize(
    "name", ["nDCG@2", "nDCG(judged_only=True)@2", "P(rel=2)@2", "AP@2", "R@2", "RR@2", "Judged@2"]
)
def test_a_cutoff_measures_the_same_beside_a_measure_of_whole_rankings(name: str) -> None:
    qrels = {"q": {"a": 2, "b": 1, "c": 0}}
    run = {"q": ["x", "c", "y", "b", "a"]}
    alone, beside = (measures.measure(names, qrels, run, ["q"]).mean[name] for names in ([name], [name, "AP"]))
    assert alone == beside
