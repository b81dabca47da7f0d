"""What the pipeline asks of a dataset, whatever it is made of."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from ...rerankers.types import Query
from ..run.runfile import Run
from .records import Qrels, QueryList


class Docs(Protocol):
    """A dataset's documents: maybe millions, so they are looked up or streamed, never all in memory."""

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those identifiers that the corpus lacks, in order of first appearance.

        A file is read once for all of `ids`, and the text found is set aside: ask here for everything that a
        run needs, and `texts` for any part of it is then a look-up.
        """
        ...

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The text of some documents, "title text" where there is a title. InputError for a missing one."""
        ...

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """All documents as (identifier, text), streamed, for building an index."""
        ...


class Dataset(ABC):
    """Queries, and what there is of documents, judgements and a first stage, each read when asked for."""

    name: str
    """What the user wrote."""

    queries_are_documents: bool | None = None
    """Whether a document with a query's identifier is that query, as far as the name tells; None: their texts tell."""

    @property
    @abstractmethod
    def query_list(self) -> QueryList:
        """All queries of the source, read once."""

    def queries(self) -> dict[str, Query]:
        """The queries in the dataset's order."""
        return self.query_list.queries

    def notes(self, chosen: Iterable[str]) -> list[str]:
        """Return what is left out of queries and judgements, a line each.

        Raises InputError where one of the chosen queries has two texts, or an identifier that no run file can hold.
        """
        return self.query_list.notes(chosen, self.qrels() or ())

    @abstractmethod
    def qrels(self) -> Qrels | None:
        """The judgements, or None where the dataset has none."""

    @abstractmethod
    def docs(self) -> Docs:
        """The documents. Raises InputError where the dataset has none."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """What tells this dataset from another, wherever it lies: JSON for an experiment's fingerprint."""

    def first_stage(self) -> Run | None:
        """The run that the dataset itself carries, or None."""
        return None

    def exclusions(self) -> Mapping[str, set[str]]:
        """For each query the documents that must be dropped from its results before anything else."""
        return {}


def takes_queries_from_documents(name: str) -> bool:
    """Return whether a name is that of a BEIR set whose queries are documents: ArguAna and Quora."""
    return bool({"arguana", "quora"} & set(re.findall("[a-z]+", name.lower())))
