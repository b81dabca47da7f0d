"""The ledger: replies come back as they were, the first is kept, and a process that dies leaves whole batches."""

import hashlib
import math
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.errors import InputError, R2llmError
from r2llm.rerankers.ledger import Ledger, as_findings

COUNTS = st.none() | st.integers(0, 2**40)
REPLIES = st.builds(
    Reply,
    text=st.none() | st.text(),
    scores=st.none() | st.lists(st.floats(allow_nan=False), min_size=1, max_size=23).map(tuple),
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
)

BATCH = 40

WRITER = f"""
import hashlib, sys
from pathlib import Path
from r2llm.rerankers.errors import R2llmError
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.answers.reading import Reply

ledger = Ledger(Path(sys.argv[1]))
number = 0
try:
    while True:
        batch = range(number * {BATCH}, (number + 1) * {BATCH})
        ledger.add((hashlib.sha256(str(i).encode()).digest(), "q", Reply(text="é" * 200 + str(i))) for i in batch)
        number += 1
        print(number, flush=True)
except R2llmError as error:
    print(error, file=sys.stderr)
"""


@given(st.dictionaries(st.binary(min_size=32, max_size=32), REPLIES, max_size=20))
def test_replies_come_back_as_they_were_written(replies: dict[bytes, Reply]) -> None:
    ledger = Ledger(None)
    ledger.add((key, "q1", reply) for key, reply in replies.items())
    assert len(ledger) == len(replies)
    assert {key: ledger.get(key) for key in replies} == replies
    assert ledger.get(b"another") is None
    ledger.close()


def test_unicode_and_every_bit_of_a_score_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    text = "Ångström 日本語 \U0001f600 \0 \u2028 '; DROP TABLE replies; --\n"
    scores = (0.1, -1 / 3, 5e-324, -1.7976931348623157e308, -math.inf, -0.0, -17.488387988682305)
    ledger = Ledger(path)
    ledger.add(
        [(b"k1", "q", Reply(text=text, completion_tokens=3)), (b"k2", "q", Reply(scores=scores, prompt_tokens=9))]
    )
    ledger.close()
    ledger = Ledger(path, read_only=True)
    assert ledger.get(b"k1") == Reply(text=text, completion_tokens=3)
    read = ledger.get(b"k2")
    assert read == Reply(scores=scores, prompt_tokens=9)
    assert [value.hex() for value in read.scores] == [value.hex() for value in scores]
    ledger.close()


def test_the_first_reply_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add([(b"k", "q1", Reply(text="first")), (b"k", "q1", Reply(text="second"))])
    ledger.add([(b"k", "q2", Reply(text="third")), (b"l", "q2", Reply(text="other"))])
    assert (ledger.get(b"k"), ledger.get(b"l"), len(ledger)) == (Reply(text="first"), Reply(text="other"), 2)
    ledger.close()


def test_a_ledger_is_reopened_with_its_replies_and_models(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in range(3):
        ledger = Ledger(path)
        assert len(ledger) == number
        ledger.add([(bytes([number]), "q", Reply(text=str(number)))])
        ledger.add_model({"name": "é", "backend": "b"})
        ledger.close()
    ledger = Ledger(path, read_only=True)
    assert ledger.models() == [{"backend": "b", "name": "é"}]
    assert [ledger.get(bytes([i])) for i in range(4)] == [*(Reply(text=str(i)) for i in range(3)), None]
    ledger.close()


def test_a_ledger_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    writer = Ledger(tmp_path / "ledger.sqlite")
    writer.add([(b"k", "q", Reply(text="A"))])
    reader = Ledger(tmp_path / "ledger.sqlite", read_only=True)
    writer.add([(b"l", "q", Reply(text="B"))])
    assert (reader.get(b"k"), reader.get(b"l")) == (Reply(text="A"), Reply(text="B"))
    with pytest.raises(R2llmError, match="readonly"):
        reader.add([(b"m", "q", Reply(text="C"))])
    reader.close()
    writer.close()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("content", [b"garbage that is no database, whatever its name says" * 100, b"\0" * 4096])
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, content: bytes, read_only: bool) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"ledger .*ledger\.sqlite: cannot be opened: file is not a database"
    ) as raised:
        Ledger(path, read_only=read_only)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_a_file_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(InputError, match="unable to open database file"):
        Ledger(path, read_only=True)
    assert not path.exists()
    with pytest.raises(InputError, match="unable to open database file"):
        Ledger(tmp_path / "no" / "folder.sqlite")
    with pytest.raises(InputError, match="unable to open database file"):
        Ledger(tmp_path)


def test_another_programs_database_is_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE songs (name)")
    other.commit()
    other.close()
    with pytest.raises(InputError, match="no such table: replies"):
        Ledger(path, read_only=True)


def test_a_path_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "a?b#c%20 é" / "ledger.sqlite"
    path.parent.mkdir()
    ledger = Ledger(path)
    ledger.add([(b"k", "q", Reply(text="A"))])
    ledger.close()
    ledger = Ledger(path, read_only=True)
    assert ledger.get(b"k") == Reply(text="A")
    ledger.close()


def kept(path: Path) -> int:
    """How many batches a ledger holds; they must be whole, and the first ones."""
    ledger = Ledger(path)
    batches, rest = divmod(len(ledger), BATCH)
    ledger.close()
    assert rest == 0
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    texts = {text for (text,) in check.execute("SELECT text FROM replies")}
    check.close()
    assert texts == {"é" * 200 + str(i) for i in range(batches * BATCH)}
    return batches


@pytest.mark.parametrize("after", [1, 7, 23])
def test_a_killed_process_leaves_whole_batches(tmp_path: Path, after: int) -> None:
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(after):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = after + len(writer.stdout.readlines())
        assert writer.wait() == -signal.SIGKILL
    assert said <= kept(path) <= said + 1


def test_a_process_that_ends_inside_a_transaction_leaves_the_batches_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from r2llm.rerankers.ledger import Ledger\nfrom r2llm.rerankers.answers.reading import Reply\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.add([(b'a', 'q', Reply(text='A')), (b'b', 'q', Reply(text='B'))])\n"
        # SQLite reports each statement before it is run: this dies when the second batch is about to be committed.
        "ledger._db.set_trace_callback(lambda statement: os._exit(7) if statement == 'COMMIT' else None)\n"
        "ledger.add([(b'c', 'q', Reply(text='C'))])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 7
    ledger = Ledger(path)
    assert (len(ledger), ledger.get(b"b"), ledger.get(b"c")) == (2, Reply(text="B"), None)
    ledger.add([(b"c", "q", Reply(text="again"))])
    assert ledger.get(b"c") == Reply(text="again")
    ledger.close()


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_one_line_and_earlier_answers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + WRITER, str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert done.stderr.startswith(f"ledger {path}: d")  # "disk I/O error" or "database or disk is full"
    assert done.stderr.endswith("; make room or access and run again: all earlier answers are kept\n")
    assert done.stderr.count("\n") == 1
    said = len(done.stdout.split())
    assert said > 2
    assert kept(path) == said


def test_a_closed_ledger_is_one_file_and_reading_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.add([(b"k", "q", Reply(text="A"))])
    ledger.close()
    ledger.close()
    for _ in range(2):
        assert [file.name for file in tmp_path.iterdir()] == ["ledger.sqlite"]
        ledger = Ledger(path, read_only=True)
        assert ledger.get(b"k") == Reply(text="A")
        ledger.close()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_ledger_is_read_from_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.add([(b"k", "q", Reply(text="A"))])
    ledger.close()
    tmp_path.chmod(0o555)
    ledger = Ledger(path, read_only=True)
    assert ledger.get(b"k") == Reply(text="A")
    ledger.close()
    tmp_path.chmod(0o755)


# What was changed, or cannot be used


@pytest.mark.parametrize(
    "change",
    ["text = 'No'", "query_id = 'q9'", "prompt_tokens = 3", "scores = '[0.5]'", "checksum = NULL", "key = x'00ff'"],
)
def test_a_changed_row_is_refused_whenever_it_is_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        ledger.add([(b"k", "q", Reply(text="Yes", prompt_tokens=2)), (b"l", "q", Reply(text="Yes"))])
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"UPDATE replies SET {change} WHERE key = x'6b'")
        database.commit()
    for read_only in (True, False):
        with closing(Ledger(path, read_only=read_only)) as ledger:
            assert ledger.get(b"l") == Reply(text="Yes")
            for read in (
                lambda: ledger.recall([b"k", b"\0\xff"]),
                lambda: list(ledger.rows()),
                lambda: list(ledger.lines()),
            ):
                with pytest.raises(
                    InputError, match=r"damaged: the answer to query q9?, key b'.+', was changed after it was"
                ):
                    read()


def test_replies_tell_which_execution_asked_and_which_came_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    for number in (1, 2):
        with closing(Ledger(path)) as ledger:
            assert ledger.execution == number
            ledger.add([(bytes([number]), "q", Reply(text="A"))])
            ledger.add([(bytes([number, 0]), "q", Reply(text="A"))], elsewhere=True)
    with closing(Ledger(path, read_only=True)) as ledger:
        recalled = ledger.recall([b"\1", b"\1\0", b"\2", b"\2\0"])
        assert [execution for _, execution in recalled.values()] == [1, 0, 2, 0]


@pytest.mark.slow
def test_the_write_ahead_log_stays_below_16_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        for batch in range(3):
            rows = (
                (hashlib.sha256(f"{batch} {i}".encode()).digest(), "q", Reply(text="é" * 300)) for i in range(20_000)
            )
            ledger.add(rows)
            assert path.with_name("ledger.sqlite-wal").stat().st_size < 16 << 20
        assert len(ledger) == 60_000


def test_a_locked_ledger_is_one_line_that_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "ledger.sqlite"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **more: connect(*words, **{"timeout": 0.1} | more))
    with closing(Ledger(path)) as ledger, closing(connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            R2llmError, match=r"database is locked; another program is using it; close that and run again"
        ):
            ledger.add([(b"k", "q", Reply(text="A"))])
        with pytest.raises(InputError, match="cannot be opened: database is locked; another program is using it"):
            Ledger(path)
        other.execute("ROLLBACK")
        ledger.add([(b"k", "q", Reply(text="A"))])
        assert len(ledger) == 1


@pytest.mark.parametrize("reply", [Reply(text="\ud800"), Reply(text="A", prompt_tokens=10**40)])
def test_what_no_database_can_hold_is_one_line_and_the_ledger_goes_on(reply: Reply) -> None:
    with closing(Ledger(None)) as ledger:
        with pytest.raises(R2llmError, match="ledger None: "):
            ledger.add([(b"k", "q", reply)])
        ledger.add([(b"k", "q", Reply(text="A"))])
        assert ledger.get(b"k") == Reply(text="A")


def test_another_programs_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "songs.sqlite"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (name)")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match="cannot be opened: no such table: replies"):
        Ledger(path)
    assert path.read_bytes() == before


def test_answers_that_were_given_otherwise_are_not_gone_on_with(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    model = {"backend": "openai", "model": "m"}
    ledger.adopt(as_findings(model, {"chat.answer_prefix": "sent"}))
    ledger.adopt(as_findings(model, {"chat.answer_prefix": "sent", "chat.top_logprobs": 20}))
    ledger.adopt(as_findings({"backend": "openai", "model": "other"}, {"chat.answer_prefix": "left out"}))
    with pytest.raises(InputError, match=r'answer_prefix "sent", and the server now answers with "left out"'):
        ledger.adopt(as_findings(model, {"chat.answer_prefix": "left out"}))
    assert list(ledger.lines()) == []
    ledger.close()
