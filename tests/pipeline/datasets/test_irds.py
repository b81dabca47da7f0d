"""ir_datasets by its real code, on small files laid where it keeps its downloads, and without a network."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ASK = """
import json, sys
from pathlib import Path
from r2llm.pipeline.datasets import load
from r2llm.rerankers.errors import InputError
try:
    dataset = load(sys.argv[1])
    answer = {
        "queries": [[q.id, q.text] for q in dataset.queries().values()],
        "qrels": dataset.qrels(),
        "notes": dataset.notes(dataset.queries()),
        "exclusions": {query: sorted(ids) for query, ids in dataset.exclusions().items()},
        "missing": dataset.docs().missing(sys.argv[2:]),
        "docs": list(dataset.docs()),
        "identity": dataset.identity(),
        "first_stage": dataset.first_stage(),
    }
    answer["texts"] = dataset.docs().texts([id for id in sys.argv[2:] if id not in answer["missing"]])
except InputError as error:
    answer = {"error": str(error)}
print(json.dumps(answer))
"""


def ask(home: Path, name: str, *ids: str) -> dict[str, Any]:
    """What a fresh process makes of a dataset: ir_datasets settles on its folder when it is imported.

    Its downloads go to a closed port of this machine, so the test is the same with a network and without.
    """
    nowhere = dict.fromkeys(["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"], "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"IR_DATASETS_HOME": str(home), "NO_PROXY": "", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-c", ASK, name, *ids],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_vaswani(tmp_path: Path) -> None:
    files = {
        "doc-text": "1\ncoral reefs\nare old\n   /\n2\ndeserts are dry\n   /\n",
        "query-text": "1\nOLD REEFS\n/\n2\nDRY PLACES\n/\n4\n\n/\n",
        "rlv-ass": "1\n 1\n   /\n2\n 2 1\n   /\n3\n 1\n   /\n",
    }
    (tmp_path / "vaswani").mkdir()
    with tarfile.open(tmp_path / "vaswani" / "npl.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    answer = ask(tmp_path, "vaswani", "2", "9", "1", "9")
    assert answer["queries"] == [["1", "OLD REEFS"], ["2", "DRY PLACES"]]
    assert answer["qrels"] == {"1": {"1": 1}, "2": {"2": 1, "1": 1}, "3": {"1": 1}}
    assert answer["notes"] == [
        "vaswani: left out 1 of 3 queries: no text (the first is 4)",
        "vaswani: left out 1 of 3 judged queries: not in it (the first is 3)",
    ]
    assert answer["missing"] == ["9"]
    assert answer["texts"] == {"1": "coral reefs\nare old", "2": "deserts are dry"}
    assert [id_ for id_, _ in answer["docs"]] == ["1", "2"]
    assert answer["identity"] == {"ir_datasets": "vaswani"}
    assert answer["exclusions"] == {}
    assert answer["first_stage"] is None


def test_beir_has_titles_and_drops_nothing_for_an_equal_id(tmp_path: Path) -> None:
    corpus = [
        {"_id": "D1", "title": "Reefs", "text": "Corals.", "metadata": {"url": ""}},
        {"_id": "D2", "title": "", "text": "Deserts.", "metadata": {"url": ""}},
    ]
    queries = [{"_id": q, "text": f"text of {q}", "metadata": {"url": ""}} for q in ("Q1", "Q2", "Q3")]
    folder = tmp_path / "beir" / "nfcorpus"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "source.zip", "w") as archive:
        archive.writestr("nfcorpus/corpus.jsonl", "\n".join(map(json.dumps, corpus)))
        archive.writestr("nfcorpus/queries.jsonl", "\n".join(map(json.dumps, queries)))
        archive.writestr("nfcorpus/qrels/test.tsv", "query-id\tcorpus-id\tscore\nQ3\tD1\t2\nQ1\tD2\t1\n")
    answer = ask(tmp_path, "beir/nfcorpus/test", "D1", "D2")
    assert answer["queries"] == [["Q1", "text of Q1"], ["Q3", "text of Q3"]]
    assert answer["qrels"] == {"Q3": {"D1": 2}, "Q1": {"D2": 1}}
    assert answer["exclusions"] == {}
    assert answer["texts"] == {"D1": "Reefs Corals.", "D2": "Deserts."}


def test_bright_lists_what_a_query_must_not_find(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "bright"
    folder.mkdir()

    def put(name: str, rows: list[dict[str, object]]) -> None:
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / name)

    query: dict[str, object] = {"query": "why", "reasoning": "", "gold_answer": "", "gold_ids": ["a"]}
    put("biology.docs.parquet", [{"id": "a", "content": "A."}, {"id": "b", "content": "B."}])
    put(
        "biology.queries.parquet",
        [{**query, "id": "0", "excluded_ids": ["b"]}, {**query, "id": "1", "excluded_ids": ["N/A"]}],
    )
    for source in ("Gemini-1.0", "claude-3-opus", "gpt4", "grit", "llama3-70b"):
        put(f"biology.{source}_reason.queries.parquet", [{"id": "0", "reasoning": "because"}])
    answer = ask(tmp_path, "bright/biology", "b")
    assert answer["queries"] == [["0", "why"], ["1", "why"]]
    assert answer["qrels"] == {"0": {"a": 1}, "1": {"a": 1}}
    assert answer["exclusions"] == {"0": ["b"]}
    assert answer["texts"] == {"b": "B."}


def test_without_a_network_the_error_says_what_is_needed(tmp_path: Path) -> None:
    error = ask(tmp_path, "msmarco-passage/trec-dl-2019/judged")["error"]
    assert "\n" not in error
    assert "dataset msmarco-passage/trec-dl-2019/judged: " in error
    assert f"its files are downloaded into {tmp_path} (IR_DATASETS_HOME); " in error
    assert "a local BEIR folder or {docs, queries, qrels} files work too" in error


def test_an_unknown_identifier_is_answered_with_the_nearest(tmp_path: Path) -> None:
    error = ask(tmp_path, "beir/nfcorpsu/test")["error"]
    assert "neither a folder with corpus.jsonl nor an ir_datasets identifier" in error
    assert "beir/nfcorpus/test" in error
    assert "a local BEIR folder" in error


def test_a_dataset_without_queries_names_its_subsets(tmp_path: Path) -> None:
    error = ask(tmp_path, "clinicaltrials/2021")["error"]
    assert "has no queries" in error
    assert "clinicaltrials/2021/trec-ct-2021" in error


def test_damaged_files_and_a_folder_that_cannot_be_made_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "beir" / "nfcorpus").mkdir(parents=True)
    (tmp_path / "beir" / "nfcorpus" / "source.zip").write_text("no zip")
    error = ask(tmp_path, "beir/nfcorpus/test")["error"]
    assert f"File is not a zip file; its files are downloaded into {tmp_path} (IR_DATASETS_HOME)" in error
    (tmp_path / "file").write_text("")
    error = ask(tmp_path / "file" / "home", "vaswani")["error"]
    assert error.startswith("ir_datasets cannot make its folder (Not a directory); set IR_DATASETS_HOME")
