"""Ledgers: exported, described, checked, and replayed when the model is gone."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.run import ledgers
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ledger import Ledger

REPLIES = [
    (b"\x02" * 32, "q1", Reply(scores=(-0.5, -1.25), prompt_tokens=7, completion_tokens=0)),
    (b"\x01" * 32, "q2", Reply(text="Passage é\u2028B", prompt_tokens=9, completion_tokens=2)),
    (b"\x03" * 32, "q1", Reply(text="", prompt_tokens=1, completion_tokens=1)),
]


def make(path: Path, replies=REPLIES) -> Path:
    with closing(Ledger(path)) as ledger:
        ledger.add_model({"backend": "test"})
        ledger.add(replies)
    return path


def rerank(heard, *settings: str, output: Path) -> Path:
    return experiment.rerank(config.load("toy.yaml", settings), output, heard).run_dir


def test_json_lines_are_the_models_and_the_answers_by_key(tmp_path: Path) -> None:
    assert ledgers.export(make(tmp_path / "l.sqlite"), tmp_path / "out.jsonl") == 3
    model, *rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().split(b"\n")[:-1]]
    assert model == {"model": {"backend": "test"}}
    assert [row["key"] for row in rows] == ["01" * 32, "02" * 32, "03" * 32]
    assert rows[0] == {
        "key": "01" * 32,
        "query_id": "q2",
        "text": "Passage é\u2028B",
        "scores": None,
        "prompt_tokens": 9,
        "completion_tokens": 2,
    }
    assert rows[1]["scores"] == [-0.5, -1.25]


def test_json_lines_depend_on_the_content_alone_and_their_hash_is_the_content_hash(tmp_path: Path) -> None:
    one = make(tmp_path / "one.sqlite")
    other = make(tmp_path / "other.sqlite", list(reversed(REPLIES)))
    with closing(sqlite3.connect(other)) as database:
        database.execute("PRAGMA page_size=1024")
        database.execute("VACUUM")
    assert one.read_bytes() != other.read_bytes()
    for number, ledger in enumerate((one, other)):
        ledgers.export(ledger, tmp_path / f"{number}.jsonl")
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    assert ledgers.info(one)["content"] == hashlib.sha256((tmp_path / "0.jsonl").read_bytes()).hexdigest()


def test_an_exported_sqlite_file_is_compact_whole_and_without_a_write_ahead_log(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l.sqlite")
    ledgers.export(ledger, tmp_path / "out.sqlite")
    assert {path.name for path in tmp_path.iterdir()} == {"l.sqlite", "out.sqlite"}
    assert ledgers.info(tmp_path / "out.sqlite")["content"] == ledgers.info(ledger)["content"]
    with closing(sqlite3.connect(tmp_path / "out.sqlite")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_two_exports_of_a_ledger_are_the_same_bytes(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l.sqlite")
    for name in ("a.sqlite", "b.sqlite"):
        ledgers.export(ledger, tmp_path / name)
    assert (tmp_path / "a.sqlite").read_bytes() == (tmp_path / "b.sqlite").read_bytes()


def test_an_export_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out.sqlite").write_text("old")
    ledgers.export(make(tmp_path / "l.sqlite"), tmp_path / "out.sqlite")
    assert ledgers.faults(tmp_path / "out.sqlite") == []


@pytest.mark.parametrize("suffix", ["sqlite", "jsonl"])
def test_a_run_replays_from_an_export_with_the_model_folder_deleted(
    toy: Path, tiny_t5: Path, heard, suffix: str
) -> None:
    shutil.copytree(tiny_t5, toy / "model")
    model = "model={backend: transformers, name: model, device: cpu}"
    recorded = rerank(heard, model, output=toy / "recorded")
    ledgers.export(recorded / "ledger.sqlite", toy / f"out.{suffix}")
    shutil.rmtree(toy / "model")
    shutil.move(recorded, toy / "away")
    with pytest.raises(InputError):
        rerank(heard, model, output=toy / "again")
    replay = f"model={{backend: replay, answers: out.{suffix}}}"
    if suffix == "jsonl":  # to be read and compared: only recorded texts are replayed from JSON lines
        with pytest.raises(InputError, match=r"out\.jsonl, line 1"):
            rerank(heard, replay, output=toy / "replayed")
        return
    replayed = rerank(heard, replay, output=toy / "replayed")
    assert (replayed / "run.trec").read_bytes() == (toy / "away" / "run.trec").read_bytes()
    fingerprints = {json.loads((run / "manifest.json").read_text())["fingerprint"] for run in (replayed, toy / "away")}
    assert len(fingerprints) == 1


def test_info(tmp_path: Path) -> None:
    facts = ledgers.info(make(tmp_path / "l.sqlite"))
    assert facts["models"] == [{"backend": "test"}]
    assert (facts["answers"], facts["queries"], facts["texts"]) == (3, 2, 2)
    assert (facts["prompt_tokens"], facts["completion_tokens"]) == (17, 3)
    assert facts["bytes"] == (tmp_path / "l.sqlite").stat().st_size
    uncounted = make(tmp_path / "m.sqlite", [(b"\x01" * 32, "q", Reply(text="A"))])
    assert ledgers.info(uncounted)["prompt_tokens"] is None


def test_a_sound_ledger_has_no_faults(tmp_path: Path) -> None:
    assert ledgers.faults(make(tmp_path / "l.sqlite")) == []


def test_reading_leaves_nothing_beside_a_ledger(tmp_path: Path) -> None:
    make(tmp_path / "l.sqlite")
    ledgers.info(tmp_path / "l.sqlite")
    ledgers.faults(tmp_path / "l.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["l.sqlite"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("UPDATE replies SET scores = '[0.5, ' WHERE query_id = 'q1'", "damaged"),
        ("UPDATE replies SET query_id = x'00'", "was changed after it was written"),
        ("UPDATE replies SET key = 'text' WHERE key = x'" + "01" * 32 + "'", "damaged"),
        ("UPDATE model SET identity = '{'", "damaged"),
    ],
)
def test_a_row_that_cannot_be_read_is_a_fault(tmp_path: Path, change: str, fault: str) -> None:
    ledger = make(tmp_path / "l.sqlite")
    with closing(sqlite3.connect(ledger)) as database:
        database.execute(change)
        database.commit()
    (found,) = ledgers.faults(ledger)
    assert fault in found
    with pytest.raises(InputError, match=fault):
        ledgers.info(ledger)


def test_a_damaged_file_is_a_fault_and_no_traceback(tmp_path: Path) -> None:
    many = [(i.to_bytes(32), "q", Reply(text="x" * 50)) for i in range(2000)]
    ledger = make(tmp_path / "l.sqlite", many)
    whole = ledger.read_bytes()
    for position in range(0, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[position : position + 400] = b"\xee" * 400
        ledger.write_bytes(damaged)
        ledgers.faults(ledger)
    ledger.write_bytes(whole[: len(whole) // 2])
    assert ledgers.faults(ledger)
    ledger.write_bytes(b"no database at all" * 100)
    assert ledgers.faults(ledger)


@pytest.mark.parametrize("out", ["out.txt", "out"])
def test_an_export_to_an_unknown_kind_of_file_is_refused(tmp_path: Path, out: str) -> None:
    with pytest.raises(InputError, match=r"ends in \.jsonl or \.sqlite"):
        ledgers.export(make(tmp_path / "l.sqlite"), tmp_path / out)


def test_an_export_that_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l.sqlite")
    with pytest.raises(InputError, match="is the ledger itself"):
        ledgers.export(ledger, ledger)
    with pytest.raises(InputError, match="there is no such file"):
        ledgers.export(tmp_path / "none.sqlite", tmp_path / "out.sqlite")
    for suffix in ("jsonl", "sqlite"):
        with pytest.raises(InputError, match="out"):
            ledgers.export(ledger, tmp_path / "nowhere" / f"out.{suffix}")
    (tmp_path / "broken.sqlite").write_bytes(ledger.read_bytes()[:5000])
    with pytest.raises(InputError):
        ledgers.export(tmp_path / "broken.sqlite", tmp_path / "out.sqlite")
    assert {path.name for path in tmp_path.iterdir()} == {"l.sqlite", "broken.sqlite"}
