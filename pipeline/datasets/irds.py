"""Datasets of ir_datasets, by their identifier."""

import logging
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from ...rerankers import catalog
from ...rerankers.errors import InputError
from ..io.files import reason
from .base import Dataset, Docs, takes_queries_from_documents
from .records import Qrels, QueryList, Record, clean

_PATIENCE = {"IR_DATASETS_DL_TRIES": "2", "IR_DATASETS_DL_TIMEOUT": "8"}
"""Its own three tries of 15 seconds at each of two mirrors are 90 seconds where a firewall is silent."""

_CHATTER = ("[starting]", "[finished]", "[error]", "download error", "Download failed", "If you have", "Opening ")
"""The beginnings of log lines that repeat ir_datasets' progress bars or our error. Terms of use are shown."""

_BRIGHT_EXCLUDED = -100
"""The grade under which ir_datasets' BRIGHT qrels list the documents that a query must not find."""

_ELSEWHERE = "a local BEIR folder or {docs, queries, qrels} files work too"


class IrDataset(Dataset, Docs):
    """A dataset of ir_datasets, which downloads what is asked for into its folder (`IR_DATASETS_HOME`).

    Where it has scored documents, they are not the first stage that papers rerank, so it has none here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = f"dataset {name}"
        self._registry = _library().registry
        self.queries_are_documents = name.startswith("beir/") and takes_queries_from_documents(name)
        try:
            self._dataset = self._registry[name]
        except KeyError:
            problem = "neither a folder with corpus.jsonl nor an ir_datasets identifier"
            near = catalog.nearest(name, list(self._registry))
            raise InputError(f"dataset {name}: {problem}{near}; {_ELSEWHERE}") from None

    def qrels(self) -> Qrels | None:
        """Return the judgements, without those by which BRIGHT lists exclusions."""
        return self._judgements[0] if self._dataset.has("qrels") else None

    def exclusions(self) -> Mapping[str, set[str]]:
        """Return what each query of BRIGHT excludes."""
        return self._judgements[1]

    def docs(self) -> Docs:
        """Return the documents, through the indexed store that ir_datasets builds on first use."""
        self._require("docs", "documents")
        return self

    def identity(self) -> dict[str, object]:
        """Return the identifier: ir_datasets checks what it downloads against a hash."""
        return {"ir_datasets": self.name}

    @cached_property
    def query_list(self) -> QueryList:
        """All queries of the dataset or subset."""
        self._require("queries", "queries")
        queries = QueryList(self.name)
        with _explained(self.name):
            for number, query in enumerate(self._dataset.queries_iter(), 1):
                record = Record(Path(self.name), f"query {number}", {})
                queries.add(query.query_id, _text(query, self.name), record)
        return queries

    @cached_property
    def _judgements(self) -> tuple[Qrels, dict[str, set[str]]]:
        qrels: Qrels = {}
        excluded: dict[str, set[str]] = {}
        bright = self.name.startswith("bright/")
        with _explained(self.name):
            for qrel in self._dataset.qrels_iter() if self._dataset.has("qrels") else ():
                grades = qrels.setdefault(qrel.query_id, {})
                if bright and qrel.relevance == _BRIGHT_EXCLUDED:
                    excluded.setdefault(qrel.query_id, set()).add(qrel.doc_id)
                else:
                    grades[qrel.doc_id] = qrel.relevance
        return qrels, excluded

    def lookup(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the default text of those documents that are there."""
        with _explained(self.name):
            records = self._store.get_many(ids)
        return {id_: _text(record, self.name) for id_, record in records.items()}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        with _explained(self.name):
            for record in self._dataset.docs_iter():
                yield record.doc_id, _text(record, self.name)

    @property
    def at_hand(self) -> bool:
        """Return True if the documents were downloaded before; False if ir_datasets cannot tell."""
        with suppress(AttributeError, TypeError, OSError):
            return Path(self._dataset.docs_handler().docs_path(force=False)).exists()
        return False

    @cached_property
    def _store(self) -> Any:
        return self._dataset.docs_store()

    def _require(self, kind: str, noun: str) -> None:
        if not self._dataset.has(kind):
            subsets = ", ".join(id_ for id_ in self._registry if id_.startswith(f"{self.name}/"))
            hint = f"choose one of its subsets: {subsets}" if subsets else _ELSEWHERE
            raise InputError(f"dataset {self.name}: ir_datasets has no {noun} for it; {hint}")


def _text(record: Any, dataset: str) -> str:
    """Return the text that ir_datasets takes for ranking: "title text" where there is a title."""
    if hasattr(record, "default_text"):
        return clean(record.default_text() or "")
    if hasattr(record, "text"):
        return clean(record.text or "")
    raise InputError(f"dataset {dataset}: its {type(record).__name__} has no default text; {_ELSEWHERE}")


def _library() -> Any:
    """Return the module, with short logs and short waits; the user's environment variables come first."""
    for variable, value in _PATIENCE.items():
        os.environ.setdefault(variable, value)
    try:
        import ir_datasets
    except OSError as error:
        problem = f"ir_datasets cannot make its folder ({reason(error)})"
        raise InputError(f"{problem}; set IR_DATASETS_HOME to one that can be written") from error
    logger = ir_datasets.log.easy().logger()
    if _brief not in logger.filters:
        logger.addFilter(_brief)
    return ir_datasets


def _brief(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_CHATTER)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raise InputError, in one line, for what ir_datasets raises where it cannot get or open its files."""
    try:
        yield
    except ImportError as error:
        problem = f"ir_datasets needs the package {error.name}: pip install {error.name}"
        raise InputError(f"dataset {name}: {problem}") from error
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        files = f"its files are downloaded into {_library().util.home_path()} (IR_DATASETS_HOME)"
        raise InputError(f"dataset {name}: {_cause(error)}; {files}; {_ELSEWHERE}") from error


def _cause(error: BaseException) -> str:
    """Return the error in short: of a failed download the innermost reason, which requests wraps in three others."""
    if isinstance(error, RuntimeError) and len(error.args) == 2 and isinstance(error.args[1], list):
        failures = [failure for _, failure in error.args[1]]
        error = next((one for one in failures if not isinstance(one, FileNotFoundError)), failures[0])
    if isinstance(error, FileNotFoundError):
        return f"no file {error.filename or error.args[-1]}"
    text = " ".join(str(error).split())
    return text.rpartition(": ")[2].rstrip(")").rstrip("'\"") if "Caused by" in text else text[:300]
