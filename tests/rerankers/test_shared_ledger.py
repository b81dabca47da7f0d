"""The shared ledger: what one process answers another need not ask, whatever else happens in the folder."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from r2llm.rerankers import shared_ledger
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends.base import Request
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ledger import Ledger, as_findings
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.shared_ledger import SharedLedger

MODEL = {"backend": "rule"}

HAMMER = """
import random, sys
from pathlib import Path
from r2llm.rerankers import shared_ledger
from r2llm.rerankers.answers.reading import Reply

shared_ledger.BATCH, shared_ledger.FAN_IN, shared_ledger.REFRESH = 15, 3, 0.0
folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shared = shared_ledger.SharedLedger(folder, lambda note: print(note, flush=True))
keys = [number.to_bytes(16) for number in range(count)]
random.Random(seed).shuffle(keys)
for start in range(0, count, 5):
    some = keys[start : start + 5]
    found = shared.get_many(some)
    assert all(reply.text == key.hex() for key, reply in found.items())
    rows = [(key, f"q{seed}", Reply(text=key.hex())) for key in some if key not in found]
    shared.add(rows, {"backend": "rule"})
shared.close()
"""


def key(number: int) -> bytes:
    return number.to_bytes(16)


def rows(numbers: Sequence[int]) -> list[shared_ledger.Row]:
    return [(key(number), f"q{number}", Reply(text=str(number), prompt_tokens=number)) for number in numbers]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sqlite"))


def held(folder: Path) -> set[int]:
    """All answers in a folder, by a fresh look."""
    found: set[int] = set()
    for path in segments(folder):
        with closing(Ledger(path, immutable=True)) as ledger:
            found |= {int.from_bytes(key) for key, *_ in ledger.rows()}
    return found


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def joining(tmp_path: Path, notes: list[str], monkeypatch) -> Iterator[Callable[[], SharedLedger]]:
    """Open the shared ledger once more, as another process would; it looks for new segments each time."""
    monkeypatch.setattr(shared_ledger, "REFRESH", -1.0)
    opened: list[SharedLedger] = []

    def join() -> SharedLedger:
        opened.append(SharedLedger(tmp_path / "shared", notes.append))
        return opened[-1]

    yield join
    for each in opened:
        with suppress(InputError):  # it is closed already
            each.close()


def published(join: Callable[[], SharedLedger], numbers: Sequence[int]) -> None:
    with closing(join()) as shared:
        shared.add(rows(numbers), MODEL)


def test_what_one_publishes_another_finds(joining, tmp_path: Path, notes) -> None:
    one, other = joining(), joining()
    one.add(rows([1, 2]), MODEL)
    assert other.get_many([key(1)]) == {}
    one.publish()
    assert other.get_many([key(1), key(3)]) == {key(1): Reply(text="1", prompt_tokens=1)}
    assert (one.published, one.taken, other.taken) == (2, 0, 1)
    assert joining().get_many([key(2)]).keys() == {key(2)}
    assert notes == []


def test_a_segment_is_a_closed_ledger_named_by_its_content(joining, tmp_path: Path) -> None:
    published(joining, [1, 2, 3])
    [path] = segments(tmp_path / "shared")
    assert {each.name for each in path.parent.iterdir()} == {path.name}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert joining().get_many([key(2)])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert {each.name for each in path.parent.iterdir()} == {path.name}
    with closing(Ledger(path, read_only=True)) as ledger:
        assert ledger.models() == [MODEL]
        assert ledger.faults() == []


def test_answers_are_published_when_there_are_many_or_time_has_passed(joining, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shared_ledger, "BATCH", 3)
    shared = joining()
    shared.add(rows([1, 2]), MODEL)
    assert segments(tmp_path / "shared") == []
    shared.add(rows([3]), MODEL)
    assert held(tmp_path / "shared") == {1, 2, 3}
    monkeypatch.setattr(shared_ledger, "PATIENCE", -1.0)
    shared.add(rows([4]), MODEL)
    assert held(tmp_path / "shared") == {1, 2, 3, 4}


@pytest.mark.parametrize("harm", ["cut", "flipped", "empty", "text", "named by hand", "a database of something else"])
def test_what_is_no_whole_segment_is_left_out_and_noted_once(joining, tmp_path: Path, notes, harm: str) -> None:
    published(joining, [1, 2])
    [path] = segments(tmp_path / "shared")
    content = path.read_bytes()
    published(joining, [3])
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif harm in ("empty", "text"):
        path.write_bytes(b"" if harm == "empty" else b"no database")
    elif harm == "named by hand":
        path.rename(path.with_name("mine.sqlite"))
    else:
        other = b"not a ledger but named as one"
        path.unlink()
        path.with_name(f"{hashlib.sha256(other).hexdigest()}.sqlite").write_bytes(other)
    shared = joining()
    assert shared.get_many([key(1), key(3)]).keys() == {key(3)}
    assert shared.get_many([key(1), key(3)]).keys() == {key(3)}
    assert len(notes) == 1
    assert "is left out" in notes[0]


def test_other_files_are_left_alone(joining, tmp_path: Path, notes) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "README").write_text("ours")
    (folder / ".half.tmp").write_text("being written")
    published(joining, [1])
    assert {path.name for path in folder.iterdir()} >= {"README", ".half.tmp"}
    assert notes == []


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="name a folder"):
        SharedLedger(tmp_path / "file", print)


def test_a_folder_that_goes_away_costs_nothing_but_time(joining, tmp_path: Path, notes) -> None:
    published(joining, [1])
    shared = joining()
    shutil.rmtree(tmp_path / "shared")
    for number in (2, 3):
        shared.add(rows([number]), MODEL)
        shared.publish()
        assert shared.get_many([key(7)]) == {}
    assert {note.split(": ")[1] for note in notes} == {"answers are not shared", "segments of others are not seen"}
    assert len(notes) == 2


# Merging segments


def test_many_small_segments_become_one_and_nothing_is_lost(joining, tmp_path: Path, monkeypatch, notes) -> None:
    monkeypatch.setattr(shared_ledger, "FAN_IN", 4)
    published(joining, [0])
    reader = joining()
    for number in range(1, 12):
        published(joining, [number, number + 1])
        assert held(tmp_path / "shared") == set(range(number + 2))
        assert len(segments(tmp_path / "shared")) < 4
        assert reader.get_many([key(0)]).keys() == {key(0)}
    assert reader.get_many([key(i) for i in range(13)]).keys() == {key(i) for i in range(13)}
    assert notes == []


def test_a_segment_that_was_opened_before_it_was_merged_still_answers(joining, tmp_path: Path, monkeypatch) -> None:
    published(joining, [1])
    reader = joining()
    monkeypatch.setattr(shared_ledger, "REFRESH", 1000.0)
    monkeypatch.setattr(shared_ledger, "FAN_IN", 2)
    [before] = segments(tmp_path / "shared")
    published(joining, [2])
    assert before not in segments(tmp_path / "shared")
    assert reader.get_many([key(1)]).keys() == {key(1)}


def test_whoever_merges_what_in_whatever_order_nothing_is_lost(joining, tmp_path: Path) -> None:
    """Mergers that have seen other states of the folder, also ones that are gone; replies may differ under one key."""
    chance = random.Random(7)
    mergers = [joining() for _ in range(4)]
    listings: list[list[str]] = [[] for _ in mergers]
    expected: set[int] = set()
    for _ in range(30):
        numbers = chance.sample(range(40), chance.randint(1, 6))
        with closing(joining()) as writer:
            said = [(key(number), "q", Reply(text=str(chance.random()))) for number in numbers]
            writer.add(said, MODEL)
        expected |= set(numbers)
        number = chance.randrange(len(mergers))
        listings[number] = sorted(path.name for path in segments(tmp_path / "shared"))
        number = chance.randrange(len(mergers))
        some = chance.sample(listings[number], min(len(listings[number]), chance.randint(0, 5)))
        mergers[number]._merge(sorted(some))
        assert held(tmp_path / "shared") == expected
    assert len(segments(tmp_path / "shared")) < 30


def test_a_damaged_segment_is_not_merged_away(joining, tmp_path: Path, monkeypatch) -> None:
    published(joining, [1])
    [damaged] = segments(tmp_path / "shared")
    damaged.write_bytes(b"torn")
    monkeypatch.setattr(shared_ledger, "FAN_IN", 2)
    published(joining, [2])
    published(joining, [3])
    assert damaged.read_bytes() == b"torn"
    whole = [path for path in segments(tmp_path / "shared") if path != damaged]
    assert len(whole) == 1


def test_answers_of_servers_that_did_other_things_are_neither_mixed_nor_merged(
    joining, tmp_path: Path, monkeypatch, notes
) -> None:
    monkeypatch.setattr(shared_ledger, "FAN_IN", 2)
    for number, prefix in enumerate(("sent", "left out", "sent")):
        with closing(joining()) as shared:
            shared.findings |= as_findings(MODEL, {"chat.answer_prefix": prefix})
            shared.add(rows([number]), MODEL)
    assert len(segments(tmp_path / "shared")) == 2
    assert held(tmp_path / "shared") == {0, 1, 2}
    with closing(joining()) as shared, closing(Ledger(None)) as own:
        shared.findings |= as_findings(MODEL, {"chat.answer_prefix": "sent"})
        shared.add(rows([3]), MODEL)
        assert shared.get_many([key(0), key(1)]).keys() == {key(0)}
        assert [note.split(": ", 2)[2] for note in notes] == [
            'it was answered with chat.answer_prefix "left out", and this run with "sent"'
        ]
        own.adopt(shared.findings)
        with pytest.raises(InputError, match="the server now answers with"):
            own.adopt(as_findings(MODEL, {"chat.answer_prefix": "left out"}))


# Through the scheduler


def test_answers_of_others_are_copied_and_count_as_cached(joining, rule_backend, make_candidates) -> None:
    def reply(request: Request) -> Reply:
        return Reply(scores=tuple(float(-i) for i in range(len(request.ask.docs))), prompt_tokens=5)

    def ranked(shared: SharedLedger | None, pooled: bool = True) -> tuple[object, Ledger]:
        ledger = Ledger(None)
        ranker = shared_ledger_ranker()
        ledger.shared = shared if pooled else None
        scheduler = Scheduler(ranker, rule_backend(reply), ledger, pooled=pooled)
        [(ranking, cost)] = scheduler.rank([make_candidates(4)])
        return (ranking, cost), ledger

    one, other = joining(), joining()
    (first, asked), own = ranked(one)
    one.publish()
    (second, cached), copy = ranked(other)
    with closing(own), closing(copy):
        assert first == second
        assert (asked.calls, cached.calls, cached.cached) == (asked.asks, 0, asked.asks)
        assert (asked.prompt_tokens, asked.rounds) == (cached.prompt_tokens, cached.rounds)
        assert own.digest() == copy.digest()


def shared_ledger_ranker():
    from r2llm.rerankers.ranker import Ranker

    return Ranker.create({"method": "setwise.heapsort", "k": 2})


def test_a_runs_own_answers_are_offered_once(joining, tmp_path: Path) -> None:
    with closing(Ledger(None)) as own:
        own.add_model(MODEL)
        own.add(rows(range(5)))
        published(joining, [1, 3])
        for _ in range(2):
            with closing(joining()) as shared:
                shared.offer(own)
    assert held(tmp_path / "shared") == set(range(5))
    counts = []
    for path in segments(tmp_path / "shared"):
        with closing(Ledger(path, immutable=True)) as ledger:
            counts.append((len(ledger), ledger.models()))
    assert sorted(counts, key=lambda each: each[0]) == [(2, [MODEL]), (3, [MODEL])]


# Through real processes


def test_several_processes_at_once_one_of_which_is_killed(tmp_path: Path) -> None:
    """Each asks for all keys in an order of its own, answers what nobody has, publishes and merges all the time."""
    folder, count = tmp_path / "shared", 300
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HAMMER, str(folder), str(seed), str(count)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in range(4)
    ]
    while not (folder.is_dir() and segments(folder)) and processes[0].poll() is None:
        pass
    processes[0].send_signal(signal.SIGKILL)
    for process in processes:
        out, err = process.communicate(timeout=120)
        if process is not processes[0]:
            assert (process.returncode, out, err) == (0, "", "")
    assert held(folder) == set(range(count))
    for path in segments(folder):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        with closing(Ledger(path, immutable=True)) as ledger:
            assert all(reply.text == found.hex() for found, _, reply in ledger.rows())
            assert [json.dumps(model) for model in ledger.models()] == [json.dumps(MODEL)]
