"""What holds for every ranking method there is, whatever answers it: new method files are found by name."""

import contextlib
from dataclasses import asdict
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import TopK

RULES = ("oracle", "noisy", "hash", "rel")
QUICK = settings(suppress_health_check=[HealthCheck.too_slow])


@st.composite
def settings_of(draw: st.DrawFn, method: str) -> dict[str, object]:
    """The `ranker` section of a config for that method."""
    ranges = {"k": st.integers(1, 40), "num_child": st.integers(1, 9), "num_permutation": st.integers(1, 3)}
    fields = catalog.method(method).params.model_fields
    own = {name: draw(values) for name, values in ranges.items() if name in fields}
    return {"method": method, "scoring": draw(st.sampled_from(scorings(method)))} | own


@cache
def scorings(method: str) -> list[str]:
    """The scorings that a method takes with its own prompt and parameters."""
    accepted = []
    for scoring in ("generation", "likelihood"):
        with contextlib.suppress(InputError):
            accepted.append(Ranker.create({"method": method, "scoring": scoring}).scoring)
    return accepted


def backend(rule: str, grades: list[int], seed: int, noise: float = 0.3):
    judged = {"q1": {f"d{i:02d}": grade for i, grade in enumerate(grades)}}
    return simulated.open(simulated.Options(answers=rule, noise=noise), Setting(seed=seed, grades=judged))


GRADES = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@pytest.mark.parametrize("method", catalog.names("method"))
@given(data=st.data(), rule=st.sampled_from(RULES), grades=GRADES, seed=st.integers(0, 10))
@QUICK
def test_a_ranking_is_a_permutation_and_its_costs_add_up(
    method, make_candidates, rank, data, rule, grades, seed
) -> None:
    options = data.draw(settings_of(method))
    candidates = make_candidates(len(grades))
    [(ranking, cost)] = rank(options, backend(rule, grades, seed), [candidates])
    assert sorted(ranking.docs) == sorted(candidates.ids)
    assert cost.query_id == "q1"
    assert cost.asks == cost.calls + cost.cached
    assert cost.unparsed == 0
    assert cost.rounds <= cost.asks
    assert cost.prompt_tokens is None if cost.asks else cost.prompt_tokens == 0
    assert cost.seconds is not None  # an equal ask was answered in this execution too
    if issubclass(catalog.method(method).params, TopK):
        below = ranking.docs[options["k"] :]
        assert list(below) == sorted(below)


@pytest.mark.parametrize("method", catalog.names("method"))
@given(data=st.data(), rule=st.sampled_from(RULES), grades=GRADES, seed=st.integers(0, 10))
@settings(QUICK)
def test_pooled_with_others_or_alone_a_query_is_ranked_the_same(
    method, make_candidates, rank, data, rule, grades, seed
) -> None:
    options = data.draw(settings_of(method))
    queries = [make_candidates(len(grades), query_id=f"q{i}") for i in range(3)]
    pooled = rank(options, backend(rule, grades, seed), queries)
    alone = rank(options, backend(rule, grades, seed), queries, pooled=False)
    told = sorted(pooled, key=lambda one: one[1].query_id)
    assert [ranking for ranking, _ in told] == [ranking for ranking, _ in alone]
    for (_, together), (_, single) in zip(told, alone, strict=True):
        execution = {"calls", "cached", "seconds"}
        assert {k: v for k, v in asdict(together).items() if k not in execution} == {
            k: v for k, v in asdict(single).items() if k not in execution
        }
        assert (single.cached, single.calls) == (0, single.asks)
        assert single.seconds is not None


@pytest.mark.parametrize("method", catalog.names("method"))
def test_no_document_at_all_is_a_ranking_of_none(method, make_candidates, rank) -> None:
    [(ranking, cost)] = rank({"method": method}, backend("rel", [], 0), [make_candidates(0)])
    assert (ranking.docs, cost.asks, cost.comparisons, cost.seconds is None) == ((), 0, 0, False)


@pytest.mark.parametrize("method", catalog.names("method"))
def test_a_single_document_is_ranked_first(method, make_candidates, rank) -> None:
    [(ranking, cost)] = rank({"method": method}, backend("rel", [0], 0), [make_candidates(1)])
    assert ranking.docs == ("d00",)
    assert cost.comparisons == 0


@pytest.mark.parametrize("method", catalog.names("method"))
def test_answers_that_cannot_be_read_are_counted_and_lose_no_document(
    method, make_candidates, rank, rule_backend
) -> None:
    silent = rule_backend(lambda request: Reply(text="" if request.ask.kind == "write" else "Z and more"))
    written = {"method": method, "scoring": scorings(method)[0]}
    [(ranking, cost)] = rank(written, silent, [make_candidates(20)])
    assert sorted(ranking.docs) == sorted(make_candidates(20).ids)
    assert cost.unparsed == cost.asks > 0
