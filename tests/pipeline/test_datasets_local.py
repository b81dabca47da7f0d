"""Datasets in local files: BEIR folders, and queries, documents and qrels wherever they lie."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from r2llm.pipeline import datasets
from r2llm.pipeline.datasets import corpus, load
from r2llm.pipeline.datasets.records import read_docs
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Query

CORPUS = [
    {"_id": "d1", "title": "Reefs", "text": "Corals live in reefs."},
    {"_id": "d2", "title": "", "text": "Deserts are dry."},
    {"_id": "q2", "text": " The query itself.\n"},
    {"_id": "d4", "title": "Only a title", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "what is a reef"},
    {"_id": "q2", "text": "dry places"},
    {"_id": "q3", "text": "other"},
]
QRELS = "query-id\tcorpus-id\tscore\nq2\td2\t2\nq1\td1\t1\nq9\td1\t1\n"


def put(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(*records: object) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


@pytest.fixture(params=["", ".gz"])
def beir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    put(tmp_path / f"reefs/corpus.jsonl{request.param}", jsonl(*CORPUS))
    put(tmp_path / f"reefs/queries.jsonl{request.param}", jsonl(*QUERIES))
    put(tmp_path / f"reefs/qrels/test.tsv{request.param}", QRELS)
    put(tmp_path / f"reefs/qrels/dev.tsv{request.param}", "query-id\tcorpus-id\tscore\nq3\td2\t1\n")
    return tmp_path / "reefs"


def test_a_beir_folder_runs_the_queries_of_its_test_split(beir: Path) -> None:
    dataset = load("reefs", base=beir.parent)
    assert dataset.name == "reefs"
    assert list(dataset.queries().values()) == [Query("q1", "what is a reef"), Query("q2", "dry places")]
    assert dataset.qrels() == {"q2": {"d2": 2}, "q1": {"d1": 1}, "q9": {"d1": 1}}
    assert dataset.exclusions() == {"q1": {"q1"}, "q2": {"q2"}}
    assert dataset.first_stage() is None


def test_title_and_text_are_joined_with_one_space(beir: Path) -> None:
    docs = load(str(beir), base=Path()).docs()
    texts = {
        "d1": "Reefs Corals live in reefs.",
        "d2": "Deserts are dry.",
        "q2": "The query itself.",
        "d4": "Only a title",
    }
    assert dict(docs) == texts
    assert docs.texts(["d4", "d1"]) == {"d4": texts["d4"], "d1": texts["d1"]}


def test_another_split_may_be_named(beir: Path) -> None:
    dataset = load({"beir": "reefs", "split": "dev"}, base=beir.parent)
    assert list(dataset.queries()) == ["q3"]
    with pytest.raises(InputError, match=r"no split 'train' \(train\.tsv\); there is: dev, test"):
        load({"beir": "reefs", "split": "train"}, base=beir.parent)


def test_a_beir_folder_without_qrels_runs_all_queries(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", jsonl(*CORPUS))
    put(tmp_path / "queries.jsonl", jsonl(*QUERIES))
    dataset = load(str(tmp_path), base=Path())
    assert dataset.qrels() is None
    assert list(dataset.queries()) == ["q1", "q2", "q3"]


def test_a_folder_that_is_no_beir_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match=r"is no BEIR folder: it has no corpus\.jsonl"):
        load("./empty", base=tmp_path)
    with pytest.raises(InputError) as caught:
        load("./none", base=tmp_path)
    assert f"looked for {tmp_path}/none and {tmp_path}/here/none" in str(caught.value)
    put(tmp_path / "empty/corpus.jsonl", jsonl(*CORPUS))
    with pytest.raises(InputError, match=r"queries\.jsonl: not found, nor queries\.jsonl\.gz"):
        load("./empty", base=tmp_path)


def test_qrels_of_other_queries_are_refused(beir: Path) -> None:
    for path in (beir / "qrels").iterdir():
        put(path, "query-id\tcorpus-id\tscore\nx\td2\t1\n")
    with pytest.raises(InputError, match="none of its queries is in"):
        load(str(beir), base=Path()).queries()


@pytest.mark.parametrize(
    ("docs", "queries", "qrels"),
    [
        (
            ("docs.jsonl", jsonl({"id": 1, "contents": "one"})),
            ("q.tsv", "7\twhat\n"),
            ("qrels.txt", "7 0 1 -1\n"),
        ),
        (
            ("docs.tsv.gz", "1\tone\n"),
            ("q.jsonl", jsonl({"qid": 7, "query": "what"})),
            ("qrels.tsv", "a\tb\tc\n7\t1\t-1\n"),
        ),
        (
            ("docs.txt", "\ufeff1\tone\r\n\n"),
            ("q.jsonl.gz", jsonl({"query_id": "7", "title": "what"})),
            ("r.gz", "7 Q0 1 -1"),
        ),
        (
            ("d.json", jsonl({"_id": "1", "text": "one"})),
            ("q.json", jsonl({"id": "7", "text": "what"})),
            ("r", "7\t0\t1\t-1"),
        ),
    ],
)
def test_the_file_formats(
    tmp_path: Path, docs: tuple[str, str], queries: tuple[str, str], qrels: tuple[str, str]
) -> None:
    spec = {"docs": docs[0], "queries": queries[0], "qrels": qrels[0]}
    for name, content in (docs, queries, qrels):
        put(tmp_path / name, content)
    dataset = load(spec, base=tmp_path)
    assert dataset.queries() == {"7": Query("7", "what")}
    assert dataset.qrels() == {"7": {"1": -1}}
    assert list(dataset.docs()) == [("1", "one")]
    assert dataset.exclusions() == {}


def test_paths_are_looked_up_beside_the_config_then_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "config/queries.tsv", "q\tbeside\n")
    put(tmp_path / "here/queries.tsv", "q\there\n")
    put(tmp_path / "here/docs.tsv", "d\ttext\n")
    monkeypatch.chdir(tmp_path / "here")
    dataset = load({"docs": "docs.tsv", "queries": "queries.tsv"}, base=tmp_path / "config")
    assert dataset.queries()["q"].text == "beside"
    assert dataset.qrels() is None
    assert dataset.docs().missing(["d"]) == []
    with pytest.raises(InputError) as caught:
        load({"queries": "none.tsv"}, base=tmp_path / "config")
    assert f"no none.tsv; looked for {tmp_path}/config/none.tsv and {tmp_path}/here/none.tsv" in str(caught.value)


def test_documents_may_come_from_the_index(tmp_path: Path) -> None:
    class FromIndex:
        def missing(self, ids: object) -> list[str]:
            return []

        def texts(self, ids: object) -> dict[str, str]:
            return {}

        def __iter__(self) -> Iterator[tuple[str, str]]:
            return iter(())

    put(tmp_path / "queries.tsv", "q\ttext\n")
    spec = {"docs": "index", "queries": "queries.tsv"}
    opened = FromIndex()
    dataset = load(spec, base=tmp_path, docs_from_index=lambda: opened)
    assert dataset.docs() is opened
    assert dataset.identity()["docs"] == "index"
    with pytest.raises(InputError, match="needs a first stage with an index"):
        load(spec, base=tmp_path)


def test_a_dataset_without_documents_or_queries_says_so(tmp_path: Path) -> None:
    put(tmp_path / "queries.tsv", "q\ttext\n")
    with pytest.raises(InputError, match="no documents; give `docs`"):
        load({"queries": "queries.tsv"}, base=tmp_path).docs()
    with pytest.raises(InputError, match="`queries` is missing"):
        load({"docs": "queries.tsv"}, base=tmp_path)


def test_the_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        put(tmp_path / folder / "queries.tsv", f"q\t{text}\n")
    a, b, c = (load({"queries": "queries.tsv"}, base=tmp_path / folder).identity() for folder in "abc")
    assert a == b != c
    assert json.loads(json.dumps(a)) == a


def test_a_beir_folder_is_not_its_files_for_it_excludes_documents(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", jsonl(*CORPUS))
    put(tmp_path / "queries.jsonl", jsonl(*QUERIES))
    files = load({"docs": "corpus.jsonl", "queries": "queries.jsonl"}, base=tmp_path)
    assert load(str(tmp_path), base=Path()).identity() == {"beir": files.identity()}


def test_missing_documents_cost_one_pass_and_texts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(path: Path) -> Iterator[tuple[int, str, str]]:
        passes.append(path)
        return read_docs(path)

    monkeypatch.setattr("r2llm.pipeline.datasets.corpus.read_docs", counted)
    docs = corpus.FileDocs(put(tmp_path / "docs.tsv.gz", "".join(f"d{i}\ttext {i}\n" for i in range(2000))))
    wanted = [f"d{i}" for i in range(0, 2000, 2)]
    assert docs.missing(iter(["x", *wanted, "a", "x"])) == ["x", "a"]
    for start in range(0, 1000, 10):
        batch = wanted[start : start + 10]
        assert docs.texts(batch) == {id_: f"text {id_[1:]}" for id_ in batch}
    assert docs.missing([*wanted, "a"]) == ["a"]
    assert len(passes) == 1
    assert docs.texts(["d1"]) == {"d1": "text 1"}
    assert len(passes) == 2
    with pytest.raises(InputError, match=r"docs\.tsv\.gz: 1 of 2 documents missing, first y"):
        docs.texts(["d1", "y"])


def test_a_document_that_is_there_twice_is_named_when_it_matters(tmp_path: Path) -> None:
    docs = corpus.FileDocs(put(tmp_path / "docs.tsv", "a\tone\nb\ttwo\na\tthree\n"))
    assert docs.missing(["b"]) == []
    for _ in range(2):
        with pytest.raises(InputError, match=r"docs\.tsv:3: document a is there already, on line 1"):
            docs.missing(["a"])
    with pytest.raises(InputError, match=r"docs\.tsv:3: document a is there already, on line 1"):
        list(docs)


def test_passages_may_hold_any_character(tmp_path: Path) -> None:
    text = 'a\u2028b\x85c\x0cd "e" \\ \u0000 [3] \U0001f600'
    docs = corpus.FileDocs(put(tmp_path / "docs.jsonl", jsonl({"_id": "d", "text": text})))
    assert docs.texts(["d"]) == {"d": text}
    broken = corpus.FileDocs(put(tmp_path / "broken.jsonl", '{"_id": "d", "text": "half \\ud83d pair"}\n'))
    assert broken.texts(["d"]) == {"d": "half \ufffd pair"}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("docs.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "b"\n', "docs.jsonl:2: not JSON"),
        ("docs.jsonl", '["a"]\n', "docs.jsonl:1: a JSON object is expected, not a list"),
        ("docs.jsonl", '{"text": "x"}\n', "docs.jsonl:1: no identifier: `_id` or `id` is expected"),
        ("docs.jsonl", '{"_id": null, "text": "x"}\n', "docs.jsonl:1: no identifier"),
        ("docs.jsonl", '{"_id": 1.5, "text": "x"}\n', "docs.jsonl:1: the identifier is a number"),
        ("docs.jsonl", '{"_id": "a b", "text": "x"}\n', "docs.jsonl:1: the identifier 'a b' is not one word"),
        ("docs.jsonl", '{"_id": "a"}\n', "docs.jsonl:1: no text: `text` or `contents` is expected"),
        ("docs.jsonl", '{"_id": "a", "text": 3}\n', "docs.jsonl:1: the text is a number, not a string"),
        (
            "docs.jsonl",
            '{"_id": "a", "text": "x", "title": {}}\n{"_id": "b", "text": "", "title": [1]}\n',
            "jsonl:2: the text is a list",
        ),
        ("docs.tsv", "a\tx\nb\ty\tz\n", "docs.tsv:2: 3 tab-separated columns, not 2"),
        ("docs.tsv", "a x\n", "docs.tsv:1: 1 tab-separated columns, not 2"),
        ("docs.tsv", "\tx\n", "docs.tsv:1: the identifier '' is not one word"),
        ("docs.tsv", "\n\n", "docs.tsv: the file is empty"),
    ],
)
def test_a_faulty_document_is_named(tmp_path: Path, name: str, content: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        list(corpus.FileDocs(put(tmp_path / name, content)))
    assert what in str(caught.value)


def test_text_that_is_not_utf8_and_damaged_gzip_are_named(tmp_path: Path) -> None:
    (tmp_path / "docs.tsv").write_bytes(b"a\tx\nb\tcaf\xe9\n")
    with pytest.raises(InputError, match=r"docs\.tsv:2: not UTF-8 \(byte 6 of the line\)"):
        corpus.FileDocs(tmp_path / "docs.tsv").missing(["a"])
    (tmp_path / "docs.tsv.gz").write_bytes(b"a\tx\n")
    with pytest.raises(InputError, match=r"docs\.tsv\.gz: cannot be read: Not a gzipped file"):
        corpus.FileDocs(tmp_path / "docs.tsv.gz").missing(["a"])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("q1\ta\nq1\tb\n", "queries.tsv:2: query q1 is there already, on line 1"),
        ("q1\ta\nq2\t \n", "queries.tsv:2: query q2 has no text"),
        ("q1\ta\tb\n", "queries.tsv:1: 3 tab-separated columns"),
    ],
)
def test_a_faulty_query_is_named(tmp_path: Path, content: str, what: str) -> None:
    put(tmp_path / "queries.tsv", content)
    with pytest.raises(InputError) as caught:
        load({"queries": "queries.tsv"}, base=tmp_path).queries()
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("q 0 d 1\nq 0 e high\n", "qrels:2: the grade 'high' is not an integer"),
        ("q 0 d 1.0\n", "qrels:1: the grade '1.0' is not an integer"),
        ("q 0 d 1\nq d 1\n", "qrels:2: 3 columns, not 4 as above"),
        ("query-id\tcorpus-id\tscore\nq\t0\td\t1\n", "qrels:2: 4 columns, not 3 as above"),
        ("q d\n", "qrels:1: 2 columns, not 4 (TREC) or 3 (BEIR)"),
        ("q 0 d 1\nq 0 d 2\n", "qrels:2: query q judges document d 2, and 1 before"),
        ("query-id\tcorpus-id\tscore\n", "qrels:1: the qrels hold a header and no judgement"),
        ("", "qrels: the file is empty"),
    ],
)
def test_a_faulty_judgement_is_named(tmp_path: Path, content: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        datasets.read_qrels(put(tmp_path / "qrels", content))
    assert what in str(caught.value)


def test_the_same_judgement_twice_is_one(tmp_path: Path) -> None:
    assert datasets.read_qrels(put(tmp_path / "qrels", "q 0 d 1\nq 0 d 1\n")) == {"q": {"d": 1}}
