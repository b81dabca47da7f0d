"""The ledger: every reply of a backend, on disk, under a key that hashes all that can change it.

It caches repeated asks, lets a killed run go on, and is what a replay reads: an SQLite file to which rows are only
added, a batch in one transaction, so that a process that dies at any moment leaves whole batches. Each row has a
checksum, which is compared whenever the row is read.
"""

import hashlib
import heapq
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from .answers.reading import Reply
from .errors import InputError, R2llmError

if TYPE_CHECKING:
    from .shared_ledger import SharedLedger

SCHEMA = """
CREATE TABLE IF NOT EXISTS model (identity TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (key BLOB PRIMARY KEY, query_id TEXT NOT NULL, text TEXT, scores TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, checksum INTEGER, execution INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finished (query_id TEXT PRIMARY KEY, costs TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS findings (model TEXT, name TEXT, value TEXT, PRIMARY KEY (model, name)) WITHOUT ROWID;
"""

KNOWN = "SELECT checksum, execution FROM replies LIMIT 1"
"""Fails in what is no ledger, and in one of before there were these columns, which are about the content."""

ENCODE = json.JSONEncoder(ensure_ascii=False).encode

Row = tuple[bytes, str, Reply]
"""A key, the query that asked first, and the reply."""

Findings = dict[tuple[str, str], str]
"""Behaviour of servers that answers depend on: (model, name) → value; model and value are JSON."""

LOOK_UPS = 500
"""Keys in one SELECT."""

PORTION = 1_000
"""Rows in one transaction, at most."""

ELSEWHERE = 0
"""The `execution` of a reply from another run."""

BUSY = "another program is using it; close that and run again"
BLOCKED = "make room or access and run again: all earlier answers are kept"
DAMAGED = "restore it from a backup, or remove it to have all asked again"

REMEDIES = {
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), BUSY),
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR), BLOCKED),
    sqlite3.SQLITE_CANTOPEN: "check that it is there, and that its folder can be written",
    sqlite3.SQLITE_PERM: "make the file and its folder writable",
}
"""Remedies for an error of SQLite, by its primary code; `DAMAGED` about every other error."""


class Ledger:
    """Replies by key. Opening it to write begins an `execution` of the run, counted from 1.

    `path=None` keeps them in memory. An `immutable` file is one that nobody ever writes to: it is read without locks,
    which a network disk may not have. Raises `InputError` for a file that is no ledger.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, immutable: bool = False) -> None:
        self.path = path
        self.execution = ELSEWHERE
        self.claimed: set[bytes] = set()
        """Keys of earlier executions' replies that a query of this one has been charged with."""

        self.shared: SharedLedger | None = None
        """Answers of other runs; those taken are copied, so that this one can be resumed and verified by itself."""

        try:
            if path and (read_only or immutable):
                mode = "?mode=ro&immutable=1" if immutable else "?mode=ro"
                self._db = sqlite3.connect(path.absolute().as_uri() + mode, uri=True)
                self._db.execute(KNOWN)
                self._db.execute(f"PRAGMA cache_size={-512 if immutable else -8192}")  # KiB: many segments are open
            else:
                self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
                self._open_to_write()
        except (sqlite3.Error, ValueError) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise InputError(f"ledger {path}: cannot be opened: {error}; {_remedy(error)}") from error

    def _open_to_write(self) -> None:
        if self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._db.execute(KNOWN)
        self._db.execute("PRAGMA journal_mode=WAL")
        # A batch survives the death of the process; only the death of the machine can cost the last ones.
        self._db.execute("PRAGMA synchronous=NORMAL")
        # Keys are hashes, so look-ups touch pages all over the file: those of 500,000 answers stay in memory.
        self._db.execute("PRAGMA cache_size=-98304")
        self._db.execute("PRAGMA wal_autocheckpoint=2048")  # pages of 4 KiB: the log stays below 16 MB
        self._db.executescript(SCHEMA)
        self.execution = int(self._db.execute("PRAGMA user_version").fetchone()[0]) + 1
        self._db.execute(f"PRAGMA user_version={self.execution}")

    def get(self, key: bytes) -> Reply | None:
        """Return the reply under a key, or None."""
        reply, _ = self.recall([key]).get(key, (None, ELSEWHERE))
        return reply

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Reply, int]]:
        """Return the replies under those keys that have one, and the execution that received each, or `ELSEWHERE`."""
        recalled: dict[bytes, tuple[Reply, int]] = {}
        for start in range(0, len(keys), LOOK_UPS):
            portion = keys[start : start + LOOK_UPS]
            for row in self._select(f"WHERE key IN ({','.join('?' * len(portion))})", portion):
                recalled[row[0]] = (_reply(row), row[7])
        return recalled

    def rows(self) -> Iterator[Row]:
        """Yield every row, by ascending key. Raises `InputError` for one that cannot be read."""
        for row in self._select("ORDER BY key"):
            yield row[0], row[1], _reply(row)

    def _select(self, clause: str, keys: Sequence[bytes] = (), *, checked: bool = True) -> Iterator[Any]:
        """Yield rows as stored. Raises `InputError` for one that was changed later, unless it is not `checked`."""
        with self._guard():
            for row in self._db.execute(f"SELECT * FROM replies {clause}", keys):  # noqa: S608
                if checked and row[6] != _checksum(*row[:6]):
                    raise ValueError(f"the answer to query {row[1]}, key {row[0]!r}, was changed after it was written")
                yield row

    def lines(self, *, checked: bool = True) -> Iterator[str]:
        """Yield the ledger as JSON lines: the models' identities, then every reply by ascending key.

        Ledgers of the same content have the same lines, however SQLite has laid them out.
        """
        with self._guard():
            for identity in self.models():
                yield ENCODE({"model": identity}) + "\n"
            for key, query_id, text, scores, *tokens, _, _ in self._select("ORDER BY key", checked=checked):
                said = "null" if text is None else ENCODE(text)
                prompt_tokens, completion_tokens = ["null" if count is None else count for count in tokens]
                # The scores are stored as JSON: they are not read to be written again.
                yield (
                    f'{{"key": "{key.hex()}", "query_id": {ENCODE(query_id)}, "text": {said}, '
                    f'"scores": {scores or "null"}, "prompt_tokens": {prompt_tokens}, '
                    f'"completion_tokens": {completion_tokens}}}\n'
                )

    def digest(self) -> str:
        """Return the content hash: the SHA-256 of `lines`, in hexadecimal, of a changed content too."""
        digest = hashlib.sha256()
        for line in self.lines(checked=False):
            digest.update(line.encode())
        return digest.hexdigest()

    def faults(self) -> list[str]:
        """Return the findings of SQLite's integrity check; none for a sound file."""
        with self._guard():
            faults = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        return [] if faults == ["ok"] else faults

    def serialize(self) -> bytes:
        """Return the bytes of the SQLite file that has this content."""
        return self._db.serialize()

    def copy_to(self, path: Path) -> None:
        """Write a compact copy to a file that is not there yet. Raises `InputError` if it cannot be written."""
        with self._guard():
            self._db.execute("VACUUM INTO ?", (str(path),))

    def add(self, replies: Iterable[Row], *, elsewhere: bool = False) -> None:
        """Write (key, query id, reply) of this execution, or of another run; a key keeps its first reply.

        Raises `R2llmError` if the disk does not take them; what was written before stays.
        """
        rows = (
            (key, query_id, r.text, json.dumps(r.scores) if r.scores else None, r.prompt_tokens, r.completion_tokens)
            for key, query_id, r in replies
        )
        self._add(rows, ELSEWHERE if elsewhere else self.execution)

    def _add(self, rows: Iterable[tuple[Any, ...]], execution: int) -> None:
        source = iter(rows)
        while portion := list(islice(source, PORTION)):
            self._write("replies", [(*row, _checksum(*row), execution) for row in portion])

    def join(self, ledgers: Sequence["Ledger"], order: Mapping[str, int] | None = None) -> int:
        """Write all that other ledgers hold; return the number of keys that they answer differently.

        Such a key gets the reply of the first query by `order`, or that of the first ledger. Raises `InputError` if
        servers did not answer on the same terms (see `adopt`).
        """
        positions, differing = order or {}, 0

        def first_replies() -> Iterator[tuple[Any, ...]]:
            nonlocal differing
            merged = heapq.merge(*(ledger._select("ORDER BY key") for ledger in ledgers), key=itemgetter(0))
            for _, group in groupby(merged, key=itemgetter(0)):
                first, *others = sorted(group, key=lambda row: positions.get(row[1], len(positions)))
                differing += any(row[2:6] != first[2:6] for row in others)
                yield first[:6]

        for ledger in ledgers:
            self.adopt(ledger.findings())
            self._write("model", ledger._table("model"))
        self._add(first_replies(), execution=1)
        return differing

    def finish(self, query_id: str, costs: str) -> None:
        """Keep the costs of a query that is done. Raises `R2llmError` as `add` does."""
        self._write("finished", [(query_id, costs)], "REPLACE")

    def finished(self) -> dict[str, str]:
        """Return the costs of each query that is done, as they were kept."""
        return dict(self._table("finished"))

    def models(self) -> list[Mapping[str, object]]:
        """Return the identities of the models that answered."""
        with self._guard():
            return [json.loads(identity) for (identity,) in self._table("model")]

    def add_model(self, identity: Mapping[str, object]) -> None:
        """Note the identity of a model whose replies will be written. Raises `R2llmError` as `add` does."""
        row = (json.dumps(identity, sort_keys=True),)
        if row not in self._table("model"):  # else nothing would be written, which also a read-only ledger allows
            self._write("model", [row])

    def findings(self) -> Findings:
        """Return what the servers did that answers here depend on."""
        return {(model, name): value for model, name, value in self._table("findings")}

    def adopt(self, findings: Findings) -> None:
        """Note what servers do. Raises `InputError` if answers here were given otherwise."""
        self._write("findings", [(*place, value) for place, value in findings.items()])
        known = self.findings()
        for (model, name), value in findings.items():
            if known[model, name] != value:
                raise InputError(
                    f"ledger {self.path}: its answers were given with {name} {known[model, name]}, and the server now "
                    f"answers with {value}; go on with the server as it was, or begin anew with another --output"
                )

    def _write(self, table: str, rows: Sequence[tuple[object, ...]], otherwise: str = "IGNORE") -> None:
        """Write rows in one transaction; of a key that is there already, IGNORE them or REPLACE what is there."""
        if rows:
            insert = f"INSERT OR {otherwise} INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608
            with self._guard(writing=True):
                self._db.execute("BEGIN")
                self._db.executemany(insert, rows)
                self._db.execute("COMMIT")

    def _table(self, name: str) -> list[Any]:
        """Return the rows of a small table by key."""
        with self._guard():
            return [*self._db.execute(f"SELECT * FROM {name} ORDER BY 1")]  # noqa: S608

    @contextmanager
    def _guard(self, *, writing: bool = False) -> Iterator[None]:
        """Raise `R2llmError` for what cannot be written, `InputError` for what cannot be read, with the remedy."""
        try:
            yield
        except (sqlite3.Error, OverflowError, ValueError, TypeError, AttributeError) as error:
            with suppress(sqlite3.Error):
                self._db.rollback()
            damaged = "damaged: " if _remedy(error) == DAMAGED and not writing else ""
            message = f"ledger {self.path}: {damaged}{error}; {_remedy(error)}"
            raise (R2llmError if writing else InputError)(message) from error

    def __len__(self) -> int:
        with self._guard():
            return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Close the file; no other is left beside it, so that it can be read from a folder that cannot be written."""
        with suppress(sqlite3.Error):  # someone else has it open, or it was opened to be read
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()


def as_findings(identity: Mapping[str, object], findings: Mapping[str, object]) -> Findings:
    """Return findings about a model's server as a ledger stores them."""
    model = json.dumps(identity, sort_keys=True)
    return {(model, name): json.dumps(value) for name, value in findings.items()}


def _checksum(key: bytes, query_id: str, text: str | None, scores: str | None, *tokens: int | None) -> int:
    """Return the CRC-32 of a row's content."""
    content = f"{query_id}\0{text}\0{scores}\0{tokens[0]}\0{tokens[1]}"
    return crc32(content.encode("utf-8", "surrogatepass"), crc32(key))


def _remedy(error: Exception) -> str:
    return REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, DAMAGED)


def _reply(row: Sequence[Any]) -> Reply:
    _, _, text, scores, prompt_tokens, completion_tokens, *_ = row
    return Reply(text, None if scores is None else tuple(json.loads(scores)), prompt_tokens, completion_tokens)
