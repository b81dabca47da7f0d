"""Documents in a local file: collected in one pass, their text kept on disk."""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...rerankers.errors import InputError
from .base import Docs, batches
from .records import DOC_IDS, Record, at, records

_BATCH = 500
"""Identifiers in one SQL statement: older SQLite libraries take no more than 999."""


class TextStore(Docs):
    """Texts by identifier in a temporary SQLite database: memory stays flat however many there are."""

    def __init__(self, source: str) -> None:
        self.source = source
        # The empty name is SQLite's own for a private file in the temporary folder, gone when it is closed.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, text TEXT)")
        weakref.finalize(self, self._database.close)

    def add(self, documents: Iterable[tuple[str, str]]) -> None:
        """Store documents, all of them or, where the iterable raises, none."""
        try:
            with self._database:
                self._database.executemany("INSERT INTO documents VALUES (?, ?)", documents)
        except sqlite3.OperationalError as error:
            problem = f"the documents' text cannot be kept in the temporary folder ({error})"
            raise InputError(f"{problem}; set TMPDIR to a folder with more space") from error

    def lookup(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the text of those documents that are stored."""
        texts: dict[str, str] = {}
        for batch in batches(ids, _BATCH):
            marks = ",".join("?" * len(batch))
            texts.update(self._database.execute(f"SELECT id, text FROM documents WHERE id IN ({marks})", batch))  # noqa: S608
        return texts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from self._database.execute("SELECT id, text FROM documents ORDER BY rowid")


class FileDocs(TextStore):
    """The documents of a local file."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._is_there: dict[str, bool] = {}

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the identifiers that the file lacks. One pass over the file stores the texts of all others."""
        wanted = list(dict.fromkeys(ids))
        sought = {id_ for id_ in wanted if id_ not in self._is_there}
        if sought:
            first_seen: dict[str, tuple[Record, int]] = {}
            self.add(self._collect(sought, first_seen))
            self._is_there.update((id_, id_ in first_seen) for id_ in sought)
        return [id_ for id_ in wanted if not self._is_there[id_]]

    def lookup(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the text of those documents that are there, in no pass if `missing` was asked for them."""
        self.missing(ids)
        return super().lookup(ids)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((record.identifier(DOC_IDS), record.document()) for record in records(self._path))

    def _collect(self, sought: set[str], first_seen: dict[str, tuple[Record, int]]) -> Iterator[tuple[str, str]]:
        """Yield the documents sought. One that is there again with the same text counts once."""
        for record in records(self._path):
            if (id_ := record.identifier(DOC_IDS)) in sought:
                text = record.document()
                first, content = first_seen.setdefault(id_, (record._replace(fields={}), hash(text)))
                if (first.path, first.place) == (record.path, record.place):
                    yield id_, text
                elif content != hash(text):
                    where = "" if record.path == first.path else f" of {first.path}"
                    raise record.fault(f"document {id_} is there already, {at(first.place)}{where}; remove one")
