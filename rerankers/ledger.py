"""The ledger: every reply a backend gave, on disk, under a key that hashes all that can change it.

It is the cache of repeated asks, what a killed run resumes from, and what a replay reads. Append-only SQLite: replies
are written in one transaction a batch, so a process that dies at any moment leaves whole batches behind. Every row has
a checksum, which is compared whenever the row is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from zlib import crc32

from .answers.reading import Reply
from .errors import InputError, R2llmError

COLUMNS = "key, query_id, text, scores, prompt_tokens, completion_tokens"
"""Those of the content; `checksum` and `execution` are about it."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS model (identity TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    key BLOB PRIMARY KEY,
    query_id TEXT NOT NULL,
    text TEXT,
    scores TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    checksum INTEGER,
    execution INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finished (query_id TEXT PRIMARY KEY, costs TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS findings (model TEXT, name TEXT, value TEXT, PRIMARY KEY (model, name)) WITHOUT ROWID;
"""

UPGRADE = f"""
BEGIN;
ALTER TABLE replies ADD COLUMN checksum INTEGER;
ALTER TABLE replies ADD COLUMN execution INTEGER;
UPDATE replies SET checksum = checksum({COLUMNS});
COMMIT;
"""  # noqa: S608
"""Gives a ledger of an earlier version what it lacks."""

ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Writes the lines: made once, because `json.dumps` makes one a call."""

Stored = tuple[bytes, str, str | None, str | None, int | None, int | None]
"""A row as it is stored: key, query id, text, scores as JSON, prompt and completion tokens."""

LOOK_UPS = 500
"""How many keys are looked up at once."""

PORTION = 1_000
"""How many rows one transaction writes at most."""

LOG_PAGES = 2_048
"""Pages of 4 KiB after which the write-ahead log is folded in: with the last transaction it stays below 16 MB."""

NO_CHECKSUMS = "NULL, NULL"
"""What is selected of a ledger that an earlier version wrote, beside the content."""

ELSEWHERE = 0
"""The `execution` of a reply that was taken from another run."""

REMEDIES = {
    sqlite3.SQLITE_BUSY: "another program is using it; close that and run again",
    sqlite3.SQLITE_LOCKED: "another program is using it; close that and run again",
    sqlite3.SQLITE_CANTOPEN: "check that it is there, and that its folder can be written",
    sqlite3.SQLITE_PERM: "make the file and its folder writable",
    sqlite3.SQLITE_READONLY: "make room or access and run again: all earlier answers are kept",
    sqlite3.SQLITE_FULL: "make room or access and run again: all earlier answers are kept",
    sqlite3.SQLITE_IOERR: "make room or access and run again: all earlier answers are kept",
}
"""What to do about an error of SQLite, by its primary code."""

DAMAGED = "restore it from a backup, or remove it to have all asked again"
"""What to do about every other one."""


class Ledger:
    """Replies by key. Whoever opens it to write begins an `execution` of the run, counted from 1.

    `path=None` keeps them in memory. An `immutable` file is one that nobody ever writes to: it is read without locks,
    which a network disk may not have. Raises `InputError` for a file that is no ledger.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, immutable: bool = False) -> None:
        self.path = path
        self.execution = ELSEWHERE
        self.claimed: set[bytes] = set()
        """Keys of earlier executions' replies that a query of this one has been charged with."""

        try:
            if read_only or immutable:
                how = "mode=ro&immutable=1" if immutable else "mode=ro"
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}" if path else ":memory:", uri=True)
                self._db.execute("SELECT key FROM replies LIMIT 1")
                if immutable:
                    self._db.execute("PRAGMA cache_size=-512")  # KiB: there may be many
            else:
                self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
                self._open_to_write()
            self._about = "checksum, execution" if self._has_checksums() else NO_CHECKSUMS
        except (sqlite3.Error, ValueError) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise InputError(f"ledger {path}: cannot be opened: {error}; {_remedy(error)}") from error

    def _open_to_write(self) -> None:
        tables = {str(row[0]) for row in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "replies" not in tables:
            raise sqlite3.DatabaseError("it is another program's database")
        self._db.execute("PRAGMA journal_mode=WAL")
        # A batch survives the death of the process; only the death of the machine can cost the last ones.
        self._db.execute("PRAGMA synchronous=NORMAL")
        # Keys are hashes, so look-ups touch pages all over the file: those of 500,000 answers stay in memory.
        self._db.execute("PRAGMA cache_size=-98304")
        self._db.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        self._db.executescript(SCHEMA)
        if not self._has_checksums():
            self._db.create_function("checksum", 6, _checksum, deterministic=True)
            self._db.executescript(UPGRADE)
        self.execution = int(self._db.execute("PRAGMA user_version").fetchone()[0]) + 1
        self._db.execute(f"PRAGMA user_version={self.execution}")

    def _has_checksums(self) -> bool:
        return "checksum" in {row[1] for row in self._db.execute("PRAGMA table_info(replies)")}

    def get(self, key: bytes) -> Reply | None:
        """The reply under a key, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """The replies under those keys that have one."""
        return {key: reply for key, (reply, _) in self.recall(keys).items()}

    def recall(self, keys: Sequence[bytes]) -> dict[bytes, tuple[Reply, int | None]]:
        """The replies under those keys that have one, each with the execution that was given it.

        That is `ELSEWHERE` where it came from another run, and None where an earlier version wrote it.
        """
        recalled: dict[bytes, tuple[Reply, int | None]] = {}
        for start in range(0, len(keys), LOOK_UPS):
            some = keys[start : start + LOOK_UPS]
            with self._reading():
                for row, execution in self._select(f"WHERE key IN ({','.join('?' * len(some))})", some):
                    recalled[row[0]] = (_reply(row), execution)
        return recalled

    def rows(self) -> Iterator[tuple[bytes, str, Reply]]:
        """Every (key, query id, reply), by ascending key. Raises `InputError` where one cannot be read."""
        with self._reading():
            for row in self.stored():
                yield row[0], row[1], _reply(row)

    def stored(self, *, checked: bool = True) -> Iterator[Stored]:
        """Every row as it is stored, by ascending key: several times as fast as `rows`.

        Raises `InputError` where one has columns of a wrong kind or, if it is `checked`, is not what was written.
        """
        for row, _ in self._select("ORDER BY key", checked=checked):
            yield row

    def _select(
        self, which: str, parameters: Sequence[bytes] = (), *, checked: bool = True
    ) -> Iterator[tuple[Stored, int | None]]:
        """The rows that an SQL clause chooses, each with its execution."""
        checked = checked and self._about != NO_CHECKSUMS
        with self._reading():
            sql = f"SELECT {COLUMNS}, {self._about} FROM replies {which}"  # noqa: S608
            for whole in self._db.execute(sql, parameters):
                row: Stored = whole[:6]
                if tuple(map(type, row)) not in ROWS:
                    raise TypeError(f"the row of key {row[0]!r} and query {row[1]!r} has columns of a wrong kind")
                if checked and whole[6] != _checksum(*row):
                    raise ValueError(f"the answer to query {row[1]}, key {row[0]!r}, was changed after it was written")
                yield row, whole[7]

    def lines(self, *, checked: bool = True) -> Iterator[str]:
        """The whole ledger as JSON lines: the models' identities, then every reply by ascending key.

        Ledgers of the same content have the same lines, however SQLite has laid them out.
        """
        for identity in self.models():
            yield ENCODER.encode({"model": identity}) + "\n"
        encode = ENCODER.encode
        for key, query_id, text, scores, *tokens in self.stored(checked=checked):
            said = "null" if text is None else encode(text)
            prompt_tokens, completion_tokens = ["null" if count is None else count for count in tokens]
            # The scores stand there as JSON: they are not read to be written again.
            yield (
                f'{{"key": "{key.hex()}", "query_id": {encode(query_id)}, "text": {said}, '
                f'"scores": {scores or "null"}, "prompt_tokens": {prompt_tokens}, '
                f'"completion_tokens": {completion_tokens}}}\n'
            )

    def digest(self) -> str:
        """The SHA-256 of `lines`, in hexadecimal: the content hash, also of a content that was changed."""
        digest = hashlib.sha256()
        for line in self.lines(checked=False):
            digest.update(line.encode())
        return digest.hexdigest()

    def faults(self) -> list[str]:
        """What SQLite's own check finds wrong with the file; empty where all is well."""
        with self._reading():
            found = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def copy_to(self, path: Path) -> None:
        """Write a compact copy to a file that is not there yet. Raises `InputError` where it cannot be written."""
        try:
            self._db.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.Error as error:
            raise InputError(f"ledger {self.path}: cannot be copied to {path}: {error}") from error

    def add(self, replies: Iterable[tuple[bytes, str, Reply]], *, elsewhere: bool = False) -> None:
        """Write a batch of (key, query id, reply). A key that is there keeps its first reply.

        `elsewhere` says that another run asked. Raises `R2llmError` where the disk does not take it; what was written
        before stays.
        """
        rows = [
            (
                key,
                query_id,
                reply.text,
                None if reply.scores is None else json.dumps(reply.scores),
                reply.prompt_tokens,
                reply.completion_tokens,
            )
            for key, query_id, reply in replies
        ]
        self.add_stored(rows, ELSEWHERE if elsewhere else self.execution)

    def add_stored(self, rows: Iterable[Stored], execution: int = 1) -> None:
        """Write rows as they are stored in another ledger, `PORTION` in one transaction; else as `add`."""
        source = iter(rows)
        while some := list(islice(source, PORTION)):
            with self._writing():
                self._db.execute("BEGIN")
                self._db.executemany(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [(*row, _checksum(*row), execution) for row in some],
                )
                self._db.execute("COMMIT")

    def finish(self, query_id: str, costs: str) -> None:
        """Keep what a query cost, now that it is done. Raises `R2llmError` as `add` does."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO finished VALUES (?, ?)", (query_id, costs))

    def finished(self) -> dict[str, str]:
        """What each query cost that is done, as it was kept."""
        with self._reading():
            return dict(self._db.execute("SELECT query_id, costs FROM finished"))

    def models(self) -> list[Mapping[str, object]]:
        """The identities of the models that answered."""
        with self._reading():
            return [json.loads(row[0]) for row in self._db.execute("SELECT identity FROM model ORDER BY identity")]

    def add_model(self, identity: Mapping[str, object]) -> None:
        """Note the identity of a model whose replies will be written. Raises `R2llmError` as `add` does."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO model VALUES (?)", (json.dumps(identity, sort_keys=True),))

    def agree(self, identity: Mapping[str, object], findings: Mapping[str, object]) -> None:
        """Note what was found out about a model's server that its answers depend on.

        Raises `InputError` where answers that are here were given otherwise.
        """
        model = json.dumps(identity, sort_keys=True)
        with self._writing():
            rows = [(model, name, json.dumps(value)) for name, value in findings.items()]
            self._db.executemany("INSERT OR IGNORE INTO findings VALUES (?, ?, ?)", rows)
        with self._reading():
            known = dict(self._db.execute("SELECT name, value FROM findings WHERE model = ?", (model,)))
        for _, name, value in rows:
            if known[name] != value:
                raise InputError(
                    f"ledger {self.path}: its answers were given with {name} {known[name]}, and the server now answers "
                    f"with {value}; go on with the server as it was, or begin anew with another --output"
                )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as error:
            what = str(error) if _remedy(error) != DAMAGED else f"damaged: {error}"
            raise InputError(f"ledger {self.path}: {what}; {_remedy(error)}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            raise R2llmError(f"ledger {self.path}: {error}; {_remedy(error)}") from error

    def __len__(self) -> int:
        with self._reading():
            return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Close the file.

        Nothing is left beside it, so that it can be read from a folder that cannot be written.
        """
        with contextlib.suppress(sqlite3.Error):  # someone else has it open, or it was opened to be read
            self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.close()


ROWS = {
    (bytes, str, text, scores, prompt_tokens, completion_tokens)
    for text in (str, type(None))
    for scores in (str, type(None))
    for prompt_tokens in (int, type(None))
    for completion_tokens in (int, type(None))
}
"""The kinds that the columns of a row may have."""


def _checksum(
    key: bytes,
    query_id: str,
    text: str | None,
    scores: str | None,
    prompt_tokens: int | None,
    completion_tokens: int | None,
) -> int:
    """The CRC-32 of a row's content."""
    content = f"{query_id}\0{text}\0{scores}\0{prompt_tokens}\0{completion_tokens}"
    return crc32(content.encode("utf-8", "surrogatepass"), crc32(key))


def _remedy(error: Exception) -> str:
    """What to do about an error of SQLite, or of what is read with it."""
    return REMEDIES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, DAMAGED)


def _reply(row: Stored) -> Reply:
    _, _, text, scores, prompt_tokens, completion_tokens = row
    return Reply(text, None if scores is None else tuple(json.loads(scores)), prompt_tokens, completion_tokens)
