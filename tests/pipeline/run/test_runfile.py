"""The run file's reader and writer: order, refusals, and that what is written is read back."""

import gzip
import os
import string
from array import array
from pathlib import Path

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.pipeline.run import runfile
from r2llm.rerankers.errors import InputError

SHARED = Path(os.environ["R2LLM_SHARED"]) / "data"

WORDS = st.text(string.ascii_letters + string.digits + "-_.é日", min_size=1, max_size=8)
SINGLES = st.floats(-(2.0**100), 2.0**100, width=32)
RUNS = st.dictionaries(
    WORDS,
    st.dictionaries(WORDS, SINGLES, min_size=1, max_size=12).map(lambda scores: list(scores.items())),
    min_size=1,
    max_size=4,
)


def written(folder: Path, text: str, name: str = "run.trec") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def ids(run: runfile.Run) -> dict[str, list[str]]:
    return {query: [document for document, _ in ranking] for query, ranking in run.items()}


def test_a_run_is_read_in_descending_order_of_score(tmp_path: Path) -> None:
    path = written(tmp_path, "q2 Q0 a 2 1.5 t\nq2 Q0 b 1 2.5 t\nq1\tQ0\tc\t1\t-3e-2\tt\r\n")
    run, warnings = runfile.read(path)
    assert run == {"q2": [("b", 2.5), ("a", 1.5)], "q1": [("c", -0.03)]}
    assert list(run) == ["q2", "q1"]
    assert warnings == []


def test_a_query_whose_lines_lie_apart_is_one_query(tmp_path: Path) -> None:
    run, _ = runfile.read(written(tmp_path, "q1 Q0 a 1 3 t\nq2 Q0 a 1 1 t\nq1 Q0 b 2 2 t\n"))
    assert ids(run) == {"q1": ["a", "b"], "q2": ["a"]}


def test_gzip_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.trec.gz"
    path.write_bytes(gzip.compress("\ufeffq Q0 a 1 3 t\n".encode()))
    assert runfile.read(path)[0] == {"q": [("a", 3.0)]}


def test_ties_are_ordered_by_identifier_descending_with_one_warning(tmp_path: Path) -> None:
    first = "q1 Q0 a 1 2 t\nq1 Q0 b 2 2 t\nq1 Q0 10 3 1 t\nq1 Q0 9 4 1 t\n"
    lines = f"{first}q2 Q0 a 1 1 t\nq2 Q0 é 2 1 t\nq3 Q0 a 1 1 t\n"
    run, warnings = runfile.read(written(tmp_path, lines))
    assert ids(run) == {"q1": ["b", "a", "9", "10"], "q2": ["é", "a"], "q3": ["a"]}
    assert len(warnings) == 1
    assert "2 of 3 queries have tied scores (the first is q1)" in warnings[0]


def test_ranks_that_disagree_with_the_scores_are_told(tmp_path: Path) -> None:
    run, warnings = runfile.read(written(tmp_path, "q Q0 a 1 1 t\nq Q0 b 2 2 t\n"))
    assert ids(run) == {"q": ["b", "a"]}
    assert len(warnings) == 1
    assert "rank column disagrees with the scores in 1 of 1" in warnings[0]


@given(st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 1.5, -2.0, 1e-46]), min_size=2, max_size=9))
def test_the_order_is_that_of_trec_eval(tmp_path_factory: pytest.TempPathFactory, scores: list[float]) -> None:
    scored = {f"d{i}": score for i, score in enumerate(scores)}
    lines = "".join(f"q Q0 {document} 1 {score!r} t\n" for document, score in scored.items())
    run, _ = runfile.read(written(tmp_path_factory.mktemp("run"), lines))
    found = [ir_measures.ScoredDoc("q", document, score) for document, score in scored.items()]
    for rank, (document, _) in enumerate(run["q"], 1):
        judged = [ir_measures.Qrel("q", document, 1)]
        assert ir_measures.calc_aggregate([ir_measures.RR], judged, found)[ir_measures.RR] == pytest.approx(1 / rank)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("q Q0 a 1 2 t\nq Q0 b 2 1\n", 2, "5 columns"),
        ("q Q0 a 1 2 t\n\nq Q0 b 2 1 t\n", 2, "blank line"),
        ("# made by hand\nq Q0 a 1 2 t\n", 1, "beside the run"),
        ("q Q0 a 1 2 t\n # five 5 6.0 seven\n", 2, "beside the run"),
        ("q Q0 a 1 2 t\n# q 3 4 5.0 t\n", 2, "beside the run"),
        ("q Q0 a 1 1_0 t\n", 1, "score 1_0 is not a number"),
        ("q a 1\n", 1, "a run of MS MARCO's three columns has a name that ends in .tsv"),
        ("q Q0 a 1 high t\n", 1, "score high is not a number"),
        ("q Q0 a 1 nan t\n", 1, "not finite"),
        ("q Q0 a 1 -inf t\n", 1, "not finite"),
        ("q Q0 a 1 1e99 t\n", 1, "not finite in single precision"),
        ("q Q0 a 1 2 t\nr Q0 a 1 2 t\nq Q0 a 2 1 t\n", 3, "query q has document a on line 1 too"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        runfile.read(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("q Q0 a 1.0 2 t\nq Q0 b 2.0 1 t\n", "1 of 1 queries have ranks that are no integers (the first is q)"),
        ("q Q0 b - 1 t\nq Q0 a - 2 t\n", "1 of 1 queries have ranks that are no integers (the first is q)"),
        ("q Q0 a one 2 t\nq Q0 b 1 1 t\n", "1 of 1 queries have ranks that are no integers (the first is q)"),
        ("q Q0 a 1 2 t\nq Q0 b 2 1 t\n\n \n", "blank lines at the end"),
        ("q Q0 a 1 2 my own run\nq Q0 b 2 1 t\n", "words after the sixth column are not looked at"),
    ],
)
def test_what_trec_eval_reads_is_read_with_a_note(tmp_path: Path, text: str, note: str) -> None:
    path = written(tmp_path, text)
    run, notes = runfile.read(path)
    assert run == {"q": [("a", 2.0), ("b", 1.0)]}
    assert [one for one in notes if one.startswith(f"{path}: {note}")] == notes != []


@pytest.mark.parametrize("name", ["run.dev.small.tsv", "run.msmarco-passage.txt", "run.tsv.gz"])
def test_a_run_as_ms_marco_has_them_goes_by_its_name(tmp_path: Path, name: str) -> None:
    text = "q1\tb\t2\nq1\ta\t1\nq2\ta\t1\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    run, notes = runfile.read(path)
    assert run == {"q1": [("a", 1.0), ("b", 0.5)], "q2": [("a", 1.0)]}
    assert notes == [f"{path}: an MS MARCO run: a document's score is 1 / rank"]


@pytest.mark.parametrize(
    ("line", "what"), [("q\tb\t0", "rank 0 is not 1 or more"), ("q\tb", "2 columns, not the three")]
)
def test_a_faulty_line_of_an_ms_marco_run_is_named(tmp_path: Path, line: str, what: str) -> None:
    path = written(tmp_path, f"q\ta\t1\n{line}\n", "run.tsv")
    with pytest.raises(InputError, match=f":2: .*{what}"):
        runfile.read(path)


def test_six_columns_are_six_whatever_the_name(tmp_path: Path) -> None:
    assert runfile.read(written(tmp_path, "q Q0 a 1 2 t\n", "msmarco.tsv")) == ({"q": [("a", 2.0)]}, [])


def test_where_ranks_and_double_precision_agree_that_order_is_kept(tmp_path: Path) -> None:
    scores = ("0.98765432100001", "0.98765432100000")
    agreeing = f"q Q0 a 1 {scores[0]} t\nq Q0 b 2 {scores[1]} t\n"
    run, (note,) = runfile.read(written(tmp_path, agreeing))
    assert ids(run) == {"q": ["a", "b"]}
    assert "trec_eval 9.0.8 has it so, 9.0.4 and ir-measures take the scores for ties" in note
    run, notes = runfile.read(written(tmp_path, f"q Q0 a 2 {scores[0]} t\nq Q0 b 1 {scores[1]} t\n"))
    assert ids(run) == {"q": ["b", "a"]}
    assert "9.0.4 and ir-measures compare in single precision, 9.0.8 in double" in notes[0]


PIECES = [
    b"q",
    b"#",
    b"Q0",
    b"a",
    b"\xff",
    b"\xc3\xa9",
    b"1",
    b"2.5",
    b"nan",
    b"1_0",
    b" ",
    b" ",
    b" ",
    b"\t",
    b"\n",
    b"\r",
]
LINE = st.sampled_from([b"q Q0 a 1 2 t\n", b"q Q0 b 2 1 t\n", b"r Q0 a 1 1 t\n"])


@given(st.lists(LINE | st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join), max_size=5))
def test_any_file_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    path.write_bytes(b"".join(parts))
    message, lines = "", 0
    try:
        lines = sum(map(len, runfile.read(path)[0].values()))
    except InputError as error:
        message = str(error)
    assert message or lines == len(path.read_bytes().rstrip().split(b"\n"))
    assert "\n" not in message


def test_a_file_that_is_not_utf8_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(b"q Q0 a 1 2 t\nq Q0 \xe9 2 1 t\n")
    with pytest.raises(InputError, match=":2: not UTF-8"):
        runfile.read(path)


def test_an_empty_absent_or_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty"):
        runfile.read(written(tmp_path, ""))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        runfile.read(tmp_path / "none.trec")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"q Q0 a 1 2 t\n" * 9)[:-9])
    with pytest.raises(InputError, match="cannot be read: Compressed file ended"):
        runfile.read(tmp_path / "cut.gz")


@given(RUNS)
def test_a_ranking_is_read_back_as_written(tmp_path_factory: pytest.TempPathFactory, run: runfile.Run) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    rankings = ids(run)
    runfile.write(path, rankings, {query: sorted(documents) for query, documents in rankings.items()}, "tag")
    back, warnings = runfile.read(path)
    assert ids(back) == rankings
    assert warnings == []
    assert all(scores == list(range(len(scores), 0, -1)) for scores in ([s for _, s in r] for r in back.values()))


def test_the_written_file_is_six_columns_with_ranks_from_one(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    runfile.write(path, {"q": ["b", "a"]}, {"q": ["a", "b"]}, "mine")
    assert path.read_text() == "q Q0 b 1 2 mine\nq Q0 a 2 1 mine\n"


@pytest.mark.parametrize(
    ("ranking", "what"),
    [
        (["a", "b", "a"], "query q: document a is ranked twice"),
        (["a"], "query q: candidate b is lost"),
        (["a", "b", "c"], "query q: document c is ranked but was no candidate"),
    ],
)
def test_a_ranking_that_is_no_permutation_is_refused_and_nothing_written(
    tmp_path: Path, ranking: list[str], what: str
) -> None:
    path = written(tmp_path, "old")
    with pytest.raises(InputError, match=what):
        runfile.write(path, {"q": ranking}, {"q": ["a", "b"]}, "tag")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_lost_and_invented_queries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query r has candidates but no ranking"):
        runfile.write(tmp_path / "run", {"q": ["a"]}, {"q": ["a"], "r": ["b"]}, "tag")
    with pytest.raises(InputError, match="query r has a ranking but no candidates"):
        runfile.write(tmp_path / "run", {"q": ["a"], "r": ["b"]}, {"q": ["a"]}, "tag")


@pytest.mark.parametrize(
    ("query", "document", "tag"),
    [("q 1", "a", "t"), ("q", "a\u00a0b", "t"), ("q", "", "t"), ("q", "a", "my run")],
)
def test_white_space_in_a_column_is_refused(tmp_path: Path, query: str, document: str, tag: str) -> None:
    with pytest.raises(InputError, match="is not one word"):
        runfile.write(tmp_path / "run", {query: [document]}, {query: [document]}, tag)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"run\.trec: cannot be written: No space left on device"):
        runfile.write(path, {"q": ["a"]}, {"q": ["a"]}, "tag")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_and_an_empty_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        runfile.write(tmp_path / "none" / "run.trec", {"q": ["a"]}, {"q": ["a"]}, "tag")
    with pytest.raises(InputError, match="no query has a document"):
        runfile.write(tmp_path / "run.trec", {"q": []}, {"q": []}, "tag")


@given(RUNS)
def test_a_first_stage_keeps_its_order_whatever_its_scores(
    tmp_path_factory: pytest.TempPathFactory, run: runfile.Run
) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    runfile.write_scored(path, run, "bm25")
    back, warnings = runfile.read(path)
    assert ids(back) == ids(run)
    assert warnings == []


@given(RUNS)
def test_scores_that_decrease_are_written_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, run: runfile.Run
) -> None:
    decreasing = {
        query: list(zip((d for d, _ in ranking), sorted({s for _, s in ranking}, reverse=True), strict=False))
        for query, ranking in run.items()
    }
    path = tmp_path_factory.mktemp("run") / "run.trec"
    runfile.write_scored(path, decreasing, "bm25")
    assert runfile.read(path)[0] == decreasing


def test_only_tied_scores_are_lowered_and_by_the_least(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    runfile.write_scored(path, {"q": [("a", 2.5), ("b", 2.5), ("c", 2.5), ("d", 1.0)]}, "bm25")
    scores = [score for _, score in runfile.read(path)[0]["q"]]
    assert scores[0] == 2.5
    assert scores[3] == 1.0
    assert array("f", scores[1:3]).tolist() == scores[1:3]
    assert 2.5 - scores[2] == pytest.approx(2 * 2**-22)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e99])
def test_a_score_that_no_evaluator_can_read_is_refused(tmp_path: Path, score: float) -> None:
    with pytest.raises(InputError, match="query q: single precision cannot hold document a's score"):
        runfile.write_scored(tmp_path / "run", {"q": [("a", score)]}, "bm25")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "queries", "lines", "warned"),
    [
        ("dl19/bm25.trec", 43, 4300, 0),
        ("recorded/rankvicuna_dl19.trec", 43, 4300, 0),
        ("runs/dl19_setwise_gpt4omini.trec", 43, 4300, 0),
        ("runs/dl19_batchwise_lost_documents.trec", 43, 4291, 1),
        ("trec_eval/results.test", 3, 1500, 1),
    ],
)
def test_real_runs_are_read(name: str, queries: int, lines: int, warned: int) -> None:
    run, warnings = runfile.read(SHARED / name)
    assert (len(run), sum(map(len, run.values())), len(warnings)) == (queries, lines, warned)


@pytest.mark.shared
def test_real_junk_is_noted_and_lost_documents_are_refused(tmp_path: Path) -> None:
    junk, notes = runfile.read(SHARED / "trec_eval" / "results.trunc")  # trec_eval's own test of what it reads
    assert sum(map(len, junk.values())) == 584
    assert any("words after the sixth column are not looked at" in note for note in notes)
    candidates = ids(runfile.read(SHARED / "dl19" / "bm25.trec")[0])
    lost = ids(runfile.read(SHARED / "runs" / "dl19_batchwise_lost_documents.trec")[0])
    with pytest.raises(InputError, match="is lost from the ranking"):
        runfile.write(tmp_path / "run", lost, candidates, "tag")


@pytest.mark.shared
def test_a_first_stage_with_ties_evaluates_the_same_as_written(tmp_path: Path) -> None:
    qrels = list(ir_measures.read_trec_qrels(str(SHARED / "trec_eval" / "qrels.test")))
    original = SHARED / "trec_eval" / "results.test"
    runfile.write_scored(tmp_path / "run", runfile.read(original)[0], "bm25")
    measures = [ir_measures.AP, ir_measures.nDCG @ 10, ir_measures.P @ 30]
    first, second = (
        ir_measures.calc_aggregate(measures, qrels, ir_measures.read_trec_run(str(path)))
        for path in (original, tmp_path / "run")
    )
    assert first == second


def test_only_some_queries_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.trec"
    path.write_text("q1 Q0 a 1 2.0 t\nq2 Q0 b 1 x t\nq1 Q0 c 2 1.0 t\n")
    assert runfile.read(path, {"q1"})[0] == {"q1": [("a", 2.0), ("c", 1.0)]}
    assert runfile.read(path, {"q9"})[0] == {}
    with pytest.raises(InputError, match="the score x is not a number"):
        runfile.read(path, {"q2"})
