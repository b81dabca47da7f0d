"""Datasets in local files: a BEIR folder, or queries, documents and qrels wherever they lie.

A file of documents is read in one pass, and the text of those asked for is kept on disk.
"""

import sqlite3
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ...rerankers.types import Query
from ..io.files import SUFFIXES
from .base import Dataset, Docs, batches, takes_queries_from_documents
from .records import DOC_IDS, Qrels, QueryList, Record, at, files_of, read_qrels, read_queries, records

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


class Files(Dataset):
    """Queries, and optionally documents and qrels, one file each.

    `docs_from_index` opens the documents where their text is in the first stage's index (`docs: index`); `part` is
    the part of a topic that is its text.
    """

    def __init__(
        self,
        name: str,
        files: Mapping[str, Path],
        docs_from_index: Callable[[], Docs] | None = None,
        part: str | None = None,
    ) -> None:
        self.name = name
        self._files = files
        self._docs_from_index = docs_from_index
        self._part = part

    def qrels(self) -> Qrels | None:
        """Return the judgements, or None without a file of them."""
        return self._qrels

    def docs(self) -> Docs:
        """Return the documents of the file or of the index."""
        return self._docs

    def identity(self) -> dict[str, object]:
        """Return the SHA-256 of each file, and the settings that decide which text is read."""
        digests: dict[str, object] = {kind: _digest(path) for kind, path in self._files.items()}
        digests |= {"docs": "index"} if self._docs_from_index else {}
        return digests | ({"field": self._part} if self._part else {})

    @cached_property
    def query_list(self) -> QueryList:
        """All queries of the file."""
        return read_queries(self._files["queries"], self._part)

    @cached_property
    def _qrels(self) -> Qrels | None:
        return read_qrels(self._files["qrels"]) if "qrels" in self._files else None

    @cached_property
    def _docs(self) -> Docs:
        if self._docs_from_index:
            return self._docs_from_index()
        if "docs" not in self._files:
            raise InputError(f"dataset {self.name}: no documents; give `docs`, a file or `index`")
        return FileDocs(self._files["docs"])


class BeirFolder(Files):
    """A folder in BEIR's layout: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`, each also compressed.

    `split` is `test` unless given; without a `qrels` folder there are no judgements. The queries are those judged.
    """

    def __init__(self, name: str, folder: Path, split: str | None) -> None:
        files, judged, test = {}, folder / "qrels", f"{split or 'test'}.tsv"
        for kind, file in (("docs", "corpus.jsonl"), ("queries", "queries.jsonl")):
            if (path := _present(folder / file)) is None:
                missing = f"{folder / file}: not found, nor {file}.gz"
                raise InputError(f"{missing}; a BEIR folder has corpus.jsonl and queries.jsonl")
            files[kind] = path
        if split is not None or judged.is_dir():
            if (path := _present(judged / test)) is None:
                splits = ", ".join(sorted({path.name.split(".tsv")[0] for path in judged.glob("*.tsv*")})) or "none"
                raise InputError(f"{judged}: no split {split or 'test'!r} ({test}); there is: {splits}")
            files["qrels"] = path
        super().__init__(name, files)
        self.queries_are_documents = takes_queries_from_documents(folder.resolve().name) or None

    def queries(self) -> dict[str, Query]:
        """Return the queries that the split judges, in the order of `queries.jsonl`."""
        qrels = self.qrels()
        judged = {id_: query for id_, query in super().queries().items() if qrels is None or id_ in qrels}
        if not judged:
            raise InputError(f"{self._files['queries']}: none of its queries is in {self._files['qrels']}")
        return judged

    def identity(self) -> dict[str, object]:
        """Return the SHA-256 of each file, as a BEIR folder."""
        return {"beir": super().identity()}


def is_beir_folder(path: Path) -> bool:
    """Return True for a folder that holds a corpus."""
    return _present(path / "corpus.jsonl") is not None


def _present(path: Path) -> Path | None:
    return next((file for suffix in SUFFIXES if (file := path.with_name(f"{path.name}{suffix}")).is_file()), None)


def _digest(path: Path) -> object:
    if not path.is_dir():
        return file_digest(path)
    return {str(file.relative_to(path)): file_digest(file) for file in files_of(path)}
