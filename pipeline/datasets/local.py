"""Datasets in local files: a BEIR folder, or queries, documents and qrels wherever they lie."""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ...rerankers.types import Query
from ..io.files import SUFFIXES
from .base import Dataset, Docs, takes_queries_from_documents
from .corpus import FileDocs
from .records import Qrels, QueryList, files_of, read_qrels, read_queries


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
        return self._judged

    def identity(self) -> dict[str, object]:
        """Return the SHA-256 of each file, as a BEIR folder."""
        return {"beir": super().identity()}

    @cached_property
    def _judged(self) -> dict[str, Query]:
        every, qrels = self.query_list.queries, self.qrels()
        judged = {id_: query for id_, query in every.items() if qrels is None or id_ in qrels}
        if not judged:
            raise InputError(f"{self._files['queries']}: none of its queries is in {self._files['qrels']}")
        return judged


def is_beir_folder(path: Path) -> bool:
    """Return True for a folder that holds a corpus."""
    return _present(path / "corpus.jsonl") is not None


def _present(path: Path) -> Path | None:
    return next((file for suffix in SUFFIXES if (file := path.with_name(f"{path.name}{suffix}")).is_file()), None)


def _digest(path: Path) -> object:
    if not path.is_dir():
        return file_digest(path)
    return {str(file.relative_to(path)): file_digest(file) for file in files_of(path)}
