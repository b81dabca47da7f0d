"""Pointwise methods: what they ask, in how many rounds, and the scores that answers give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.notes.spectral_summary import spectral_summary
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import compare, minmax, score, write


def backend_by_doc(rule_backend, replies: dict[str, Reply]):
    return rule_backend(lambda request: replies[request.ask.docs[0]])


def logs(*probabilities: float) -> Reply:
    return Reply(scores=tuple(math.log(p) for p in probabilities))


# Yes or no


def test_every_document_is_asked_about_once_in_one_round(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(lambda request: Reply(scores=(-1.0, -2.0), prompt_tokens=9, completion_tokens=0))
    [(ranking, cost)] = rank({"method": "pointwise.yes_no"}, backend, [make_candidates(4)])
    assert [request.ask for request in backend.asked] == [score(f"d0{i}") for i in range(4)]
    assert (cost.asks, cost.rounds, cost.comparisons) == (4, 1, 0)
    assert (cost.prompt_tokens, cost.completion_tokens) == (36, 0)
    assert ranking.docs == ("d00", "d01", "d02", "d03")


def test_documents_are_sorted_by_the_share_of_yes_and_not_by_its_probability_alone(
    make_candidates, rank, rule_backend
) -> None:
    # P(Yes) over the vocabulary: 0.5, 0.1, 0.2, 0.2; over Yes and No: 0.5, 0.9…, 0.4, 0.4.
    scores = {
        "d00": (math.log(0.5), math.log(0.5)),
        "d01": (math.log(0.1), math.log(0.01)),
        "d02": (math.log(0.2), math.log(0.3)),
        "d03": (math.log(0.2), math.log(0.3)),
    }
    backend = rule_backend(lambda request: Reply(scores=scores[request.ask.docs[0]]))
    [(ranking, _)] = rank({"method": "pointwise.yes_no"}, backend, [make_candidates(4)])
    assert ranking.docs == ("d01", "d00", "d02", "d03")


@given(st.lists(st.sampled_from(["Yes", "No", "yes.", "perhaps", ""]), max_size=30))
def test_generated_answers_make_two_groups_in_first_stage_order(make_candidates, rank, rule_backend, texts) -> None:
    backend = rule_backend(lambda request: Reply(text=texts[int(request.ask.docs[0][1:])]))
    options = {"method": "pointwise.yes_no", "scoring": "generation"}
    [(ranking, cost)] = rank(options, backend, [make_candidates(len(texts))])
    yes = [f"d{i:02d}" for i, text in enumerate(texts) if text.lower().startswith("yes")]
    assert ranking.docs == (*yes, *(doc for doc in make_candidates(len(texts)).ids if doc not in yes))
    assert cost.unparsed == sum(text in ("perhaps", "") for text in texts)


@pytest.mark.parametrize("scoring", ["likelihood", "generation"])
def test_an_oracle_ranks_by_grade(make_candidates, rank, scoring: str) -> None:
    grades = {"q1": {"d04": 3, "d02": 2, "d03": 3, "d00": 1}}
    backend = simulated.open(simulated.Options(), Setting(grades=grades))
    [(ranking, _)] = rank({"method": "pointwise.yes_no", "scoring": scoring}, backend, [make_candidates(5)])
    if scoring == "likelihood":
        assert ranking.docs == ("d03", "d04", "d02", "d00", "d01")
    else:  # Yes from grade 1 on
        assert ranking.docs == ("d00", "d02", "d03", "d04", "d01")


# Graded labels


def test_the_expected_grade_is_the_mean_of_the_values_under_renormalised_probabilities(
    make_candidates, rank, rule_backend
) -> None:
    # Labels Not, Somewhat, Highly. The first two have the same shares; the probability of Highly differs.
    replies = {"d00": logs(0.1, 0.15, 0.25), "d01": logs(0.2, 0.3, 0.5), "d02": logs(0.1, 0.1, 0.3)}
    options = {"method": "pointwise.graded", "prompt": "graded_3l"}
    [(ranking, cost)] = rank(options, backend_by_doc(rule_backend, replies), [make_candidates(3)])
    assert ranking.docs == ("d02", "d00", "d01")
    assert ranking.scores == pytest.approx((1.4, 1.3, 1.3))
    assert (cost.asks, cost.rounds, cost.comparisons) == (3, 1, 0)
    options["score"] = "peak"
    [(ranking, _)] = rank(options, backend_by_doc(rule_backend, replies), [make_candidates(3)])
    assert ranking.docs == ("d01", "d02", "d00")
    assert ranking.scores == pytest.approx((math.log(0.5), math.log(0.3), math.log(0.25)))


@pytest.mark.parametrize("score_by", ["expected", "peak"])
@pytest.mark.parametrize(
    ("prompt", "texts", "values"),
    [
        ("graded_2l", ["Relevant", "Not Relevant.", "not relevant", "perhaps"], [1, 0, 0, 0]),
        ("graded_3l", ["Not Relevant", "Highly Relevant", "Somewhat relevant.", ""], [0, 2, 1, 0]),
        ("graded_4l", ["Perfectly Relevant", "'Highly Relevant'", "hm", "Somewhat Relevant"], [3, 2, 0, 1]),
        ("graded_s4", ["3", "4.", "0", "9"], [3, 4, 0, 0]),
    ],
)
def test_a_generated_label_gives_its_value(
    make_candidates, rank, rule_backend, prompt, texts, values, score_by: str
) -> None:
    backend = rule_backend(lambda request: Reply(text=texts[int(request.ask.docs[0][1:])]))
    options = {"method": "pointwise.graded", "prompt": prompt, "scoring": "generation", "score": score_by}
    [(ranking, cost)] = rank(options, backend, [make_candidates(4)])
    assert dict(zip(ranking.docs, ranking.scores, strict=True)) == {f"d0{i}": v for i, v in enumerate(values)}
    assert cost.unparsed == sum(text in ("perhaps", "", "hm", "9") for text in texts)


@pytest.mark.parametrize(
    ("name", "labels", "scored"),
    [
        ("graded_2l", ["Not Relevant", "Relevant"], "whole"),
        ("graded_3l", ["Not Relevant", "Somewhat Relevant", "Highly Relevant"], "whole"),
        ("graded_4l", ["Not Relevant", "Somewhat Relevant", "Highly Relevant", "Perfectly Relevant"], "whole"),
        ("graded_s4", ["0", "1", "2", "3", "4"], "first_token"),
    ],
)
def test_labels_have_the_values_0_to_k_and_worded_ones_are_scored_whole(name, labels, scored: str) -> None:
    prompt = prompts.load(name)
    assert prompt.labels == {label: float(value) for value, label in enumerate(labels)}
    assert prompt.answer.scored == scored
    [turn] = prompt.render(score("d"), "moons", ["Two."])
    assert all(f"'{label}'" in turn.content for label in labels) or "From a scale of 0 to 4" in turn.content
    assert turn.content.endswith("\nQuery: moons Document:Two. Output:")


@pytest.mark.parametrize(("whole", "first"), [("graded_3l", "graded_3l_first"), ("graded_s4", "graded_s4_first")])
def test_the_variants_of_two_labels_ask_the_same_and_score_first_tokens_of_the_ends(whole: str, first: str) -> None:
    all_labels, ends = prompts.load(whole), prompts.load(first)
    assert ends.messages == all_labels.messages
    assert ends.answer.scored == "first_token"
    assert tuple(ends.labels) == tuple(all_labels.labels)[:: len(all_labels.labels) - 1]
    assert [*ends.labels.values()] == [0.0, 1.0]


# References


REFRANK = {"method": "pointwise.refrank"}
WINS = {("d00", "d01"): 0.8, ("d01", "d00"): 0.3, ("d02", "d00"): 0.6, ("d02", "d01"): 0.9}
"""How probable it is that passage A wins."""


def by_wins(request) -> Reply:
    first = WINS.get(request.ask.docs, 0.5)
    return logs(0.5 * first, 0.5 * (1 - first))


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"m": 1}, [0.5, 0.3, 0.6]),
        ({"m": 2}, [(0.5 + 0.8) / 2, (0.3 + 0.5) / 2, (0.6 + 0.9) / 2]),
        ({"m": 2, "weights": "rank"}, [(0.5 + 0.8 / 2) / 1.5, (0.3 + 0.5 / 2) / 1.5, (0.6 + 0.9 / 2) / 1.5]),
        ({"m": 2, "own_score": 1.0}, [(1 + 0.8) / 2, (0.3 + 1) / 2, (0.6 + 0.9) / 2]),
        ({"m": 1, "order": "reference_first"}, [0.5, 1 - 0.8, 0.5]),
        ({"m": 1, "order": "both"}, [0.5, (0.3 + 0.2) / 2, (0.6 + 0.5) / 2]),
    ],
)
def test_a_score_is_the_mean_share_of_the_documents_label_against_the_references(
    make_candidates, rank, rule_backend, options, scores
) -> None:
    [(ranking, _)] = rank(REFRANK | options, rule_backend(by_wins), [make_candidates(3)])
    assert [dict(zip(ranking.docs, ranking.scores, strict=True))[f"d0{i}"] for i in range(3)] == pytest.approx(scores)


@given(st.integers(0, 30), st.integers(1, 6), st.sampled_from(["candidate_first", "reference_first", "both"]))
def test_every_document_meets_every_reference_but_itself_in_one_round(make_candidates, rank, n, m, order) -> None:
    backend = simulated.open(simulated.Options(answers="rel"), Setting())
    [(_, cost)] = rank(REFRANK | {"m": m, "order": order}, backend, [make_candidates(n)])
    references = min(m, n)
    assert cost.asks == references * (n - 1 if n else 0) * (2 if order == "both" else 1)
    assert cost.rounds == (cost.asks > 0)
    # Two references meet each other twice, and count as one unordered pair.
    assert cost.comparisons == references * n - references - references * (references - 1) // 2


def test_the_candidate_is_passage_a_unless_told_otherwise(make_candidates, rank, rule_backend) -> None:
    for order, asked in [
        ("candidate_first", [("d01", "d00"), ("d02", "d00")]),
        ("reference_first", [("d00", "d01"), ("d00", "d02")]),
        ("both", [("d01", "d00"), ("d00", "d01"), ("d02", "d00"), ("d00", "d02")]),
    ]:
        backend = rule_backend(by_wins)
        rank(REFRANK | {"order": order}, backend, [make_candidates(3)])
        assert [request.ask.docs for request in backend.asked] == asked


def test_by_generation_a_win_counts_one_and_what_cannot_be_read_a_half(make_candidates, rank, rule_backend) -> None:
    texts = {"d01": "Passage B", "d02": "Passage A", "d03": "neither"}
    backend = rule_backend(lambda request: Reply(text=texts[request.ask.docs[0]]))
    [(ranking, cost)] = rank(REFRANK | {"scoring": "generation"}, backend, [make_candidates(4)])
    assert ranking.docs == ("d02", "d00", "d03", "d01")
    assert ranking.scores == (1.0, 0.5, 0.5, 0.0)
    assert cost.unparsed == 1


# The anchor


TEXTS = [f"Moon number {i} of Mars is small." for i in range(4)]


def test_the_anchor_is_a_summary_of_the_first_documents_and_every_ask_shows_it(
    make_candidates, rank, rule_backend
) -> None:
    backend = rule_backend(lambda request: logs(0.5, 0.25))
    [(_, cost)] = rank({"method": "pointwise.gccp", "m": 2}, backend, [make_candidates(TEXTS)])
    anchor = ("anchor", " ".join(TEXTS[:2]))
    assert [request.ask for request in backend.asked] == [score(f"d0{i}", notes=[anchor]) for i in range(4)]
    assert (cost.asks, cost.rounds, cost.comparisons) == (4, 1, 0)


def test_the_summarys_options_are_the_methods(make_candidates, rank, rule_backend) -> None:
    def anchor(**options) -> str:
        backend = rule_backend(lambda request: logs(0.5, 0.25))
        rank({"method": "pointwise.gccp"} | options, backend, [make_candidates(TEXTS)])
        return backend.asked[0].ask.notes[0][1]

    assert anchor(z=2) == " ".join(TEXTS[:2])
    for options in ({"threshold": 0.99}, {"choice": "magnitude"}):
        assert anchor(z=2, **options) == spectral_summary("", TEXTS, sentences=2, **options)


def test_gccp_ranks_by_the_probability_of_a_over_the_whole_vocabulary(make_candidates, rank, rule_backend) -> None:
    # The shares of A over A and B would give the other order.
    backend = backend_by_doc(rule_backend, {"d00": logs(0.3, 0.1), "d01": logs(0.4, 0.5)})
    [(ranking, _)] = rank({"method": "pointwise.gccp"}, backend, [make_candidates(2)])
    assert ranking.docs == ("d01", "d00")
    assert ranking.scores == pytest.approx((0.4, 0.3))


def test_a_generated_a_is_1_and_all_else_0(make_candidates, rank, rule_backend) -> None:
    texts = ["Passage B", "A", "neither"]
    backend = rule_backend(lambda request: Reply(text=texts[int(request.ask.docs[0][1:])]))
    [(ranking, cost)] = rank({"method": "pointwise.gccp", "scoring": "generation"}, backend, [make_candidates(3)])
    assert (ranking.docs, ranking.scores, cost.unparsed) == (("d01", "d00", "d02"), (1.0, 0.0, 0.0), 1)


@pytest.mark.parametrize("form", ["encoder_decoder", "decoder_only"])
def test_the_prompt_of_gccp_is_the_pairwise_one_with_the_anchor_as_passage_b(form) -> None:
    pairwise, gccp = prompts.load("pairwise"), prompts.load("gccp")
    [pair] = pairwise.render(compare("d", "anchor"), "moons", ["Two.", "Mars."], form)
    [against] = gccp.render(score("d", notes=[("anchor", "Mars.")]), "moons", ["Two."], form)
    assert against == pair
    assert (gccp.answer, gccp.labels) == (pairwise.answer, {"A": 1.0, "B": 0.0})
    assert gccp.notes == {"anchor": "cut"}


# PAGC


PAGC = {"method": "pointwise.pagc"}


def test_pagc_is_the_mean_of_scores_brought_to_one_range(make_candidates, rank, rule_backend) -> None:
    # P(A): 0.2, 0.4, 0.6 → 0, ½, 1. P(yes) over yes and no: 0.9, 0.1, 0.5 → 1, 0, ½.
    replies = {
        None: {"d00": logs(0.2, 0.1), "d01": logs(0.4, 0.5), "d02": logs(0.6, 0.3)},
        "rg_yn": {"d00": logs(0.09, 0.01), "d01": logs(0.1, 0.9), "d02": logs(0.3, 0.3)},
        "rg_s": {doc: logs(0.1, 0.1, 0.1, 0.1, peak) for doc, peak in [("d00", 0.5), ("d01", 0.1), ("d02", 0.2)]},
        "qlm": {doc: Reply(scores=(value,)) for doc, value in [("d00", -30.0), ("d01", -10.0), ("d02", -15.0)]},
    }
    backend = rule_backend(lambda request: replies[request.ask.template][request.ask.docs[0]])

    def scores(**options) -> list[float]:
        [(ranking, cost)] = rank(PAGC | options, backend, [make_candidates(3)])
        assert cost.rounds == 1
        assert cost.asks == 3 * (1 + len(options.get("components", ["rg_yn"])))
        return [dict(zip(ranking.docs, ranking.scores, strict=True))[f"d0{i}"] for i in range(3)]

    assert scores() == pytest.approx([0.5, 0.25, 0.75])
    assert scores(components=["rg_s"]) == pytest.approx([0.5, 0.25, (1 + 0.25) / 2])
    assert scores(components=["qg", "rg_s"]) == pytest.approx([(0 + 0 + 1) / 3, 0.5, (1 + 0.75 + 0.25) / 3])


def test_scores_that_are_all_equal_count_a_half(make_candidates, rank, rule_backend) -> None:
    def reply(request) -> Reply:
        if request.ask.template is None:
            return logs(0.3, 0.3)
        return logs(0.1, 0.3) if request.ask.docs == ("d00",) else logs(0.3, 0.1)

    [(ranking, _)] = rank(PAGC, rule_backend(reply), [make_candidates(2)])
    assert ranking.docs == ("d01", "d00")
    assert ranking.scores == pytest.approx((0.75, 0.25))
    assert minmax([3.0]) == [0.5]
    assert minmax([-math.inf, -math.inf]) == [0.5, 0.5]
    assert minmax([]) == []


@pytest.mark.parametrize(
    ("method", "options", "asks"),
    [
        ("pointwise.gccp", {}, 100),
        ("pointwise.pagc", {}, 200),
        ("pointwise.pagc", {"components": ["qg", "rg_s"]}, 300),
        ("pointwise.graded", {}, 100),
        ("pointwise.refrank", {}, 99),
        ("pointwise.judgerank", {}, 201),
    ],
)
def test_what_a_hundred_documents_cost(make_candidates, rank, method, options, asks: int) -> None:
    backend = simulated.open(simulated.Options(answers="rel"), Setting())
    [(_, cost)] = rank({"method": method} | options, backend, [make_candidates(100)])
    assert cost.asks == asks
    assert cost.rounds == (3 if method == "pointwise.judgerank" else 1)


def test_by_generation_the_querys_likelihood_counts_a_half_for_all(make_candidates, rank, rule_backend) -> None:
    texts = {"d00": "B", "d01": "A"}
    backend = backend_by_doc(rule_backend, {doc: Reply(text=text) for doc, text in texts.items()})
    options = PAGC | {"components": ["qg"], "scoring": "generation"}
    [(ranking, cost)] = rank(options, backend, [make_candidates(2)])
    assert (ranking.docs, ranking.scores, cost.unparsed) == (("d01", "d00"), (0.75, 0.25), 2)


@pytest.mark.parametrize("components", [[], ["rg_s", "rg_s"], ["gccp"], "rg_s"])
def test_components_are_named_once_each_and_there_is_one(components) -> None:
    with pytest.raises(ValidationError):
        Ranker.create(PAGC | {"components": components})


def test_a_component_can_have_another_prompt(make_candidates, rank, rule_backend) -> None:
    backend = rule_backend(lambda request: logs(0.5, 0.25))
    rank(PAGC | {"rg_yn_prompt": "yes_no"}, backend, [make_candidates(2)])
    assert [request.prompt.name for request in backend.asked] == ["gccp", "gccp", "yes_no", "yes_no"]


# JudgeRank


JUDGERANK = {"method": "pointwise.judgerank"}


def judge(shares: dict[str, float]):
    def reply(request) -> Reply:
        if request.ask.kind == "write":
            return Reply(text=f" on {', '.join(request.ask.docs) or 'the query'}\n")
        share = shares[request.ask.docs[0]]
        return logs(share / 2, (1 - share) / 2)

    return reply


def test_the_query_is_analysed_then_each_passage_and_each_is_judged_with_both(
    make_candidates, rank, rule_backend
) -> None:
    backend = rule_backend(judge({"d00": 0.2, "d01": 0.7, "d02": 0.4}))
    [(ranking, cost)] = rank(JUDGERANK, backend, [make_candidates(3)])
    docs, query = ("d00", "d01", "d02"), ("query_analysis", "on the query")
    assert [request.ask for request in backend.asked] == [
        write("judgerank_query"),
        *(write("judgerank_passage", [doc], [query]) for doc in docs),
        *(score(doc, notes=[query, ("passage_analysis", f"on {doc}")]) for doc in docs),
    ]
    assert (cost.asks, cost.rounds, cost.comparisons) == (7, 3, 0)
    assert ranking.docs == ("d01", "d02", "d00")
    assert ranking.scores == pytest.approx((0.7, 0.4, 0.2))
    assert {request.scoring for request in backend.asked} == {"generation", "likelihood"}
    decodings = {request.terms.decoding for request in backend.asked if request.ask.kind == "write"}
    assert [(d.temperature, d.top_p, d.max_new_tokens) for d in decodings] == [(0.6, 0.9, 2048)]


@pytest.mark.parametrize(
    ("options", "order", "scores"),
    [
        ({"combine": "discrete"}, ["d01", "d03", "d00", "d02"], [1, 1, 0, 0]),
        # First-stage scores 100, 99, 98, 97 → 1, ⅔, ⅓, 0.
        ({"combine": "interpolate", "alpha": 0.5}, ["d00", "d01", "d03", "d02"], [0.7, 19 / 30, 0.45, 5 / 12]),
        ({"combine": "interpolate", "alpha": 0.0}, ["d03", "d01", "d02", "d00"], [0.9, 0.6, 0.5, 0.4]),
        ({"combine": "interpolate", "alpha": 1}, ["d00", "d01", "d02", "d03"], [1, 2 / 3, 1 / 3, 0]),
    ],
)
def test_the_first_stage_can_have_a_share(make_candidates, rank, rule_backend, options, order, scores) -> None:
    backend = rule_backend(judge({"d00": 0.4, "d01": 0.6, "d02": 0.5, "d03": 0.9}))
    [(ranking, _)] = rank(JUDGERANK | options, backend, [make_candidates(4)])
    assert list(ranking.docs) == order
    assert ranking.scores == pytest.approx(scores)


def test_interpolation_needs_its_share() -> None:
    with pytest.raises(ValidationError, match="combine: interpolate needs alpha"):
        Ranker.create(JUDGERANK | {"combine": "interpolate"})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Ranker.create(JUDGERANK | {"combine": "interpolate", "alpha": 1.5})


def test_an_analysis_that_is_missing_is_counted_and_the_passage_is_judged_without_it(
    make_candidates, rank, rule_backend
) -> None:
    backend = rule_backend(lambda request: Reply(text="" if request.ask.kind == "write" else "Yes"))
    [(ranking, cost)] = rank(JUDGERANK | {"scoring": "generation"}, backend, [make_candidates(2)])
    assert ranking.scores == (1.0, 1.0)
    assert (cost.asks, cost.unparsed) == (5, 3)
    assert backend.asked[-1].ask.notes == (("query_analysis", ""), ("passage_analysis", ""))


def test_a_score_in_words_is_the_mean_of_the_numbers_that_samples_give(make_candidates, rank, rule_backend) -> None:
    """As Retro*: <score> 0 to 100 </score>, an answer without one counts 0."""
    texts = {"d00": ["<score>80</score>", "<score> 60 </score>"], "d01": ["so <score>90</score>.", "90 of 100"]}
    backend = rule_backend(lambda request: Reply(text=texts[request.ask.docs[0]][request.ask.sample]))
    backend.simulated = False  # whose answers are nothing but the score
    options = {"method": "pointwise.graded", "prompt": "retro_star", "scoring": "generation", "samples": 2}
    [(ranking, cost)] = rank(options, backend, [make_candidates(2)])
    assert ranking.docs == ("d00", "d01")
    assert ranking.scores == (70.0, 45.0)
    assert (cost.asks, cost.rounds, cost.unparsed) == (4, 1, 1)
    assert len({request.key for request in backend.asked}) == 4  # no sample is taken for another
    with pytest.raises(InputError, match="its labels have one value"):
        Ranker.create(options | {"scoring": "likelihood"})
