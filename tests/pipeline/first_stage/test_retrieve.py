"""The first stage: given runs, carried candidates, BM25 with its cache, order and choice of queries."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.first_stage.retrieve import FirstStage, retrieve
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Doc

Write = Callable[[str, str], Path]


def stage(heard, *settings: str, name: str = "toy.yaml", queries: int | None = None) -> FirstStage:
    return retrieve(config.load(name, settings, queries), heard)


# A given run


def test_a_run_is_cut_to_depth_and_carries_text_and_scores(toy: Path, heard) -> None:
    first = stage(heard)
    assert first.documents == {"q1": ["d1", "d2", "d3", "d4"], "q2": ["d5", "d4"], "q3": ["d1", "d5"]}
    q1, *_ = first
    assert q1.query.text == "why is the sea salt"
    assert q1.docs[0] == Doc("d1", "Tides The moon pulls the sea.")
    assert q1.scores == (9.0, 8.0, 7.0, 6.0)
    assert heard.notes == []


def test_the_score_orders_a_run_and_ties_are_warned_about(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q1 Q0 d1 1 1.0 t\nq1 Q0 d2 2 3.0 t\nq2 Q0 d4 1 2.0 t\nq2 Q0 d5 2 2.0 t\n")
    assert stage(heard).documents == {"q1": ["d2", "d1"], "q2": ["d5", "d4"]}
    notes = "\n".join(heard.notes)
    assert "1 of 2 queries have tied scores (the first is q2)" in notes
    assert "the rank column disagrees with the scores in 1 of 2 queries (the first is q1)" in notes
    assert "1 of 3 queries have no candidates" in notes


def test_an_unknown_document_is_refused_even_below_the_depth(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q1 Q0 d1 1 9 t\nq1 Q0 d2 2 8 t\nq1 Q0 nowhere 3 1 t\n")
    with pytest.raises(InputError, match=r"bm25\.trec: query q1: document nowhere is not in dataset"):
        stage(heard, "first_stage.depth=1")


def test_queries_outside_the_experiment_are_ignored_and_counted(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q9 Q0 nowhere 1 9 t\nq8 Q0 d1 1 9 t\nq2 Q0 d4 1 8 t\n")
    assert stage(heard).documents == {"q2": ["d4"]}
    assert any("2 queries outside the experiment are ignored" in note for note in heard.notes)


def test_a_run_of_other_queries_is_refused(toy: Path, write: Write, heard) -> None:
    write("bm25.trec", "q9 Q0 d1 1 9 t\n")
    with pytest.raises(InputError, match="none of its 1 queries belongs to the experiment"):
        stage(heard)


def test_a_run_that_is_not_there_is_refused(toy: Path, heard) -> None:
    with pytest.raises(InputError, match=r"first_stage\.run: no file nowhere\.trec; looked for"):
        stage(heard, "first_stage.run=nowhere.trec")


def test_no_first_stage_at_all_is_refused(toy: Path, write: Write, heard) -> None:
    write("none.yaml", "dataset: {docs: docs.jsonl, queries: queries.tsv}")
    with pytest.raises(InputError, match="first_stage needs bm25 or run: where do the candidates come from"):
        stage(heard, name="none.yaml")


@pytest.fixture
def beir(write: Write) -> Callable[[str], None]:
    """Write a BEIR folder of some name: two queries have documents of their ids, and that of `b` is the query."""

    def make(name: str) -> None:
        texts = {"a": "ants build nests", "b": "bees make honey", "c": "cats sleep"}
        write(f"{name}/corpus.jsonl", "".join(json.dumps({"_id": d, "text": t}) + "\n" for d, t in texts.items()))
        write(f"{name}/queries.jsonl", '{"_id": "a", "text": "cats"}\n{"_id": "b", "text": "bees make  honey"}\n')
        write(f"{name}/qrels/test.tsv", "query-id\tcorpus-id\tscore\na\tc\t1\nb\ta\t1\n")
        write("r.trec", "".join(f"{q} Q0 {d} {n} {9 - n} t\n" for q in "ab" for n, d in enumerate("abc")))
        write("a.yaml", f"dataset: {name}\nfirst_stage: {{run: r.trec, depth: 2}}")

    return make


def test_a_document_of_a_querys_id_is_dropped_only_where_it_is_known_to_be_the_query(beir, heard) -> None:
    beir("numbered")  # as Cranfield, whose queries and documents are both numbered from 1
    first = stage(heard, name="a.yaml")
    assert first.documents == {
        "a": ["a", "b"],
        "b": ["a", "c"],
    }  # only b's text is the query's
    assert any("1 documents are excluded from the results of 1 queries" in note for note in heard.notes)
    assert any("1 candidates have their query's id and are kept" in note for note in heard.notes)
    never = stage(heard, "first_stage.exclude_same_id=false", name="a.yaml")
    assert never.documents == {"a": ["a", "b"], "b": ["a", "b"]}
    always = stage(heard, "first_stage.exclude_same_id=true", name="a.yaml")
    assert always.documents == {"a": ["b", "c"], "b": ["a", "c"]}
    assert "themselves" not in always.identity  # as every BEIR folder was until now
    assert len({json.dumps(found.identity) for found in (first, never, always)}) == 3


@pytest.mark.parametrize("name", ["arguana", "data/ArguAna", "beir-quora_dev"])
def test_queries_that_are_documents_by_the_datasets_name_are_dropped(beir, heard, name: str) -> None:
    beir(name)
    assert stage(heard, name="a.yaml").documents == {"a": ["b", "c"], "b": ["a", "c"]}


def test_a_judged_relevant_document_is_never_dropped(beir, write: Write, heard) -> None:
    beir("arguana")
    write("arguana/qrels/test.tsv", "query-id\tcorpus-id\tscore\na\ta\t1\nb\tb\t0\nb\tc\t1\n")
    expected = {"a": ["a", "b"], "b": ["a", "c"]}
    assert stage(heard, name="a.yaml").documents == expected
    assert stage(heard, "first_stage.exclude_same_id=true", name="a.yaml").documents == expected


def test_bm25_looks_deeper_where_a_query_is_among_its_hits(beir, heard, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    beir("arguana")
    bm25 = ("first_stage={bm25: {index: build}, depth: 1}",)
    assert stage(heard, *bm25, name="a.yaml").documents == {"a": ["c"]}  # for b there is nothing but itself
    assert stage(heard, *bm25, "first_stage.exclude_same_id=false", name="a.yaml").documents == {"a": ["c"], "b": ["b"]}


def test_what_lacks_candidates_is_counted_and_nothing_at_all_is_refused(beir, write: Write, heard) -> None:
    beir("arguana")
    write("r.trec", "a Q0 b 1 3 t\nb Q0 b 1 3 t\n")
    assert stage(heard, name="a.yaml").documents == {"a": ["b"]}
    assert any("1 of 2 queries have no candidates" in note for note in heard.notes)
    write("r.trec", "b Q0 b 1 3 t\n")
    with pytest.raises(InputError, match="none of the queries has candidates"):
        stage(heard, name="a.yaml")


# Order


def test_order_says_how_candidates_are_presented(toy: Path, heard) -> None:
    given = {c.query.id: c.ids for c in stage(heard)}
    inverse = stage(heard, "first_stage.order=inverse")
    assert {c.query.id: c.ids for c in inverse} == {query: ids[::-1] for query, ids in given.items()}
    assert next(iter(inverse)).scores == (6.0, 7.0, 8.0, 9.0)
    assert inverse.documents["q1"] == list(given["q1"])  # what was found stays what was found


def test_a_shuffle_is_seeded_by_seed_and_query(toy: Path, write: Write, heard) -> None:
    docs = [f"x{i}" for i in range(30)]
    write("docs.jsonl", "".join(json.dumps({"_id": d, "text": d}) + "\n" for d in docs))
    write("bm25.trec", "".join(f"{q} Q0 {d} {i} {99 - i} t\n" for q in ("q1", "q2") for i, d in enumerate(docs, 1)))

    def shuffled(*settings: str) -> dict[str, tuple[str, ...]]:
        found = stage(heard, "first_stage.order=shuffle", "first_stage.depth=30", *settings)
        return {c.query.id: c.ids for c in found}

    once = shuffled()
    assert once == shuffled()
    assert shuffled(queries_of("q2")) == {"q2": once["q2"]}  # whatever else is run
    assert sorted(once["q1"]) == sorted(docs)
    assert len({once["q1"], once["q2"], tuple(docs), shuffled("seed=1")["q1"]}) == 4


def test_the_shuffle_has_a_seed_of_its_own(toy: Path, heard) -> None:
    def shuffled(*settings: str) -> FirstStage:
        return stage(heard, "first_stage.order=shuffle", *settings)

    def order(found: FirstStage) -> list[tuple[str, ...]]:
        return [candidates.ids for candidates in found]

    default, other = shuffled("seed=1"), shuffled("seed=1", "first_stage.seed=2")
    assert order(other) == order(shuffled("seed=2")) != order(default)
    assert order(shuffled("seed=9", "first_stage.seed=2")) == order(other)
    assert other.identity == default.identity | {"seed": 2}
    assert shuffled("seed=1", "first_stage.seed=1").identity == default.identity  # as before there was such a key
    assert stage(heard, "first_stage.seed=2").identity == stage(heard).identity  # without a shuffle it changes nothing


def queries_of(*ids: str) -> str:
    return f"queries.ids=[{', '.join(ids)}]"


# Choice of queries


def test_limit_and_ids_keep_the_datasets_order(toy: Path, heard) -> None:
    assert list(stage(heard, queries=2).documents) == ["q1", "q2"]
    assert list(stage(heard, queries=99).documents) == ["q1", "q2", "q3"]
    assert list(stage(heard, queries_of("q3", "q1")).documents) == ["q1", "q3"]
    with pytest.raises(InputError, match=r"queries\.ids: q7, q9 not among the dataset's 3 queries"):
        stage(heard, queries_of("q7", "q1", "q9"))


def test_a_number_of_queries_limits_those_that_the_config_chose(toy: Path, heard) -> None:
    assert list(stage(heard, queries_of("q3", "q2"), queries=1).documents) == ["q2"]
    assert list(stage(heard, queries_of("q3", "q2"), queries=9).documents) == ["q2", "q3"]
    assert list(stage(heard, "queries.limit=2", queries=3).documents) == ["q1", "q2"]
    assert list(stage(heard, "queries.limit=2", queries=1).documents) == ["q1"]
    sampled = list(stage(heard, "queries.sample=2").documents)
    assert list(stage(heard, "queries.sample=2", queries=1).documents) == sampled[:1]


def test_a_sample_is_seeded(toy: Path, heard) -> None:
    samples = {tuple(stage(heard, f"queries={{sample: 2, seed: {seed}}}").documents) for seed in range(10)}
    assert len(samples) > 1
    assert all(len(sample) == 2 and list(sample) == sorted(sample) for sample in samples)
    assert stage(heard, "queries.sample=2").documents == stage(heard, "queries.sample=2").documents
    assert len(stage(heard, "queries.sample=99").documents) == 3


# Carried candidates


def test_candidates_with_text_need_no_other_first_stage(write: Write, heard) -> None:
    hits = [{"qid": 7, "docid": d, "content": f"text {d}", "score": s} for d, s in (("x", 2.0), ("y", 1.0))]
    write("c.json", json.dumps([{"query": "what", "hits": hits}]))
    write("a.yaml", "dataset: {candidates: c.json}")
    (candidates,) = stage(heard, name="a.yaml")
    assert (candidates.query.id, candidates.query.text, candidates.ids) == ("7", "what", ("x", "y"))
    assert candidates.docs[1] == Doc("y", "text y")
    with pytest.raises(InputError, match="a file of candidates is no corpus to build an index of"):
        stage(heard, "first_stage.bm25.index=build", name="a.yaml")


# BM25


@pytest.fixture
def quickstart(write: Write, heard) -> FirstStage:
    write("unrelated.txt", "")
    return stage(heard, name="quickstart.yaml")


def test_bm25_over_the_quickstart_collection(quickstart: FirstStage) -> None:
    assert len(quickstart.run) == 24
    for found in quickstart.run.values():
        assert len(found) <= 100
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_what_was_searched_once_is_read_without_java(quickstart: FirstStage) -> None:
    program = """
import sys
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.first_stage.retrieve import retrieve
first = retrieve(config.load("quickstart.yaml"), Listener())
assert len(first.run) == 24
print(sorted({"jnius", "pyserini", "torch"} & set(sys.modules)), first.documents["q01"][:3])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"[] {quickstart.documents['q01'][:3]}\n"


def test_the_depth_and_the_parameters_are_searched_anew(quickstart: FirstStage, heard) -> None:
    assert stage(heard, name="quickstart.yaml").run == quickstart.run
    shallow = stage(heard, "first_stage.depth=5", name="quickstart.yaml")
    assert shallow.documents == {query: docs[:5] for query, docs in quickstart.documents.items()}
    other = stage(heard, "first_stage.bm25.b=0.9", name="quickstart.yaml")
    assert other.documents != quickstart.documents
    assert other.identity != quickstart.identity


def test_texts_can_come_out_of_the_index(quickstart: FirstStage, write: Write, heard, monkeypatch) -> None:
    queries = config.SHIPPED / "quickstart" / "queries.jsonl"
    (index,) = [path for path in Path(cache()).glob("indexes/*") if path.is_dir()]
    write("a.yaml", f"dataset: {{docs: index, queries: {queries}}}\nfirst_stage: {{bm25: {{index: {index}}}}}")
    from_index = stage(heard, name="a.yaml")
    assert from_index.documents == quickstart.documents
    assert next(iter(from_index)).docs == next(iter(quickstart)).docs
    write("b.yaml", f"dataset: {{docs: index, queries: {queries}}}\nfirst_stage: {{run: r.trec}}")
    write("r.trec", "q01 Q0 p001 1 1 t\n")
    with pytest.raises(InputError, match="`docs: index` takes text out of"):
        stage(heard, name="b.yaml")
    with pytest.raises(InputError, match="an index cannot be built from the text of an index"):
        stage(heard, "first_stage.bm25.index=build", name="a.yaml")


def test_an_unknown_index_is_refused(toy: Path, heard) -> None:
    with pytest.raises(InputError, match="unknown index 'msmarco-v1-pasage'; did you mean 'msmarco-v1-passage' or"):
        stage(heard, "first_stage.bm25.index=msmarco-v1-pasage")


def test_a_cache_that_cannot_be_written_is_named(toy: Path, heard, monkeypatch) -> None:
    monkeypatch.setenv("R2LLM_CACHE", str(toy / "docs.jsonl" / "no-folder"))
    with pytest.raises(InputError, match=r"the cache folder .* cannot be used .*R2LLM_CACHE"):
        stage(heard, "first_stage.bm25.index=build")


def cache() -> str:
    from r2llm.rerankers.hashing import cache_folder

    return str(cache_folder())
