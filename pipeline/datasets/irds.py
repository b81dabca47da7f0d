"""Datasets of ir_datasets, by their identifier."""

from __future__ import annotations

import difflib
import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ..io.files import reason
from ..run.runfile import Run
from .base import Dataset, takes_queries_from_documents
from .corpus import KeptDocs
from .records import Qrels, QueryList, clean

_PATIENCE = {"IR_DATASETS_DL_TRIES": "2", "IR_DATASETS_DL_TIMEOUT": "8"}
"""Its own three tries of 15 seconds at each of two mirrors are 90 seconds where a firewall is silent."""

_CHATTER = (
    "[starting]",
    "[finished]",
    "[error]",
    "download error",
    "Download failed",
    "If you have",
    "Opening ",
)
"""How those log lines begin that repeat ir_datasets' progress bars or our error. Terms of use are shown."""

_BRIGHT_EXCLUDED = -100
"""The grade under which ir_datasets' BRIGHT qrels list the documents that a query must not find."""

_ELSEWHERE = "a local BEIR folder or {docs, queries, qrels} files work too"


class IrDataset(Dataset):
    """A dataset of ir_datasets, which downloads what is asked for into its folder (`IR_DATASETS_HOME`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._dataset = _registered(name)
        self.queries_are_documents = name.startswith("beir/") and takes_queries_from_documents(name)

    def qrels(self) -> Qrels | None:
        """The judgements, without those by which BRIGHT lists exclusions."""
        if self._judgements is None:
            return None
        return {
            query: {document: grade for document, grade in grades.items() if not self._excludes(grade)}
            for query, grades in self._judgements.items()
        }

    def docs(self) -> _IrDocs:
        """The documents."""
        self._require("docs", "documents")
        return self._docs

    def identity(self) -> dict[str, object]:
        """The identifier: ir_datasets checks what it downloads against a hash."""
        return {"ir_datasets": self.name}

    def first_stage(self) -> Run | None:
        """None: where ir_datasets has scored documents, they are not the first stage that papers rerank."""
        return None

    def exclusions(self) -> Mapping[str, set[str]]:
        """BRIGHT: what each query excludes."""
        excluded = {
            query: {document for document, grade in grades.items() if self._excludes(grade)}
            for query, grades in (self._judgements or {}).items()
        }
        return {query: documents for query, documents in excluded.items() if documents}

    def _excludes(self, grade: int) -> bool:
        return self.name.startswith("bright/") and grade == _BRIGHT_EXCLUDED

    def _require(self, kind: str, what: str) -> None:
        if not self._dataset.has(kind):
            subsets = [id_ for id_ in _import().registry if id_.startswith(f"{self.name}/")]
            hint = f"; choose one of its subsets: {', '.join(subsets)}" if subsets else f"; {_ELSEWHERE}"
            raise InputError(f"dataset {self.name}: ir_datasets has no {what} for it{hint}")

    @cached_property
    def query_list(self) -> QueryList:
        """The queries of the dataset or subset."""
        self._require("queries", "queries")
        read = QueryList(self.name)
        with _explained(self.name, self._dataset):
            for number, query in enumerate(self._dataset.queries_iter(), 1):
                read.add(query.query_id, _text(query, self.name), (Path(self.name), f"query {number}"))
        return read

    @cached_property
    def _judgements(self) -> Qrels | None:
        if not self._dataset.has("qrels"):
            return None
        judgements: Qrels = {}
        with _explained(self.name, self._dataset):
            for qrel in self._dataset.qrels_iter():
                judgements.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
        return judgements

    @cached_property
    def _docs(self) -> _IrDocs:
        return _IrDocs(self.name, self._dataset)


class _IrDocs(KeptDocs):
    """The documents of an ir_datasets dataset, through the indexed store that it builds on first use."""

    def __init__(self, name: str, dataset: Any) -> None:
        self.source = f"dataset {name}: no document"
        self._name = name
        self._dataset = dataset

    def found(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the default text of those documents that there are."""
        with _explained(self._name, self._dataset):
            records = self._store.get_many(ids)
        return {id_: _text(record, self._name) for id_, record in records.items()}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All documents in the corpus' order."""
        with _explained(self._name, self._dataset):
            for record in self._dataset.docs_iter():
                yield record.doc_id, _text(record, self._name)

    @cached_property
    def _store(self) -> Any:
        return self._dataset.docs_store()


def _registered(name: str) -> Any:
    registry = _import().registry
    try:
        return registry[name]
    except KeyError:
        near = difflib.get_close_matches(name, list(registry), n=3)
        hint = f" (the nearest: {', '.join(near)})" if near else ""
        what = f"neither a folder with corpus.jsonl nor an ir_datasets identifier{hint}"
        raise InputError(f"dataset {name}: {what}; {_ELSEWHERE}") from None


def _text(record: Any, dataset: str) -> str:
    """The text that ir_datasets takes for ranking: "title text" where there is a title."""
    if hasattr(record, "default_text"):
        return clean(record.default_text() or "")
    if hasattr(record, "text"):
        return clean(record.text or "")
    raise InputError(f"dataset {dataset}: its {type(record).__name__} has no default text; {_ELSEWHERE}")


def _import() -> Any:
    """The module, told to be brief and not too patient; what the user's environment says comes first."""
    for variable, value in _PATIENCE.items():
        os.environ.setdefault(variable, value)
    try:
        import ir_datasets
    except OSError as error:
        what = f"ir_datasets cannot make its folder ({reason(error)})"
        raise InputError(f"{what}; set IR_DATASETS_HOME to one that can be written") from error
    logger = ir_datasets.log.easy().logger()
    if _brief not in logger.filters:
        logger.addFilter(_brief)
    return ir_datasets


def _brief(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CHATTER)


@contextmanager
def _explained(name: str, dataset: Any) -> Iterator[None]:
    """One line for what ir_datasets raises where it cannot get or open its files."""
    try:
        yield
    except ImportError as error:
        what = f"ir_datasets needs the package {error.name}: pip install {error.name}"
        raise InputError(f"dataset {name}: {what}") from error
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        home = f"{_import().util.home_path()} (IR_DATASETS_HOME)"
        absent = ", ".join(_absent_files(dataset))
        needs = f"to be downloaded into {home}: {absent}" if absent else f"files are in {home}"
        raise InputError(f"dataset {name}: {_cause(error)}; {needs}; {_ELSEWHERE}") from error


def _cause(error: BaseException) -> str:
    """The error in short: of a failed download the innermost reason, which requests wraps in three others."""
    if isinstance(error, RuntimeError) and len(error.args) == 2 and isinstance(error.args[1], list):
        tried = [each for _, each in error.args[1]]
        error = next((each for each in tried if not isinstance(each, FileNotFoundError)), tried[0])
    if isinstance(error, FileNotFoundError):
        return f"no file {error.filename or error.args[-1]}"
    text = " ".join(str(error).split())
    return text.rpartition(": ")[2].rstrip(")").rstrip("'\"") if "Caused by" in text else text[:300]


def _absent_files(dataset: Any) -> list[str]:
    """The addresses and sizes of the downloads behind a dataset that are not in its folder yet."""
    handlers = [getattr(dataset, f"{kind}_handler")() for kind in ("queries", "qrels", "docs") if dataset.has(kind)]
    absent = {}
    for download in _downloads(handlers, {}):
        address = next((mirror.url for mirror in download.mirrors if hasattr(mirror, "url")), None)
        kept_at = download.path(force=False) if download._cache_path else None
        if address and not (kept_at and Path(kept_at).exists()):
            size = f" ({download._size_hint / 1e6:,.1f} MB)" if (download._size_hint or 0) > 1e6 else ""
            absent[address] = f"{address}{size}"
    return list(absent.values())


def _downloads(thing: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The download records within an ir_datasets object, which has no other way to list them."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, _import().util.Download):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from _downloads(part, seen)
    elif type(thing).__module__.startswith("ir_datasets"):
        yield from _downloads(list(getattr(thing, "__dict__", {}).values()), seen)
