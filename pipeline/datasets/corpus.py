"""Documents in a local file: found in one pass, their text set aside on disk."""

from __future__ import annotations

import sqlite3
import weakref
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...rerankers.errors import InputError
from ..io.files import fault
from .records import Spot, at, document_text, read_docs

_BATCH = 500
"""Identifiers in one SQL statement: older SQLite libraries take no more than 999."""


class KeptDocs(ABC):
    """Documents that can be looked up by identifier. See `base.Docs`."""

    source: str
    """What an error says before the identifier that is not there."""

    @abstractmethod
    def found(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the text of those documents that are there."""

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the identifiers that no document has."""
        absent = []
        for batch in batches(dict.fromkeys(ids), 1000):
            texts = self.found(batch)
            absent += [id_ for id_ in batch if id_ not in texts]
        return absent

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the text of some documents; raise InputError for one that is not there."""
        texts = self.found(ids)
        for id_ in ids:
            if id_ not in texts:
                raise InputError(f"{self.source} {id_}")
        return texts


class TextStore(KeptDocs):
    """Texts by identifier in a temporary SQLite database: memory stays flat however many there are."""

    def __init__(self, source: str) -> None:
        self.source = source
        # The empty name is SQLite's own for a private file in the temporary folder, gone when it is closed.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, text TEXT)")
        weakref.finalize(self, self._database.close)

    def add(self, documents: Iterable[tuple[str, str]]) -> None:
        """Set documents aside, all of them or, where the iterable raises, none."""
        try:
            with self._database:
                self._database.executemany("INSERT INTO documents VALUES (?, ?)", documents)
        except sqlite3.OperationalError as error:
            what = f"the documents' text cannot be set aside in the temporary folder ({error})"
            raise InputError(f"{what}; set TMPDIR to a folder with more space") from error

    def found(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the text of those documents that are here."""
        found: dict[str, str] = {}
        for batch in batches(ids, _BATCH):
            marks = ",".join("?" * len(batch))
            query = f"SELECT id, text FROM documents WHERE id IN ({marks})"  # noqa: S608
            found.update(self._database.execute(query, batch))
        return found

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All documents in the order they were added."""
        yield from self._database.execute("SELECT id, text FROM documents ORDER BY rowid")


class FileDocs:
    """The documents of a local file. See `base.Docs`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store = TextStore(f"{path}: no document")
        self._is_there: dict[str, bool] = {}

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those identifiers that the file lacks. One pass over the file sets the text of all others aside."""
        wanted = list(dict.fromkeys(ids))
        sought = {id_ for id_ in wanted if id_ not in self._is_there}
        if sought:
            found: dict[str, tuple[Spot, int]] = {}
            self._store.add(self._find(sought, found))
            self._is_there.update((id_, id_ in found) for id_ in sought)
        return [id_ for id_ in wanted if not self._is_there[id_]]

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The text of some documents, without another pass where `missing` was asked for them."""
        absent = self.missing(ids)
        if absent:
            raise InputError(f"{self._path}: {len(absent)} of {len(ids)} documents missing, first {absent[0]}")
        return self._store.texts(ids)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All documents in the file's order; an identifier that is there twice is an error at the end."""
        hashes = array("q")
        for spot, id_, record in read_docs(self._path):
            hashes.append(hash(id_))
            yield id_, document_text(record, spot)
        self._refuse_repeats(hashes)

    def _find(self, sought: set[str], found: dict[str, tuple[Spot, int]]) -> Iterator[tuple[str, str]]:
        """The documents sought. One that is there again with the same text is one."""
        for spot, id_, record in read_docs(self._path):
            if id_ in sought:
                text = document_text(record, spot)
                first, content = found.setdefault(id_, (spot, hash(text)))
                if first == spot:
                    yield id_, text
                elif content != hash(text):
                    raise _repeated(spot, id_, first)

    def _refuse_repeats(self, hashes: array[int]) -> None:
        """Raise for a document that is there twice. Eight bytes a document: all identifiers would not fit."""
        import numpy as np

        ordered = np.sort(np.frombuffer(hashes, dtype=np.int64))
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if suspects:
            first_seen: dict[str, Spot] = {}
            for spot, id_, _ in read_docs(self._path):
                if hash(id_) in suspects and first_seen.setdefault(id_, spot) != spot:
                    raise _repeated(spot, id_, first_seen[id_])


def _repeated(spot: Spot, id_: str, first: Spot) -> InputError:
    there = "" if spot[0] == first[0] else f" of {first[0]}"
    return fault(*spot, f"document {id_} is there already, {at(first[1])}{there}; remove one")


def batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
