"""Ranking from Python gives what the command line gives."""

import doctest
from pathlib import Path

import pandas as pd
import pytest
import r2llm
from r2llm.rerankers import api
from r2llm.rerankers.errors import InputError

QUERIES = {"q1": "tides", "q2": "moons"}
CANDIDATES = {"q1": {"a": "one", "b": "two", "c": "three"}, "q2": [("c", "three", 9.0), ("a", "one", 3.5)]}
GRADES = {"q1": {"b": 2, "c": 1}, "q2": {"a": 1}}
RANKER = {"method": "setwise.heapsort", "k": 2}


def oracle() -> api.Backend:
    return r2llm.open_model({"backend": "simulated"}, grades=GRADES)


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted > 0


def test_mappings_and_rows_are_ranked() -> None:
    found = r2llm.rerank(QUERIES, CANDIDATES, RANKER, oracle())
    assert {query: ranked.docs for query, ranked in found.items()} == {"q1": ("b", "c", "a"), "q2": ("a", "c")}
    assert found["q1"].cost.asks == found["q1"].cost.calls > 0


def test_a_ledger_keeps_answers_between_calls(tmp_path: Path) -> None:
    ledger = tmp_path / "answers.sqlite"
    first = r2llm.rerank(QUERIES, CANDIDATES, RANKER, oracle(), ledger=ledger)
    again = r2llm.rerank(QUERIES, CANDIDATES, RANKER, oracle(), ledger=ledger)
    assert [ranked.docs for ranked in again.values()] == [ranked.docs for ranked in first.values()]
    assert sum(ranked.cost.calls for ranked in again.values()) == 0


def test_a_frame_goes_in_and_comes_out_in_new_order() -> None:
    frame = pd.DataFrame(
        {
            "qid": [1, 1, 1, 2, 2],
            "query": ["tides"] * 3 + ["moons"] * 2,
            "docno": ["c", "a", "b", "a", "c"],
            "text": ["three", "one", "two", "one", "three"],
            "score": [1.0, 3.0, 2.0, 3.5, 9.0],
            "extra": list("vwxyz"),
        }
    )
    model = r2llm.open_model({"backend": "simulated"}, grades={"1": GRADES["q1"], "2": GRADES["q2"]})
    ranked = r2llm.rerank_frame(frame, RANKER, model)
    assert ranked[["qid", "docno", "rank", "score", "extra"]].values.tolist() == [
        ["1", "b", 0, 3.0, "x"],
        ["1", "c", 1, 2.0, "v"],
        ["1", "a", 2, 1.0, "w"],
        ["2", "a", 0, 2.0, "y"],
        ["2", "c", 1, 1.0, "z"],
    ]
    assert set(ranked.columns) == {*frame.columns, "rank"}


@pytest.mark.parametrize(
    ("queries", "candidates", "model", "complaint"),
    [
        ({}, {"q": {"a": "x"}}, {"backend": "simulated", "answers": "rel"}, "query q has candidates but no text"),
        ({"q": "x"}, {"q": [("a", "x"), ("a", "y")]}, {"backend": "simulated", "answers": "rel"}, "a is given twice"),
        ({"q": "x"}, {"q": {"a": "x"}}, {"answers": "rel"}, "backend is missing"),
        ({"q": "x"}, {"q": {"a": "x"}}, {"backend": "simulated"}, "the dataset has no qrels"),
    ],
)
def test_mistakes_are_named(queries: dict, candidates: dict, model: dict, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        r2llm.rerank(queries, candidates, RANKER, model)


@pytest.mark.parametrize("text", [None, float("nan"), 7, b"x", pd.NA], ids=repr)
def test_what_is_no_text_is_refused_by_name(text: object) -> None:
    rows = {"qid": ["q1", "q1"], "query": ["tides"] * 2, "docno": ["a", "b"], "text": ["one", text]}
    with pytest.raises(r2llm.R2llmError, match="query q1: document b: its text is"):
        r2llm.rerank(QUERIES, {"q1": {"a": "one", "b": text}}, RANKER, oracle())  # type: ignore[dict-item]
    with pytest.raises(r2llm.R2llmError, match="query q1: document b: its text is"):
        r2llm.rerank_frame(pd.DataFrame(rows), RANKER, oracle())
    with pytest.raises(r2llm.InputError, match="query q1: its text is"):
        r2llm.rerank({"q1": text}, {"q1": {"a": "one"}}, RANKER, oracle())  # type: ignore[dict-item]
    with pytest.raises(r2llm.InputError, match="query q1: its text is"):
        r2llm.rerank_frame(pd.DataFrame(rows | {"query": [text] * 2, "text": ["one", "two"]}), RANKER, oracle())


@pytest.mark.parametrize(
    ("ranker", "model", "complaint"),
    [
        ({"method": "setwise.heapsrt"}, {"backend": "simulated"}, "did you mean 'setwise.heapsort'"),
        (RANKER | {"num_chld": 2}, {"backend": "simulated"}, "unknown key num_chld; did you mean 'num_child'"),
        (RANKER | {"k": "ten"}, {"backend": "simulated"}, "ranker: k: should be a valid integer"),
        ({}, {"backend": "simulated"}, "ranker: method is missing"),
        (RANKER, {"backend": "simulatd"}, "did you mean 'simulated'"),
        (RANKER, {"backend": "simulated", "answer": "rel"}, "unknown key answer; did you mean 'answers'"),
    ],
)
def test_errors_are_those_of_the_command_line(ranker: dict, model: dict, complaint: str) -> None:
    with pytest.raises(r2llm.R2llmError, match=complaint):
        r2llm.rerank({"q": "x"}, {"q": {"a": "x"}}, ranker, model)


def test_what_there_is_is_listed() -> None:
    assert {"rerank", "rerank_frame", "open_model", "Reranked", "R2llmError", "InputError"} <= set(dir(r2llm))
    assert all(getattr(r2llm, name) for name in dir(r2llm))


def test_a_frame_without_text_is_refused() -> None:
    with pytest.raises(InputError, match="no column docno, text"):
        r2llm.rerank_frame(pd.DataFrame({"qid": ["1"], "query": ["x"]}), RANKER, oracle())
