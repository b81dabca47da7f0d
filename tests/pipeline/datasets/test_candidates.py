"""Candidates with their text, in the three forms they are exchanged in."""

import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from r2llm.pipeline.datasets import load
from r2llm.pipeline.run import runfile
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Query

SHARED = Path(os.environ["R2LLM_SHARED"]) / "data"

HITS = [
    {
        "query": "what is a reef",
        "hits": [
            {"qid": 7, "docid": "d2", "content": "Deserts.", "rank": 1, "score": 2.5},
            {"qid": 7, "docid": "d1", "content": "Corals.", "rank": 2, "score": 2},
        ],
    },
    {"query": "dry", "hits": [{"qid": 3, "docid": "d2", "content": "Deserts.", "rank": 1, "score": 9.0}]},
]
REQUESTS = [
    {
        "query": {"text": "what is a reef", "qid": "7"},
        "candidates": [
            {"docid": "d2", "score": 2.5, "doc": {"contents": "Deserts."}},
            {"docid": "d1", "score": 2.0, "doc": {"title": "", "segment": "Corals."}},
        ],
    },
    {
        "query": {"text": "dry", "qid": "3"},
        "candidates": [{"docid": "d2", "score": 9.0, "doc": {"text": "Deserts."}}],
    },
]
LINES = [
    {
        "qid": "7",
        "query": "what is a reef",
        "docs": [
            {"docid": "d2", "text": "Deserts.", "score": 2.5},
            {"docid": "d1", "text": "Corals.", "score": 2.0},
        ],
    },
    {"qid": "3", "query": "dry", "docs": [{"docid": "d2", "text": "Deserts.", "score": 9.0}]},
]


def put(path: Path, items: Sequence[Mapping[str, object]]) -> str:
    name = path.name.removesuffix(".gz")
    text = json.dumps(items) if name.endswith(".json") else "".join(f"{json.dumps(item)}\n" for item in items)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path.name


@pytest.mark.parametrize("form", [HITS, REQUESTS, LINES], ids=["hits", "requests", "lines"])
@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c.json.gz", "c.jsonl.gz"])
def test_all_forms_say_the_same(tmp_path: Path, form: Sequence[Mapping[str, object]], name: str) -> None:
    dataset = load({"candidates": put(tmp_path / name, form)})
    assert list(dataset.queries().values()) == [Query("7", "what is a reef"), Query("3", "dry")]
    assert dataset.first_stage() == {"7": [("d2", 2.5), ("d1", 2.0)], "3": [("d2", 9.0)]}
    assert dataset.docs().missing(["d1", "x", "d2", "x"]) == ["x"]
    assert dataset.docs().texts(["d1", "d2"]) == {"d1": "Corals.", "d2": "Deserts."}
    assert list(dataset.docs()) == [("d2", "Deserts."), ("d1", "Corals.")]
    assert dataset.qrels() is None
    with pytest.raises(InputError, match="1 of 2 documents missing, first x"):
        dataset.docs().texts(["d1", "x"])


def test_qrels_may_stand_beside(tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text("7 0 d1 1\n")
    dataset = load({"candidates": put(tmp_path / "c.json", HITS), "qrels": "qrels"})
    assert dataset.qrels() == {"7": {"d1": 1}}
    assert set(dataset.identity()) == {"candidates", "qrels"}


def test_title_and_text_are_joined_and_plain_strings_taken(tmp_path: Path) -> None:
    candidates = [{"docid": 1, "doc": {"title": "A", "passage": "b"}}, {"docid": 2, "doc": "c"}]
    name = put(tmp_path / "c.jsonl", [{"query": {"text": "q", "qid": 1}, "candidates": candidates}])
    dataset = load({"candidates": name})
    assert dict(dataset.docs()) == {"1": "A b", "2": "c"}
    assert dataset.first_stage() == {"1": [("1", 2.0), ("2", 1.0)]}


def test_the_order_of_the_list_is_kept(tmp_path: Path) -> None:
    docs = [{"docid": "a", "text": "", "score": 1}, {"docid": "b", "text": "", "score": 2}]
    name = put(tmp_path / "c.jsonl", [{"qid": "q", "query": "x", "docs": docs}])
    assert load({"candidates": name}).first_stage() == {"q": [("a", 1.0), ("b", 2.0)]}


def hits(*docs: object) -> list[dict[str, object]]:
    return [{"qid": "q", "query": "x", "docs": list(docs)}]


@pytest.mark.parametrize(
    ("items", "what"),
    [
        ([*LINES, LINES[0]], ":3: query 7 is there already"),
        ([{"qid": "q", "query": "x"}], ":1: no list of candidates"),
        (
            [{"query": "x", "hits": [{"qid": q, "docid": q, "content": ""} for q in "ba"]}],
            ":1: one query identifier is expected in the hits' `qid`, not a, b",
        ),
        ([{"qid": "q", "docs": []}], ":1: no text: `text` or `query` is expected"),
        (hits("d"), ":1: a candidate is a string, not an object"),
        (hits({"text": "a"}), ":1: no identifier: `_id` or"),
        (hits({"docid": "d"}), ":1: no text: `text` or"),
        (hits({"docid": "d", "doc": 3}), ":1: candidate d: `doc` is a number"),
        (hits({"docid": "d", "text": "a"}, {"docid": "d", "text": "a"}), ":1: query q has candidate d twice"),
        (hits({"docid": "d", "text": "a", "score": "1_0"}), ":1: candidate d: the score '1_0' is not a finite number"),
        (hits({"docid": "d", "text": "a", "score": 10**400}), ":1: candidate d: the score 1000"),
        (hits({"docid": "d\n", "text": "a"}), ":1: the identifier 'd\\n' is not one word"),
        (hits({"docid": "d", "text": "a", "score": float("nan")}), ":1: candidate d: the score nan is not"),
        (
            hits({"docid": "d", "text": "a", "score": 1}, {"docid": "e", "text": "a"}),
            "candidate e has no score",
        ),
        (
            [*LINES, *hits({"docid": "d1", "text": "other"})],
            ":3: candidate d1 has another text with an earlier",
        ),
    ],
)
def test_a_faulty_item_is_named(tmp_path: Path, items: Sequence[Mapping[str, object]], what: str) -> None:
    with pytest.raises(InputError) as caught:
        load({"candidates": put(tmp_path / "c.jsonl", items)}).queries()
    assert what in str(caught.value)
    listed = load({"candidates": put(tmp_path / "c.json", items)})
    with pytest.raises(InputError, match=rf"c\.json: item {len(items)}: "):
        listed.queries()


@pytest.mark.parametrize(
    ("content", "what"),
    [("{", "not JSON"), ("{}\n{}\n", ":1: no list of candidates"), ("[]", "a list"), ("[{}", ":1: not JSON")],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InputError, match=what):
        load({"candidates": "c.json"}).queries()


@pytest.mark.shared
def test_real_candidates_are_their_run_file() -> None:
    dataset = load({"candidates": f"{SHARED}/dl19/candidates.json", "qrels": f"{SHARED}/dl19/qrels.dl19-passage.txt"})
    run, _ = runfile.read(SHARED / "dl19" / "bm25.trec")
    assert dataset.first_stage() == run
    assert dataset.docs().missing(document for ranking in run.values() for document, _ in ranking) == []
    assert set(dataset.queries()) == set(dataset.qrels() or {})


def test_what_has_no_candidates_or_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    nothing = {"query": "the of", "hits": []}
    blank = {"qid": "9", "query": " ", "docs": [{"docid": "d1", "text": "Corals.", "score": "1.5"}]}
    (tmp_path / "qrels").write_text("7 0 d1 1\n8 0 d1 1\n")
    spec = {"candidates": put(tmp_path / "c.json", [nothing, *HITS, blank]), "qrels": "qrels"}
    dataset = load(spec)
    assert list(dataset.queries()) == ["7", "3"]
    assert (dataset.first_stage() or {})["9"] == [("d1", 1.5)]
    assert dataset.notes(dataset.queries()) == [
        "c.json: left out 1 of 4 queries: no text (the first is 9)",
        "c.json: left out 1 of 4 queries: neither candidates nor an identifier (the first is item 1)",
        "c.json: left out 1 of 2 judged queries: not in it (the first is 8)",
    ]
