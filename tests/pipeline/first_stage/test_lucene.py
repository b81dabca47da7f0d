"""Lucene: a built index holds what was given, searches as Anserini does, and needs no Java of the user's."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from r2llm.pipeline.first_stage import java, lucene
from r2llm.pipeline.first_stage.lucene import Index, build_index, find_index
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.types import Query

CACM = Path(os.environ["R2LLM_SHARED"], "data", "cacm")

DOCS = [
    ("tides", "The moon pulls the sea: tides rise and fall twice a day."),
    ("salt", "Sea water is salt because rivers carry minerals to it."),
    ("bread", "Bread needs flour, water, salt and time."),
    ("twin-b", "A lighthouse warns ships."),
    ("twin-a", "A lighthouse warns ships."),
    ("white space", "An id may hold a space."),
    ("日本/😀?#%", 'Quotes " and \\ and <b>tags</b> and a lone surrogate \ud83d survive in ids and texts.'),
    ("-flag", "A zeppelin\x00 in the sky."),
    ("nothing", ""),
    ("blank", " \n\t"),
]
EMPTY = ["nothing", "blank"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes") / "small index"
    with pytest.MonkeyPatch.context() as patch:
        for name in java.USER_JAVA_VARIABLES:  # each would stop Java, if the indexer saw it
            patch.setenv(name, "-no-such-option")
        patch.setattr(lucene, "SHARD_DOCS", 5)
        build_index(iter(DOCS), folder)
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Index:
    return Index(folder)


def hits(index: Index, *texts: str, depth: int = 10) -> list[list[str]]:
    queries = [Query(f"q {i}", text) for i, text in enumerate(texts)]
    results = index.search(queries, k1=0.9, b=0.4, depth=depth)
    assert list(results) == [query.id for query in queries]
    return [[docid for docid, _ in results[query.id]] for query in queries]


# Searching


def test_search_ranks_by_bm25(index: Index) -> None:
    assert hits(index, "salt in sea water", "lighthouse", "bread") == [
        ["salt", "bread", "tides"],
        ["twin-a", "twin-b"],
        ["bread"],
    ]
    assert hits(index, "salt in sea water", depth=1) == [["salt"]]


def test_equal_scores_are_in_order_of_id_and_a_millionth_apart(index: Index) -> None:
    (first, high), (second, low) = index.search([Query("1", "lighthouse")], k1=0.9, b=0.4, depth=2)["1"]
    assert (first, second) == ("twin-a", "twin-b")
    assert high - low == pytest.approx(1e-6, rel=0.1)


def test_k1_and_b_are_used(index: Index) -> None:
    # With k1 = 0 a term counts once and length not at all: every match of one term scores the same idf.
    scores = [score for _, score in index.search([Query("1", "water")], k1=0, b=0.4, depth=9)["1"]]
    assert len(scores) == 2
    assert scores[0] - scores[1] == pytest.approx(1e-6, rel=0.1)
    higher = index.search([Query("1", "water")], k1=2, b=1, depth=9)["1"]
    assert higher[0][1] - higher[1][1] > 1e-3


@pytest.mark.parametrize("text", ["", " ", "the of and", "?!", "\x00", "😀", "\ud800", "xyzzy"])
def test_a_query_that_matches_nothing_has_no_hits(index: Index, text: str) -> None:
    assert hits(index, text, "bread") == [[], ["bread"]]


def test_a_query_may_have_thousands_of_terms(index: Index) -> None:
    assert hits(index, " ".join(f"term{i}" for i in range(5000)) + " flour") == [["bread"]]


def test_batches_do_not_change_the_result(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [Query(str(i), text) for i, (_, text) in enumerate(DOCS * 3)]
    together = index.search(queries, k1=0.9, b=0.4, depth=5)
    done: list[int] = []
    monkeypatch.setattr(lucene, "FETCHED_DOCS", 5)
    batched = index.search(queries, k1=0.9, b=0.4, depth=5, on_progress=done.append)
    assert batched == together
    assert len(done) > 1
    assert done == sorted(done)
    assert done[-1] == len(queries)


# Reading


def test_texts_come_back_as_given(index: Index) -> None:
    texts = index.lookup([docid for docid, _ in DOCS] + ["unknown", "\ud800"])
    given = {docid: text.replace("\ud83d", "\ufffd") for docid, text in DOCS if docid not in EMPTY}
    assert texts == given


def test_missing_are_unknown_ids_and_empty_documents(index: Index) -> None:
    assert index.missing(["salt", "unknown", "日本/😀?#%", *EMPTY, "bread"]) == ["unknown", *EMPTY]
    assert index.missing([]) == []


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        ('{"id": "1", "contents": "body"}', "body"),
        ('{"_id": "1", "title": "Title", "text": "body", "metadata": {}}', "Title body"),
        ('{"_id": "1", "title": "", "text": "body"}', "body"),
        ('{"docid": "1", "title": "Title", "headings": "Heading", "body": "body"}', "Title Heading body"),
        ('{"pid": "1", "passage": "body", "spans": "(0,4)"}', "body"),
        ("<html>\n<pre>two\nlines &amp; more</pre></html>", "two\nlines & more"),
        ("a < b and c > d\n", "a < b and c > d\n"),
        ("1984", "1984"),
        ('{"id": "1"}', '{"id": "1"}'),
    ],
)
def test_text_of_a_stored_document(stored: str, text: str) -> None:
    assert lucene._text_of(stored) == text


def test_an_index_without_texts_says_so(tmp_path: Path) -> None:
    index = Index(anserini(tmp_path, [{"id": "1", "contents": "some text"}]))
    assert hits(index, "text") == [["1"]]
    with pytest.raises(InputError, match="storeRaw"):
        index.texts(["1"])


def test_identity_belongs_to_the_content(index: Index, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "write.lock").unlink()
    copied = Index(copy)
    assert copied.identity() == index.identity()
    with next(copy.glob("*.fdt")).open("ab") as changed:
        changed.write(b"x")
    assert copied.identity() != index.identity()


# Building


def test_documents_stream_through_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lucene, "SHARD_DOCS", 1200)
    taken: list[int] = []
    docs = ((f"d{i}", "text") for i in range(2500))
    assert lucene._write_shards(docs, tmp_path, taken.append) == 2500
    assert taken == [1000, 2000, 2500]
    assert [len(shard.read_text().splitlines()) for shard in sorted(tmp_path.iterdir())] == [1200, 1200, 100]


def test_a_build_leaves_the_index_alone(folder: Path) -> None:
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ([], "corpus is empty"),
        ([("a", "x"), ("b", "y"), ("a", "z")], "document 3 .* repeats the id 'a'"),
        ([("a", "x"), ("a", "")], "document 2 .* repeats the id 'a'"),
        ([("a", "x"), ("", "y")], "document 2 .* empty id"),
        ([("\ud800", "x")], "not valid Unicode"),
    ],
)
def test_bad_documents_are_refused_and_leave_nothing(docs: list[tuple[str, str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        build_index(docs, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_lucene_refuses_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"indexed 0 of 1 documents .*immense term") as caught:
        build_index([("x" * 40_000, "text")], tmp_path / "x")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[tuple[str, str]]:
        yield "a", "x"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(interrupted(), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="exists already"):
        build_index(DOCS, folder)
    assert sorted(folder.iterdir()) == before


# Finding


def test_an_index_is_found_by_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_index(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert find_index(folder.name) == folder


def test_a_prebuilt_index_is_found_in_pyserinis_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "lucene-inverted.msmarco-v1-passage.20221004.252b5e.678876e8c99a89933d553609a0fd8793"
    shutil.copytree(folder, tmp_path / "indexes" / name)
    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    assert find_index("msmarco-v1-passage") == tmp_path / "indexes" / name


def test_a_download_that_fails_says_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyserini.util

    def offline(name: str) -> str:
        raise ValueError(f"no network for {name}")

    monkeypatch.setenv("PYSERINI_CACHE", str(tmp_path))
    monkeypatch.setattr(pyserini.util, "download_prebuilt_index", offline)
    with pytest.raises(InputError, match=r"no network for msmarco-v1-p.* https://.* \(2,171 MB\)") as caught:
        find_index("msmarco-v1-passage")
    assert str(tmp_path / "indexes" / "lucene-inverted.msmarco-v1-passage.20221004") in str(caught.value)


def test_what_is_no_index_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    with pytest.raises(InputError, match="docs is not a Lucene index"):
        find_index("docs")
    with pytest.raises(InputError, match=r"did you mean 'msmarco-v1-passage'.*`build`"):
        find_index("msmarco-v1-pasage")
    with pytest.raises(InputError, match=r"no index at .*no/such"):
        find_index("no/such")
    with pytest.raises(InputError, match="cannot be opened"):
        Index(tmp_path)
    (tmp_path / "segments_1").write_bytes(b"no segments")
    with pytest.raises(InputError, match="cannot be opened") as caught:
        Index(tmp_path)
    assert "\n" not in str(caught.value)


# Java

FIRST_HIT = """
import os, signal, sys, threading
from pathlib import Path
if "torch first" in sys.argv: import torch
from r2llm.pipeline.first_stage.lucene import Index
from r2llm.rerankers.types import Query
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
environment = dict(os.environ)
print(Index(Path(sys.argv[1])).search([Query("1", "bread")], k1=0.9, b=0.4, depth=1)["1"][0][0])
assert dict(os.environ) == environment
if "torch last" in sys.argv: import torch
if "torch" in sys.modules: print(float((torch.ones(64, 64) @ torch.ones(64, 64)).sum()))
try:
    os.kill(os.getpid(), signal.SIGINT)
    threading.Event().wait(9)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("users_java", "torch"), [pytest.param("none", "torch first", marks=pytest.mark.slow), ("unusable", "torch last")]
)
def test_java_starts_quietly_whatever_the_users(folder: Path, tmp_path: Path, torch: str, users_java: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in java.USER_JAVA_VARIABLES}
    if users_java == "unusable":
        for name in ("java", "javac"):
            (tmp_path / name).write_text("#!/bin/sh\necho unusable >&2\nexit 1\n", encoding="utf-8")
            (tmp_path / name).chmod(0o755)
        environment |= dict.fromkeys(java.USER_JAVA_VARIABLES, str(tmp_path))
        environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", FIRST_HIT, str(folder), torch],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("bread\n262144.0\ninterrupted\n", "")


def test_the_error_of_java_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"io[.]anserini[.]NoSuchClass"):
        java.run_java("io.anserini.NoSuchClass", [])


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyserini", None)
    with pytest.raises(InputError, match="pip install pyserini"):
        java.anserini_jar()
    (tmp_path / "pyserini").mkdir()
    (tmp_path / "pyserini" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "pyserini")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"no Anserini jar in .*pyserini"):
        java.anserini_jar()


# CACM: a whole collection, against the figures that Anserini publishes


class Text(HTMLParser):
    """The text of an HTML page, all of it: what Anserini's HtmlCollection indexes."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def cacm_docs() -> Iterator[tuple[str, str]]:
    with tarfile.open(CACM / "cacm.tar.gz") as archive:
        for member in archive:
            page = archive.extractfile(member)
            if page is not None:
                parser = Text()
                parser.feed(page.read().decode("utf-8", "replace"))
                parser.close()
                yield Path(member.name).stem, " ".join(parser.parts)


def cacm_queries() -> list[Query]:
    """As Anserini's CacmTopicReader: everything between the number and the end of the topic."""
    topics = (CACM / "topics.cacm.txt").read_text(encoding="utf-8").split("<DOC>")[1:]
    numbered = (topic.split("</DOC>")[0].split("<DOCNO>")[1].split("</DOCNO>") for topic in topics)
    return [Query(number.strip(), text.strip()) for number, text in numbered]


@pytest.mark.shared
def test_cacm_gives_anserinis_figures(tmp_path: Path) -> None:
    import ir_measures

    build_index(cacm_docs(), tmp_path / "cacm")
    queries = cacm_queries()
    assert len(queries) == 64
    run = Index(tmp_path / "cacm").search(queries, k1=0.9, b=0.4, depth=1000)

    measures = [ir_measures.AP, ir_measures.P @ 30]
    qrels = list(ir_measures.read_trec_qrels(str(CACM / "qrels.cacm.txt")))
    values = ir_measures.calc_aggregate(measures, qrels, {query: dict(hits) for query, hits in run.items()})
    assert [round(values[measure], 4) for measure in measures] == [0.3123, 0.1942]

    arguments = (
        f"-index {tmp_path}/cacm -topics {CACM}/topics.cacm.txt -topicReader Cacm -output {tmp_path}/run.trec"
        " -bm25 -bm25.k1 0.9 -bm25.b 0.4 -hits 1000"
    )
    java.run_java("io.anserini.search.SearchCollection", arguments.split())
    anserini = defaultdict(list)
    for line in (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines():
        query, _, docid, _, score, _ = line.split()
        anserini[query].append((docid, score))
    ours = {query: [(docid, f"{score:.6f}") for docid, score in hits] for query, hits in run.items() if hits}
    assert ours == anserini


# Languages, fields, feedback


GERMAN = [("g1", "Die Häuser am Fluss wurden überschwemmt"), ("g2", "Ein Haus steht am Flüsse"), ("g3", "Der Hund")]


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("german") / "index"
    lucene.build_index(GERMAN, folder, language="de")
    return folder


def anserini(folder: Path, documents: list[dict[str, str]], *options: str) -> Path:
    """Index JSON documents as a user of Anserini would, in the Java that searches."""
    (folder / "docs").mkdir()
    (folder / "docs/d.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    arguments = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"]
    arguments += ["-input", str(folder / "docs"), "-index", str(folder / "index"), *options]
    logs = java.java_class("org.apache.logging.log4j.LogManager")
    quiet = logs.getFactory()
    logs.setFactory(java.java_class("org.apache.logging.log4j.core.impl.Log4jContextFactory")())  # the indexer needs it
    java.java_class("io.anserini.index.IndexCollection").main(arguments)
    logs.setFactory(quiet)
    return folder / "index"


def test_queries_are_analysed_as_the_index_was(german: Path) -> None:
    index = Index(german)
    index.use("de")
    index.check("de", None, sure=True)
    found = index.search([Query("1", "Haus Fluss"), Query("2", "überschwemmte Häuser")], k1=0.9, b=0.4, depth=9)
    assert {query: [docid for docid, _ in hits] for query, hits in found.items()} == {
        "1": ["g2", "g1"],
        "2": ["g1", "g2"],
    }


@pytest.mark.parametrize("language", ["en", "zh", "fr", "yo"])
def test_an_index_of_another_language_is_refused(german: Path, language: str) -> None:
    index = Index(german)
    index.use(language)
    with pytest.raises(InputError, match=f"was not indexed with Anserini's analyzer for '{language}'"):
        index.check(language, None, sure=True)


def test_an_unknown_language_is_refused(index: Index) -> None:
    with pytest.raises(InputError, match=r"bm25\.language: no analyzer for 'xx'; known: ar, bn"):
        index.use("xx")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("miracl-v1.0-zh", "zh"),
        ("mrtydi-v1.1-arabic", "ar"),
        ("mrtydi-v1.1-en", "en"),
        ("ciral-v1.0-yo", "yo"),
        ("ciral-v1.0-yo-en", "en"),
        ("neuclir22-fa-en", "en"),
        ("hc4-v1.0-ru", "ru"),
        ("zhwiki-paragraphs", "zh"),
        ("msmarco-v1-passage", "en"),
        ("build", "en"),
    ],
)
def test_a_prebuilt_indexs_name_says_its_language(name: str, language: str) -> None:
    assert lucene.language_of(name) == language


def test_fields_are_searched_with_their_weights_and_unknown_ones_refused(tmp_path: Path) -> None:
    documents = [{"id": "a", "contents": "bees", "title": "honey"}, {"id": "b", "contents": "honey", "title": "cats"}]
    index = Index(anserini(tmp_path, documents, "-storeRaw", "-fields", "title"))
    asked = [Query("1", "honey")]

    def hits(fields: dict[str, float]) -> list[str]:
        index.check("en", fields, sure=False)
        return [docid for docid, _ in index.search(asked, k1=0.9, b=0.4, depth=9, fields=fields)["1"]]

    assert hits({"contents": 1}) == ["b"]
    assert hits({"contents": 1, "title": 2}) == ["a", "b"]
    assert hits({"contents": 2, "title": 1}) == ["b", "a"]
    with pytest.raises(InputError, match=r"has other fields than `contents`: in first_stage\.bm25\.fields"):
        index.check("en", None, sure=True)
    with pytest.raises(InputError, match="has no field headline"):
        index.check("en", {"headline": 1}, sure=True)


def test_of_a_docid_that_is_there_twice_the_later_hit_is_dropped_and_the_depth_filled(tmp_path: Path) -> None:
    texts = [
        ("d1", "bees bees honey"),
        ("d1", "bees honey"),
        ("d2", "bees and other insects"),
        ("d3", "bees or wasps here"),
    ]
    index = Index(anserini(tmp_path, [{"id": d, "contents": text} for d, text in texts], "-storeRaw"))
    notes: list[str] = []
    found = index.search([Query("1", "bees"), Query("2", "wasps")], k1=0.9, b=0.4, depth=2, on_note=notes.append)
    assert [docid for docid, _ in found["1"]] == ["d1", "d2"]
    assert [docid for docid, _ in found["2"]] == ["d3"]
    assert notes == [
        "1 of 2 queries have a document twice among their hits, as the index has it; the later one is dropped "
        "(the first is 1)"
    ]


def test_terms_that_the_index_lacks_are_said(index: Index) -> None:
    notes: list[str] = []
    index.search([Query("7", "zorblax frumious")], k1=0.9, b=0.4, depth=2, on_note=notes.append)
    assert notes == ["1 queries have no term that the index has (the first is 7: zorblax, frumiou)"]


def test_stored_contents_are_the_text_where_there_is_no_raw(tmp_path: Path) -> None:
    index = Index(anserini(tmp_path, [{"id": "a", "contents": "bees make honey"}], "-storeContents"))
    assert index.texts(["a"]) == {"a": "bees make honey"}
    index.check("en", None, sure=False)


def test_an_index_without_texts_needs_its_language(tmp_path: Path) -> None:
    index = Index(anserini(tmp_path, [{"id": "a", "contents": "bees make honey"}]))
    with pytest.raises(InputError, match=r"its language cannot be told: say first_stage\.bm25\.language"):
        index.check("en", None, sure=False)
    index.check("en", None, sure=True)


@pytest.mark.parametrize("options", [("-storeRaw",), ("-storeDocvectors",)])
def test_rm3_expands_queries_as_pyserini_does(tmp_path: Path, options: tuple[str, ...]) -> None:
    """`nectar` comes out of the first hit, and finds a document without `bees`: a term of few enough documents."""
    texts = {"a": "bees nectar", "b": "nectar flowers"} | {f"f{number}": "stones" for number in range(30)}
    index = Index(anserini(tmp_path, [{"id": d, "contents": text} for d, text in texts.items()], *options))
    asked = [Query("1", "bees")]
    assert [docid for docid, _ in index.search(asked, k1=0.9, b=0.4, depth=9)["1"]] == ["a"]
    index.use("en", {"fb_terms": 10, "fb_docs": 1, "original_query_weight": 0.5})
    assert [docid for docid, _ in index.search(asked, k1=0.9, b=0.4, depth=9)["1"]] == ["a", "b"]


def test_rm3_needs_the_terms_of_documents(tmp_path: Path) -> None:
    index = Index(anserini(tmp_path, [{"id": "a", "contents": "bees"}]))
    with pytest.raises(InputError, match="neither document vectors"):
        index.use("en", {"fb_terms": 10, "fb_docs": 10, "original_query_weight": 0.5})
