"""Answers that runs share through a folder, also one on a network disk, at the same time.

The folder holds segments: small ledgers that appear all at once and never change, each called by the SHA-256 of its
bytes, so that a torn or foreign one is told by its name. They are read without the locks that a network disk may not
have. What a run takes is copied into its own ledger, so that it can be resumed, replayed and verified by itself.

Whoever publishes merges the small segments once there are `FAN_IN`, without agreement. No answer is lost by that: a
segment is removed only when another was seen that has all its keys and is greater by (number of answers, name). Since
"greater" goes in no circle, nobody removes the greatest of all that hold a key.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path

from .answers.reading import Reply
from .errors import InputError, R2llmError
from .hashing import file_digest
from .ledger import Findings, Ledger, Row
from .writing import replacing

SUFFIX = ".sqlite"

BATCH = 2_000
"""New answers that are published at once; fewer are after `PATIENCE` seconds."""

PATIENCE = 30.0

REFRESH = 5.0
"""Seconds between looks for new segments."""

SMALL = 4 << 20
"""Bytes below which a segment is merged with others, `FAN_IN` of them or more, in memory."""

FAN_IN = 16


class SharedLedger:
    """The answers in a folder, and this process's contributions to it.

    Raises `InputError` if the folder can neither be found nor made. Whatever fails later costs a segment or some
    sharing, and is noted once.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.folder = folder
        self.taken = self.published = 0
        """Answers read from here, and written here."""

        self.findings: Findings = {}
        """The behaviour of servers that this run's answers depend on, those taken included."""

        self._note = note
        self._noted: set[str] = set()
        self._open: dict[str, Ledger] = {}
        self._closed: set[str] = set()
        """Segments left out, and this process's own, whose answers the run has."""

        self._new = Ledger(None)
        self._looked = self._wrote = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            list(folder.iterdir())
        except OSError as error:
            raise InputError(f"shared_ledger: {folder}: {error.strerror}; name a folder that can be used") from error
        self._refresh()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """Return the published replies under those keys."""
        if keys and time.monotonic() - self._looked > REFRESH:
            self._refresh()
        replies = self._look_up(keys)
        self.taken += len(replies)
        return replies

    def add(self, replies: Iterable[Row], *models: Mapping[str, object]) -> None:
        """Take new replies of these models, to be published a while later with others."""
        self._new.add(replies)
        for model in models:
            self._new.add_model(model)
        if len(self._new) >= BATCH or time.monotonic() - self._wrote > PATIENCE:
            self.publish()

    def offer(self, ledger: Ledger) -> None:
        """Publish what a run's ledger has and nobody has published: it was killed before, or ran without this."""
        self.findings |= ledger.findings()
        rows = ledger.rows()
        while portion := list(islice(rows, BATCH)):
            known = self._look_up([key for key, *_ in portion])
            self.add((row for row in portion if row[0] not in known), *ledger.models())

    def publish(self) -> None:
        """Publish what was added since the last time."""
        self._wrote = time.monotonic()
        if not len(self._new):
            return
        new, self._new = self._new, Ledger(None)
        with self._tolerating("answers are not shared"), closing(new):
            new.adopt(self.findings)
            self._closed.add(self._put(new))
            self.published += len(new)
            with self._tolerating("segments are not merged"):
                self._tidy()

    def close(self) -> None:
        """Publish what is left, and let go of all segments."""
        self.publish()
        for ledger in (self._new, *self._open.values()):
            ledger.close()
        self._open.clear()

    def _look_up(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        replies: dict[bytes, Reply] = {}
        for name, ledger in list(self._open.items()):
            try:
                hits = ledger.recall([key for key in keys if key not in replies])
                for place, value in ledger.findings().items() if hits else ():
                    if (ours := self.findings.setdefault(place, value)) != value:
                        raise InputError(f"it was answered with {place[1]} {value}, and this run with {ours}")
                replies |= {key: reply for key, (reply, _) in hits.items()}
            except InputError as error:
                self._leave_out(name, error)
        return replies

    def _refresh(self) -> None:
        """Open the segments that have appeared, then let go of those that are gone: others have their answers."""
        self._looked = time.monotonic()
        with self._tolerating("segments of others are not seen"):
            names = {path.name for path in self.folder.iterdir() if path.suffix == SUFFIX}
            for name in sorted(names - self._open.keys() - self._closed):
                try:
                    self._open[name] = self._whole(name)
                except InputError as error:
                    if (self.folder / name).exists():  # else it was merged with others meanwhile
                        self._leave_out(name, error)
            for name in self._open.keys() - names:
                self._open.pop(name).close()

    def _whole(self, name: str) -> Ledger:
        """Open a segment. Raises `InputError` if it is torn, damaged or foreign."""
        if file_digest(self.folder / name) != name.removesuffix(SUFFIX):
            raise InputError("its name is not the SHA-256 of its content: it is torn, damaged or foreign")
        return Ledger(self.folder / name, immutable=True)

    def _leave_out(self, name: str, error: Exception) -> None:
        if name in self._open:
            self._open.pop(name).close()
        self._closed.add(name)
        self._say(f"segment {name} is left out", error)

    def _put(self, ledger: Ledger) -> str:
        """Let a segment of this content appear in the folder, all at once; return its name."""
        content = ledger.serialize()
        name = f"{hashlib.sha256(content).hexdigest()}{SUFFIX}"
        with replacing(self.folder / name) as temporary:
            temporary.write_bytes(content)
        return name

    def _tidy(self) -> None:
        """Merge the small segments once there are many."""
        small = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                if path.stat().st_size < SMALL:
                    small.append(path.name)
        if len(small) >= FAN_IN:
            self._merge(sorted(small))

    def _merge(self, names: Iterable[str]) -> None:
        """Replace whole segments, answered by servers that did the same, by one that has all their answers."""
        inputs: dict[str, Ledger] = {}
        findings = dict(self.findings)
        with ExitStack() as stack:
            for name in names:
                with suppress(InputError):  # gone, or damaged: whoever reads it will say so
                    ledger = stack.enter_context(closing(self._whole(name)))
                    if all(findings.setdefault(place, value) == value for place, value in ledger.findings().items()):
                        inputs[name] = ledger
            merged = stack.enter_context(closing(Ledger(None)))
            merged.join(list(inputs.values()))
            ranks = {name: (len(ledger), name) for name, ledger in inputs.items()}
            greatest = max(ranks.values(), default=(0, ""))
            if len(merged) > greatest[0]:
                greatest = (len(merged), self._put(merged))
            for name, rank in ranks.items():
                if rank < greatest:
                    (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def _tolerating(self, outcome: str) -> Iterator[None]:
        """Go on if the folder fails: an answer that is not shared costs time, nothing else."""
        try:
            yield
        except (OSError, R2llmError) as error:
            self._say(outcome, error)

    def _say(self, what: str, error: Exception) -> None:
        if what not in self._noted:
            self._noted.add(what)
            self._note(f"shared_ledger {self.folder}: {what}: {error}")
