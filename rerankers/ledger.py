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

LOOK_UPS = 500
"""How many keys are looked up at once."""


class Ledger:
    """Replies by key.

    `path=None` keeps them in memory. Raises `InputError` for a file that is no ledger.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        try:
            if read_only:
                self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro" if path else ":memory:", uri=True)
                self._db.execute("SELECT key FROM replies LIMIT 1")
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
            rows = self._db.execute(
                "SELECT key, query_id, text, scores, prompt_tokens, completion_tokens FROM replies ORDER BY key"
            )
            for key, query_id, *columns in rows:
                if not isinstance(key, bytes) or not isinstance(query_id, str):
                    raise TypeError(f"the row of key {key!r} and query {query_id!r} has columns of a wrong kind")
                yield key, query_id, _reply(*columns)

    def lines(self) -> Iterator[str]:
        """The whole ledger as JSON lines: the models' identities, then every reply by ascending key.

        Ledgers of the same content have the same lines, however SQLite has laid them out.
        """
        for identity in self.models():
            yield ENCODER.encode({"model": identity}) + "\n"
        for key, query_id, reply in self.rows():
            row = {
                "key": key.hex(),
                "query_id": query_id,
                "text": reply.text,
                "scores": reply.scores,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
            }
            yield ENCODER.encode(row) + "\n"

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


def _reply(text: str | None, scores: str | None, prompt_tokens: int | None, completion_tokens: int | None) -> Reply:
    return Reply(text, None if scores is None else tuple(json.loads(scores)), prompt_tokens, completion_tokens)
