"""Answers that several runs share through a folder, also one on a network disk, at the same time.

The folder holds segments: ledgers (see `ledger`) that are closed before they appear and never change afterwards. A run
publishes its new answers as a segment, which appears under its name all at once; it opens those of others to be read
only, without the locks and the shared memory that SQLite has on one machine alone. What is taken from here is copied
into the run's own ledger, so that a run can be resumed, replayed and verified by itself.

A segment is called by the SHA-256 of its bytes: one that is torn, damaged or foreign is told by its name and left out.
Small segments are merged into larger ones, by whichever process comes upon them and without agreement. No answer is
lost by that: a segment is removed only when another one was seen that has all its keys and is greater by (number of
answers, name). Since "greater" goes in no circle, the greatest one of all that hold a key is removed by nobody.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

from .answers.reading import Reply
from .errors import InputError, R2llmError
from .hashing import file_digest
from .ledger import Ledger, Stored

Row = tuple[bytes, str, Reply]
"""A key, the query that asked first, and the reply."""

SUFFIX = ".sqlite"

BATCH = 2_000
"""So many new answers are published at once."""

PATIENCE = 30.0
"""Seconds after which fewer are published too."""

REFRESH = 5.0
"""Seconds between looks for new segments."""

TIERS = (1 << 20, 16 << 20)
"""Segments below each of these sizes, in bytes, are merged with others of their tier; greater ones are left alone."""

FAN_IN = 16
"""So many segments of a tier are merged."""

TURN = 600.0
"""Seconds after which a process that merges is taken for dead."""

STALE = 24 * 3600.0
"""Seconds after which a file that was being written is taken for one of a process that died."""


class SharedLedger:
    """The answers in a folder, and this process's own contributions to it.

    Raises `InputError` where the folder can neither be found nor made. Nothing that goes wrong later does more than
    leave out a segment, which `note` is told of once.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder = folder
        self.taken = 0
        """Answers that were found here."""

        self.published = 0
        """Answers that were written here."""

        self._note = note
        self._noted: set[str] = set()
        self._open: dict[str, Ledger] = {}
        self._left_out: set[str] = set()
        self._new: list[Row] = []
        self._models: list[Mapping[str, object]] = []
        self._looked = self._wrote = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            list(folder.iterdir())
        except OSError as error:
            raise InputError(f"shared_ledger: {folder}: {error.strerror}; name a folder that can be used") from error
        self._refresh()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """The replies under those keys that somebody has published."""
        if keys and time.monotonic() - self._looked > REFRESH:
            self._refresh()
        found = self._look_up(keys)
        self.taken += len(found)
        return found

    def add(self, replies: Iterable[Row], model: Mapping[str, object]) -> None:
        """Take a model's new replies; they are published a while later, with others."""
        self._new += replies
        if model not in self._models:
            self._models.append(model)
        if len(self._new) >= BATCH or (self._new and time.monotonic() - self._wrote > PATIENCE):
            self.publish()

    def offer(self, ledger: Ledger) -> None:
        """Publish what a run's own ledger has and nobody has published: it was killed before, or ran without this."""
        rows = ledger.rows()
        while some := list(islice(rows, BATCH)):
            known = self._look_up([key for key, *_ in some])
            missing = [row for row in some if row[0] not in known]
            for model in ledger.models() if missing else ():
                self.add([], model)
            self._new += missing
            if len(self._new) >= BATCH:
                self.publish()

    def publish(self) -> None:
        """Publish what was added since the last time."""
        rows, self._new = self._new, []
        self._wrote = time.monotonic()
        if not rows:
            return
        rows.sort(key=lambda row: row[0])
        with self._at_work("answers are not shared"), tempfile.TemporaryDirectory() as folder:
            segment = Path(folder) / f"segment{SUFFIX}"
            with closing(Ledger(segment)) as ledger:
                for model in self._models:
                    ledger.add_model(model)
                ledger.add(rows)
            self._left_out.add(self._put(segment))  # this run has them itself
            self.published += len(rows)
            with self._at_work("segments are not merged"):
                self._merge_small_ones()

    def close(self) -> None:
        """Publish what is left, and let go of all segments."""
        self.publish()
        for ledger in self._open.values():
            ledger.close()
        self._open.clear()

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        found: dict[bytes, Reply] = {}
        for name in list(self._open):
            missing = [key for key in keys if key not in found]
            if not missing:
                break
            try:
                found |= self._open[name].get_many(missing)
            except InputError as error:
                self._leave_out(name, error)
        return found

    def _refresh(self) -> None:
        """Open the segments that have appeared, then let go of those that are gone: others have their answers."""
        self._looked = time.monotonic()
        with self._at_work("segments of others are not seen"):
            names = {path.name for path in self.folder.iterdir() if path.suffix == SUFFIX}
            for name in sorted(names - self._open.keys() - self._left_out):
                try:
                    self._open[name] = self._checked(name)
                except InputError as error:
                    if (self.folder / name).exists():  # else it was merged with others meanwhile
                        self._leave_out(name, error)
            for name in self._open.keys() - names:
                self._open.pop(name).close()

    def _checked(self, name: str) -> Ledger:
        """A segment, opened to be read. Raises `InputError` where it is none, or not whole."""
        if file_digest(self.folder / name) != name.removesuffix(SUFFIX):
            raise InputError("its name is not the SHA-256 of its content: it is torn, damaged or foreign")
        return Ledger(self.folder / name, immutable=True)

    def _leave_out(self, name: str, error: Exception) -> None:
        if name in self._open:
            self._open.pop(name).close()
        self._left_out.add(name)
        self._say(f"segment {name} is left out", error)

    def _put(self, segment: Path) -> str:
        """Let a finished segment appear in the folder, all at once; return its name."""
        name = f"{file_digest(segment, remember=False)}{SUFFIX}"
        target = self.folder / name
        if target.exists():
            return name
        temporary = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with segment.open("rb") as source, temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        # Before a segment that it replaces is removed, its name must be on the disk as well as its content.
        with contextlib.suppress(OSError):
            entries = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(entries)
            finally:
                os.close(entries)
        return name

    def _merge_small_ones(self) -> None:
        """Merge the segments of each tier that has become full, and clear away what dead processes left half done."""
        tiers: dict[int, list[str]] = {}
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == SUFFIX:
                    tier = sum(status.st_size >= size for size in TIERS)
                    tiers.setdefault(tier, []).append(path.name)
                elif path.suffix == ".tmp" and time.time() - status.st_mtime > STALE:
                    path.unlink()
        full = [names for tier, names in sorted(tiers.items()) if tier < len(TIERS) and len(names) >= FAN_IN]
        if full:
            with self._turn() as ours:
                for names in full if ours else ():
                    self._merge(sorted(names))

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """Whether it is for this process to merge. If two do, which may happen, the work is done twice, and no harm."""
        sign = self.folder / ".merging"
        try:
            os.close(os.open(sign, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - sign.stat().st_mtime > TURN:
                    sign.unlink()
            yield False
            return
        try:
            yield True
        finally:
            sign.unlink(missing_ok=True)

    def _merge(self, names: Sequence[str]) -> None:
        """Replace whole segments by one that has all their answers."""
        with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
            inputs: dict[str, Ledger] = {}
            for name in names:
                with contextlib.suppress(InputError):  # gone, or damaged: whoever reads it will say so
                    inputs[name] = stack.enter_context(closing(self._checked(name)))
            merged = Path(folder) / f"segment{SUFFIX}"
            models = [model for ledger in inputs.values() for model in ledger.models()]
            count = _write(merged, models, _distinct([ledger.stored() for ledger in inputs.values()]))
            ranks = {name: (len(ledger), name) for name, ledger in inputs.items()}
            if not ranks:
                return
            greatest = max(ranks.values())
            if count > greatest[0]:
                greatest = (count, self._put(merged))
            for name, rank in ranks.items():
                if rank < greatest:
                    (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _at_work(self, otherwise: str) -> Iterator[None]:
        """Go on where the folder or the temporary one fails: an answer that is not shared costs time, nothing else."""
        try:
            yield
        except (OSError, sqlite3.Error, R2llmError) as error:
            self._say(otherwise, error)

    def _say(self, what: str, error: Exception) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._note(f"shared_ledger {self.folder}: {what}: {error}")


def _write(path: Path, models: Iterable[Mapping[str, object]], rows: Iterator[Stored]) -> int:
    """Write a segment from rows by ascending key; how many there are."""
    with closing(Ledger(path)) as segment:
        for model in models:
            segment.add_model(model)
        while some := list(islice(rows, BATCH)):
            segment.add_stored(some)
        return len(segment)


def _distinct(ledgers: Sequence[Iterator[Stored]]) -> Iterator[Stored]:
    """The rows of several ledgers by ascending key, the first one of each key."""
    last = None
    for row in heapq.merge(*ledgers, key=lambda row: row[0]):
        if row[0] != last:
            last = row[0]
            yield row
