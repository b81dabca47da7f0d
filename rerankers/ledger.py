"""The ledger: every reply a backend gave, on disk, under a key that hashes all that can change it.

It is the cache of repeated asks, what a killed run resumes from, and what a replay reads. Append-only SQLite: replies
are written in one transaction a batch, so a process that dies at any moment leaves whole batches behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from .errors import InputError, R2llmError
from .prompts.answers import Reply

SCHEMA = """
CREATE TABLE IF NOT EXISTS model (identity TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replies (
    key BLOB PRIMARY KEY,
    query_id TEXT NOT NULL,
    text TEXT,
    scores TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER
) WITHOUT ROWID;
"""

ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Writes the lines: made once, because `json.dumps` makes one a call."""

Stored = tuple[bytes, str, str | None, str | None, int | None, int | None]
"""A row as it is stored: key, query id, text, scores as JSON, prompt and completion tokens."""

LOOK_UPS = 500
"""How many keys are looked up at once."""


class Ledger:
    """Replies by key.

    `path=None` keeps them in memory. An `immutable` file is one that nobody ever writes to: it is read without locks,
    which a network disk may not have. Raises `InputError` for a file that is no ledger.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, immutable: bool = False) -> None:
        self.path = path
        try:
            if read_only or immutable:
                how = "mode=ro&immutable=1" if immutable else "mode=ro"
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?{how}" if path else ":memory:", uri=True)
                self._db.execute("SELECT key FROM replies LIMIT 1")
                if immutable:
                    self._db.execute("PRAGMA cache_size=-512")  # KiB: there may be many
            else:
                self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
                self._db.execute("PRAGMA journal_mode=WAL")
                # A batch survives the death of the process; only the death of the machine can cost the last ones.
                self._db.execute("PRAGMA synchronous=NORMAL")
                # Keys are hashes, so look-ups touch pages all over the file: those of 500,000 answers stay in memory.
                self._db.execute("PRAGMA cache_size=-98304")
                # Batches touch pages all over: the log is folded in seldom, so a page is written once for many.
                self._db.execute("PRAGMA wal_autocheckpoint=16384")
                self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise InputError(f"ledger {path}: cannot be opened: {error}") from error

    def get(self, key: bytes) -> Reply | None:
        """The reply under a key, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Reply]:
        """The replies under those keys that have one."""
        found: dict[bytes, Reply] = {}
        for start in range(0, len(keys), LOOK_UPS):
            some = keys[start : start + LOOK_UPS]
            marks = ",".join("?" * len(some))
            with self._reading():
                rows = self._db.execute(
                    f"SELECT key, text, scores, prompt_tokens, completion_tokens FROM replies WHERE key IN ({marks})",  # noqa: S608
                    some,
                )
                found.update((key, _reply(*columns)) for key, *columns in rows)
        return found

    def rows(self) -> Iterator[tuple[bytes, str, Reply]]:
        """Every (key, query id, reply), by ascending key. Raises `InputError` where one cannot be read."""
        with self._reading():
            for key, query_id, text, scores, prompt_tokens, completion_tokens in self.stored():
                yield key, query_id, _reply(text, scores, prompt_tokens, completion_tokens)

    def stored(self) -> Iterator[Stored]:
        """Every row as it is stored, by ascending key: several times as fast as `rows`.

        Raises `InputError` where one has columns of a wrong kind.
        """
        with self._reading():
            rows = self._db.execute(
                "SELECT key, query_id, text, scores, prompt_tokens, completion_tokens FROM replies ORDER BY key"
            )
            for row in rows:
                if tuple(map(type, row)) not in ROWS:
                    raise TypeError(f"the row of key {row[0]!r} and query {row[1]!r} has columns of a wrong kind")
                yield row

    def lines(self) -> Iterator[str]:
        """The whole ledger as JSON lines: the models' identities, then every reply by ascending key.

        Ledgers of the same content have the same lines, however SQLite has laid them out.
        """
        for identity in self.models():
            yield ENCODER.encode({"model": identity}) + "\n"
        encode = ENCODER.encode
        for key, query_id, text, scores, *tokens in self.stored():
            said = "null" if text is None else encode(text)
            prompt_tokens, completion_tokens = ["null" if count is None else count for count in tokens]
            # The scores stand there as JSON: they are not read to be written again.
            yield (
                f'{{"key": "{key.hex()}", "query_id": {encode(query_id)}, "text": {said}, '
                f'"scores": {scores or "null"}, "prompt_tokens": {prompt_tokens}, '
                f'"completion_tokens": {completion_tokens}}}\n'
            )

    def digest(self) -> str:
        """The SHA-256 of `lines`, in hexadecimal: the content hash."""
        digest = hashlib.sha256()
        for line in self.lines():
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

    def add(self, replies: Iterable[tuple[bytes, str, Reply]]) -> None:
        """Write a batch of (key, query id, reply), in one transaction. A key that is there keeps its first reply.

        Raises `R2llmError` where the disk does not take it; what was written before stays.
        """
        self.add_stored(
            (
                key,
                query_id,
                reply.text,
                None if reply.scores is None else json.dumps(reply.scores),
                reply.prompt_tokens,
                reply.completion_tokens,
            )
            for key, query_id, reply in replies
        )

    def add_stored(self, rows: Iterable[Stored]) -> None:
        """Write rows as they are stored in another ledger, in one transaction; else as `add`."""
        rows = list(rows)
        with self._writing():
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def models(self) -> list[Mapping[str, object]]:
        """The identities of the models that answered."""
        with self._reading():
            return [json.loads(row[0]) for row in self._db.execute("SELECT identity FROM model ORDER BY identity")]

    def add_model(self, identity: Mapping[str, object]) -> None:
        """Note the identity of a model whose replies will be written. Raises `R2llmError` as `add` does."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO model VALUES (?)", (json.dumps(identity, sort_keys=True),))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"ledger {self.path}: damaged: {error}; copy it from a backup") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise R2llmError(
                f"ledger {self.path}: {error}; make room or access and run again: all earlier answers are kept"
            ) from error

    def __len__(self) -> int:
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


def _reply(text: str | None, scores: str | None, prompt_tokens: int | None, completion_tokens: int | None) -> Reply:
    return Reply(text, None if scores is None else tuple(json.loads(scores)), prompt_tokens, completion_tokens)
