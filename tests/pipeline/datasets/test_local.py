"""Datasets in local files: BEIR folders, and queries, documents and qrels wherever they lie."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from r2llm.pipeline import datasets
from r2llm.pipeline.datasets import load, local
from r2llm.pipeline.datasets.records import Record, records
from r2llm.pipeline.io import files
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


@pytest.mark.usefixtures("beir")
def test_a_beir_folder_runs_the_queries_of_its_test_split() -> None:
    dataset = load("./reefs")
    assert dataset.name == "./reefs"
    assert list(dataset.queries().values()) == [Query("q1", "what is a reef"), Query("q2", "dry places")]
    assert dataset.qrels() == {"q2": {"d2": 2}, "q1": {"d1": 1}, "q9": {"d1": 1}}
    assert (dataset.exclusions(), dataset.queries_are_documents) == ({}, None)
    assert dataset.first_stage() is None


def test_title_and_text_are_joined_with_one_space(beir: Path) -> None:
    docs = load(str(beir)).docs()
    texts = {
        "d1": "Reefs Corals live in reefs.",
        "d2": "Deserts are dry.",
        "q2": "The query itself.",
        "d4": "Only a title",
    }
    assert dict(docs) == texts
    assert docs.texts(["d4", "d1"]) == {"d4": texts["d4"], "d1": texts["d1"]}


def test_another_split_may_be_named(beir: Path) -> None:
    dataset = load({"beir": str(beir), "split": "dev"})
    assert list(dataset.queries()) == ["q3"]
    with pytest.raises(InputError, match=r"no split 'train' \(train\.tsv\); there is: dev, test"):
        load({"beir": str(beir), "split": "train"})


def test_a_beir_folder_without_qrels_runs_all_queries(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", jsonl(*CORPUS))
    put(tmp_path / "queries.jsonl", jsonl(*QUERIES))
    dataset = load(str(tmp_path))
    assert dataset.qrels() is None
    assert list(dataset.queries()) == ["q1", "q2", "q3"]


def test_a_folder_that_is_no_beir_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"is no BEIR folder: it has no corpus\.jsonl"):
        load("./empty")
    with pytest.raises(InputError, match=r"dataset \./none: no such folder; looked for beside the config and in"):
        load("./none")
    put(tmp_path / "empty/corpus.jsonl", jsonl(*CORPUS))
    with pytest.raises(InputError, match=r"queries\.jsonl: not found, nor queries\.jsonl\.gz"):
        load("./empty")


def test_qrels_of_other_queries_are_refused(beir: Path) -> None:
    for path in (beir / "qrels").iterdir():
        put(path, "query-id\tcorpus-id\tscore\nx\td2\t1\n")
    with pytest.raises(InputError, match="none of its queries is in"):
        load(str(beir)).queries()


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
    dataset = load(spec)
    assert dataset.queries() == {"7": Query("7", "what")}
    assert dataset.qrels() == {"7": {"1": -1}}
    assert list(dataset.docs()) == [("1", "one")]
    assert dataset.exclusions() == {}


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no none\.tsv; looked for beside the config and in the current folder"):
        load({"queries": "none.tsv"})


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
    dataset = load(spec, docs_from_index=lambda: opened)
    assert dataset.docs() is opened
    assert dataset.identity()["docs"] == "index"
    with pytest.raises(InputError, match="needs a first stage with an index"):
        load(spec)


def test_a_dataset_without_documents_or_queries_says_so(tmp_path: Path) -> None:
    put(tmp_path / "queries.tsv", "q\ttext\n")
    with pytest.raises(InputError, match="no documents; give `docs`"):
        load({"queries": "queries.tsv"}).docs()
    with pytest.raises(InputError, match="`queries` is missing"):
        load({"docs": "queries.tsv"})


def test_the_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        put(tmp_path / folder / "queries.tsv", f"q\t{text}\n")
    a, b, c = (load({"queries": str(tmp_path / folder / "queries.tsv")}).identity() for folder in "abc")
    assert a == b != c
    assert json.loads(json.dumps(a)) == a


def test_a_beir_folder_is_not_its_files_for_it_excludes_documents(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", jsonl(*CORPUS))
    put(tmp_path / "queries.jsonl", jsonl(*QUERIES))
    files = load({"docs": "corpus.jsonl", "queries": "queries.jsonl"})
    assert load(str(tmp_path)).identity() == {"beir": files.identity()}


def test_missing_documents_cost_one_pass_and_texts_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []

    def counted(path: Path) -> Iterator[Record]:
        passes.append(path)
        return records(path)

    monkeypatch.setattr("r2llm.pipeline.datasets.local.records", counted)
    docs = local.FileDocs(put(tmp_path / "docs.tsv.gz", "".join(f"d{i}\ttext {i}\n" for i in range(2000))))
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
    docs = local.FileDocs(put(tmp_path / "docs.tsv", "a\tone\nb\ttwo\na\tthree\n"))
    assert docs.missing(["b"]) == []
    for _ in range(2):
        with pytest.raises(InputError, match=r"docs\.tsv:3: document a is there already, on line 1"):
            docs.missing(["a"])


def test_passages_may_hold_any_character(tmp_path: Path) -> None:
    text = 'a\u2028b\x85c\x0cd "e" \\ \u0000 [3] \U0001f600'
    docs = local.FileDocs(put(tmp_path / "docs.jsonl", jsonl({"_id": "d", "text": text})))
    assert docs.texts(["d"]) == {"d": text}
    broken = local.FileDocs(put(tmp_path / "broken.jsonl", '{"_id": "d", "text": "half \\ud83d pair"}\n'))
    assert broken.texts(["d"]) == {"d": "half \ufffd pair"}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("docs.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "b"\n', "docs.jsonl:2: not JSON"),
        ("docs.jsonl", '["a"]\n', "docs.jsonl: item 1: a JSON object is expected, not a string"),
        ("docs.jsonl", '{"text": "x"}\n', "docs.jsonl:1: no identifier: `_id` or `id` or"),
        ("docs.jsonl", '{"_id": null, "text": "x"}\n', "docs.jsonl:1: no identifier"),
        ("docs.jsonl", '{"_id": 1.5, "text": "x"}\n', "docs.jsonl:1: the identifier is a number"),
        ("docs.jsonl", '{"_id": "\\n", "text": "x"}\n', r"docs.jsonl:1: the identifier '\n' is not one word"),
        ("docs.jsonl", '{"_id": "a"}\n', "docs.jsonl:1: no text: `text` or `contents` or"),
        ("docs.jsonl", '{"_id": "a", "text": true}\n', "docs.jsonl:1: the text is a boolean, not a string"),
        (
            "docs.jsonl",
            '{"_id": "a", "text": "x", "title": {}}\n{"_id": "b", "text": "", "title": [1]}\n',
            "jsonl:2: the text is a list",
        ),
        ("docs.tsv", "docno\ttitle\ttext\nb\ty\n", "docs.tsv:2: 2 tab-separated columns, not 3 (docno, title, text)"),
        ("docs.txt", "<DOC>\n<DOCNO>1</DOCNO>\n</DOC>", "docs.txt:1: this is markup, which is read for queries only"),
        ("docs.tsv", "a x\n", "docs.tsv:1: 1 tab-separated columns, not 2"),
        ("docs.tsv", "\tx\n", "docs.tsv:1: the identifier '' is not one word"),
        ("docs.tsv", "\n\n", "docs.tsv: the file is empty"),
    ],
)
def test_a_faulty_document_is_named(tmp_path: Path, name: str, content: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        list(local.FileDocs(put(tmp_path / name, content)))
    assert what in str(caught.value)


def test_text_that_is_not_utf8_and_damaged_gzip_are_named(tmp_path: Path) -> None:
    (tmp_path / "docs.tsv").write_bytes(b"a\tx\nb\tcaf\xe9\n")
    with pytest.raises(InputError, match=r"docs\.tsv:2: not UTF-8 \(byte 6 of the line\)"):
        local.FileDocs(tmp_path / "docs.tsv").missing(["a"])
    (tmp_path / "docs.tsv.gz").write_bytes(b"a\tx\n")
    with pytest.raises(InputError, match=r"docs\.tsv\.gz: cannot be read: Not a gzipped file"):
        local.FileDocs(tmp_path / "docs.tsv.gz").missing(["a"])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("q1\ta\nq1\tb\n", "queries.tsv:2: query q1 is there already, on line 1"),
        ("q1\ta\nq 2\tb\n", "queries.tsv:2: the identifier 'q 2' is not one word"),
        ("q1 a\n", "queries.tsv:1: 1 tab-separated columns"),
        ("q1\t\n", "queries.tsv: no query with a text"),
    ],
)
def test_a_faulty_query_is_named(tmp_path: Path, content: str, what: str) -> None:
    put(tmp_path / "queries.tsv", content)
    dataset = load({"queries": "queries.tsv"})
    with pytest.raises(InputError) as caught:
        dataset.notes(dataset.queries())
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("q 0 d 1\nq 0 e high\n", "qrels:2: the grade 'high' is not an integer"),
        ("q 0 d 1.5\n", "qrels:1: the grade '1.5' is not an integer; ir-measures takes no others"),
        ("q d 1.5\n", "qrels:1: the grade '1.5' is not an integer"),
        ("q 0 d 1_0\n", "qrels:1: the grade '1_0' is not an integer"),
        (f"q 0 d 1\nq 0 e {10**19}\n", "qrels:2: the grade 10000000000000000000 is too large"),
        (f"q 0 d {'1' * 400}\n", "qrels:1: the grade 11111111111111111111 is too large"),
        ("q 0 d high\n", "qrels:1: the grade 'high' is not an integer"),
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


@pytest.mark.parametrize(
    "content",
    [
        "q 0 d 1.0\nq 0 e -1\nr 0 d 0.0\n",
        "# pool depth 10\nq 0 d 1\n# note\nq 0 e -1\n\nr\t0\td\t0\n",
        "query-id\tcorpus-id\tscore\r\nq\td\t1.0\r\nq\te\t-1\r\nr\td\t0\r\n",
        "\ufeffqid docno label iteration\nq d 1 0\nq e -1 0\nr d 0 0\n",
        "q\td\t1.000000000000000000e+00\nq\te\t-1.\nr\td\t0e0\n",
        "q 0\td 1\n  # note\nq\t0 e\t-1\nr 0 d 0\n",
    ],
)
def test_the_same_judgements_in_their_spellings(tmp_path: Path, content: str) -> None:
    assert datasets.read_qrels(put(tmp_path / "qrels", content)) == {"q": {"d": 1, "e": -1}, "r": {"d": 0}}


def test_white_space_is_that_of_ascii(tmp_path: Path) -> None:
    qrels = datasets.read_qrels(
        put(tmp_path / "qrels", "q\u00a0a 0 d\x85 1\nr\tcorpus id\t2\n".replace("r\t", "r\t0\t"))
    )
    assert qrels == {"q\u00a0a": {"d\x85": 1}, "r": {"corpus id": 2}}


@pytest.mark.parametrize(
    "record",
    [
        {"docid": "d", "title": "T", "text": "bees"},
        {"doc_id": "d", "title": "T", "passage": "bees"},
        {"docno": "d", "text": None, "title": "T", "body": "bees"},
        {"segment_id": "d", "title": "T", "segment": "bees"},
        {"pid": "d", "docid": "long", "title": "T", "passage": "bees"},
        {"id": "d", "contents": " T bees", "title": None},
        {"_id": "d", "title": "T bees"},
        {"_id": "d", "title": "T bees", "text": None},
    ],
)
def test_fields_go_by_many_names(tmp_path: Path, record: dict[str, object]) -> None:
    for name, content in (("d.jsonl", jsonl(record)), ("d.json", json.dumps([record], indent=1))):
        assert local.FileDocs(put(tmp_path / name, content)).texts(["d"]) == {"d": "T bees"}


def test_numbers_become_strings_and_nulls_are_nothing(tmp_path: Path) -> None:
    records = [{"_id": 1, "title": 1984, "text": "a novel"}, {"_id": 10**400, "text": None}, {"_id": "n", "text": 3}]
    docs = local.FileDocs(put(tmp_path / "d.jsonl", jsonl(*records) + '{"_id": "nan", "text": NaN, "contents": "x"}'))
    texts = {"1": "1984 a novel", str(10**400): "", "n": "3", "nan": "x"}
    assert dict(docs) == docs.texts(list(texts)) == texts


def test_only_documents_that_are_needed_must_be_right(tmp_path: Path) -> None:
    wrong = [{"_id": "a b", "text": "x"}, {"_id": "no text"}, {"_id": "list", "text": []}]
    docs = local.FileDocs(put(tmp_path / "d.jsonl", jsonl(*wrong, *[{"_id": "d", "text": "good"}] * 2)))
    assert docs.texts(["d"]) == {"d": "good"}
    with pytest.raises(InputError, match=r"d\.jsonl:3: the text is a list"):
        docs.texts(["list"])


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_folders_and_compressed_files_are_read(tmp_path: Path, suffix: str) -> None:
    modules = {"": None, ".gz": "gzip", ".bz2": "bz2", ".xz": "lzma", ".zst": "backports.zstd"}
    module = modules[suffix] and pytest.importorskip(modules[suffix] or "")
    for number in (1, 2):
        data = jsonl({"_id": number, "text": f"text {number}"}).encode()
        path = put(tmp_path / f"docs/{number}/part.jsonl{suffix}", "")
        path.write_bytes(module.compress(data) if module else data)
    put(tmp_path / "docs/README", "what this is")
    put(tmp_path / "docs/.part.jsonl", "a backup")
    put(tmp_path / "queries.tsv", "q\ttext\n")
    dataset = load({"docs": "docs", "queries": "queries.tsv"})
    assert list(dataset.docs()) == [("1", "text 1"), ("2", "text 2")]
    assert dataset.docs().texts(["2"]) == {"2": "text 2"}
    before = dataset.identity()
    put(tmp_path / "docs/README", "something else")
    assert dataset.identity() == before
    path.write_bytes(path.read_bytes() * 2)
    assert load({"docs": "docs", "queries": "queries.tsv"}).identity() != before
    if module:
        unnamed = tmp_path / "unnamed"
        unnamed.write_bytes(module.compress(b"q\ttext\n"))
        assert list(load({"queries": "unnamed"}).queries()) == ["q"]


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"PAR1", "Parquet"),
        (b"PK\3\4", "a ZIP archive"),
        (b"SQLite format 3\0", "an SQLite database"),
        ("q\ttext".encode("utf-16"), "UTF-16"),
        (bytes(257) + b"ustar", "a tar archive"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, start: bytes, kind: str) -> None:
    (tmp_path / "queries").write_bytes(start)
    with pytest.raises(InputError, match=f"queries: this is {kind}: unpack or convert it to JSON lines"):
        load({"queries": "queries"}).queries()


def test_a_line_and_what_is_decompressed_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    put(tmp_path / "long.tsv", f"q 0 d 1\nr 0 {'x' * 100} 1\n")
    with pytest.raises(InputError, match=r"long\.tsv:2: a line of more than"):
        datasets.read_qrels(tmp_path / "long.tsv")
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=1) as bomb:
        for _ in range(300):
            bomb.write(f"#{'x' * ((1 << 20) - 2)}\n".encode())
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"bomb\.gz: cannot be read: decompressed it is more than 200 times its size"):
        datasets.read_qrels(tmp_path / "bomb.gz")


ROBUST = """<top>

<num> Number: 301
<title> International
Organized Crime

<desc> Description:
Identify organizations.

<narr> Narrative:
A relevant document must name one.

</top>

<top>
<num> Number: 302
<title> Poliomyelitis &amp; R&D

<desc> Description:
Is it under control?
</top>
"""
COVID = """<?xml version="1.0"?>
<!-- round 1 -->
<topics task="x">
  <topic number="301" type="single">
    <query>International Organized Crime</query>
    <question><p>Identify
<b>organizations</b>.</p></question>
    <subtopic number="1"><query>no</query></subtopic>
  </topic>
  <topic number="302"><query><![CDATA[Poliomyelitis & R&D]]></query><description>Is it under control?</description>
  </topic>
</topics>
"""


@pytest.mark.parametrize(
    "content",
    [
        ROBUST,
        ROBUST.replace("</top>", "").replace("\n", "\r\n"),
        ROBUST.replace("\n<desc>", "</title>\n<desc>").replace("<top>", "<TOP lang='en'>"),
        "\ufeff" + COVID,
    ],
)
def test_topics_of_trec(tmp_path: Path, content: str) -> None:
    put(tmp_path / "topics", content)
    titles = {"301": "International Organized Crime", "302": "Poliomyelitis & R&D"}
    descriptions = {"301": "Identify organizations.", "302": "Is it under control?"}
    for field, texts in ((None, titles), ("title", titles), ("description", descriptions), ("desc", descriptions)):
        if field == "desc" and "<topic " in content:
            continue
        dataset = load({"queries": "topics", **({"field": field} if field else {})})
        assert {query.id: query.text for query in dataset.queries().values()} == texts
        assert ("field" in dataset.identity()) == bool(field)


def test_topics_in_the_form_of_documents(tmp_path: Path) -> None:
    put(
        tmp_path / "topics",
        "<DOC>\n<DOCNO> 1 </DOCNO>\n\n What\narticles?\n</DOC>\n<DOC>\n<DOCNO>2</DOCNO>\nx < y\n</DOC>\n",
    )
    queries = load({"queries": "topics"}).queries()
    assert list(queries.values()) == [Query("1", "What articles?"), Query("2", "x < y")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (ROBUST, "topics:1: no text: `summary` is expected, and there is num, title, desc, narr, _id, text"),
        ("<html>\n<p>x</p></html>", "topics:1: markup without a topic"),
        ("<topics>\n<topic>\n<title>x</title></topic></topics>", "topics:2: no identifier"),
    ],
)
def test_topics_that_do_not_serve_are_named(tmp_path: Path, content: str, what: str) -> None:
    put(tmp_path / "topics", content)
    with pytest.raises(InputError) as caught:
        load({"queries": "topics", "field": "summary"}).queries()
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "# topics\n1\thow do\ttides work\r\n\n2\tbees\n",
        "qid\tquery\n1\thow do\ttides work\n2\tbees\n",
        "text\tid\nhow do tides work\t1\nbees\t2\n",
    ],
)
def test_queries_in_columns(tmp_path: Path, content: str) -> None:
    queries = load({"queries": str(put(tmp_path / "q.tsv", content))}).queries()
    assert {id_: " ".join(query.text.split()) for id_, query in queries.items()} == {
        "1": "how do tides work",
        "2": "bees",
    }


def test_what_is_left_out_of_a_beir_folder_is_counted(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", jsonl(*CORPUS))
    others = [{"_id": "t1", "text": ""}, {"docno": "t2"}, *[{"_id": "t3", "text": text} for text in "aab"]]
    put(tmp_path / "queries.jsonl", jsonl(*QUERIES, *others))
    put(tmp_path / "qrels/test.tsv", QRELS)
    dataset = load(str(tmp_path))
    assert list(dataset.queries()) == ["q1", "q2"]
    assert dataset.notes(dataset.queries()) == [
        f"{tmp_path / 'queries.jsonl'}: left out 2 of 6 queries: no text (the first is t1)",
        f"{tmp_path / 'queries.jsonl'}: left out 1 of 7 entries: the same query again (the first is t3)",
        f"{tmp_path / 'queries.jsonl'}: left out 1 of 6 queries: faulty, and not asked for (the first is t3)",
        f"{tmp_path / 'queries.jsonl'}: left out 1 of 3 judged queries: not in it (the first is q9)",
    ]
    with pytest.raises(InputError, match=r"queries\.jsonl:8: query t3 is there already, on line 6, with another text"):
        dataset.notes(["q1", "t3"])


def test_half_of_a_surrogate_pair_is_no_identifier(tmp_path: Path) -> None:
    put(tmp_path / "q.jsonl", jsonl({"_id": "\ud800", "text": "x"}))
    with pytest.raises(
        InputError,
        match=r"q\.jsonl:1: the identifier .* is not one word, without white space or half of a surrogate pair",
    ):
        load({"queries": "q.jsonl"}).notes(["\ud800"])


def test_a_folder_without_documents_is_named(tmp_path: Path) -> None:
    put(tmp_path / "empty/part.parquet", "PAR1")
    put(tmp_path / "beir/corpus.jsonl", jsonl(*CORPUS))
    put(tmp_path / "queries.tsv", "q\ttext\n")
    for folder, what in (("empty", "empty: a folder without JSON lines"), ("beir", "beir: a BEIR folder; give it as")):
        with pytest.raises(InputError, match=what):
            load({"docs": folder, "queries": "queries.tsv"}).docs().missing(["d"])
