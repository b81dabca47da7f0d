"""The ledger: every reply a backend gave, on disk, under a key that hashes all that can change it.

It is the cache of repeated asks, what a killed run resumes from, and what a replay reads. Append-only SQLite: replies
are written in one transaction a batch, so a process that dies at any moment leaves whole batches behind.
"""

from __future__ import annotations

import contextlib
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
                # Keys are hashes, so look-ups touch pages all over the file: keep those of some 500,000 answers.
                self._db.execute("PRAGMA cache_size=-98304")
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
            rows = self._db.execute(
                f"SELECT key, text, scores, prompt_tokens, completion_tokens FROM replies WHERE key IN ({marks})",  # noqa: S608
                some,
            )
            for key, text, scores, prompt_tokens, completion_tokens in rows:
                parsed = None if scores is None else tuple(json.loads(scores))
                found[key] = Reply(text, parsed, prompt_tokens, completion_tokens)
        return found

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
        return [json.loads(row[0]) for row in self._db.execute("SELECT identity FROM model ORDER BY identity")]

    def add_model(self, identity: Mapping[str, object]) -> None:
        """Note the identity of a model whose replies will be written. Raises `R2llmError` as `add` does."""
        with self._writing():
            self._db.execute("INSERT OR IGNORE INTO model VALUES (?)", (json.dumps(identity, sort_keys=True),))

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
