"""The interface of a dataset, whatever it is made of."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TypeVar

from ...rerankers.errors import InputError
from ...rerankers.types import Query
from ..run.runfile import Run
from .records import Qrels, QueryList

Item = TypeVar("Item")


class Docs(ABC):
    """A dataset's documents: maybe millions, so they are looked up or streamed, never all in memory."""

    source: str
    """The place of the documents, for errors."""

    @property
    def at_hand(self) -> bool:
        """Return True if texts can be read without a download."""
        return True

    @abstractmethod
    def lookup(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the text of those documents that are there, "title text" where there is a title."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Stream all documents as (identifier, text), for building an index."""

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Return the identifiers that no document has, each once.

        A file is read once for all of `ids`, and the texts are kept on disk: ask here for everything that a run needs.
        """
        absent = []
        for batch in batches(dict.fromkeys(ids), 1000):
            texts = self.lookup(batch)
            absent += [id_ for id_ in batch if id_ not in texts]
        return absent

    def texts(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the text of some documents. Raise InputError for one that is not there."""
        texts = self.lookup(ids)
        absent = [id_ for id_ in ids if id_ not in texts]
        if absent:
            raise InputError(f"{self.source}: {len(absent)} of {len(ids)} documents missing, first {absent[0]}")
        return texts


class Dataset(ABC):
    """Queries and, where the source has them, documents, judgements and a first stage, each read when needed."""

    name: str
    """The dataset as the config names it."""

    queries_are_documents: bool | None = None
    """True if a document with a query's identifier is that query, by the dataset's name; None if only texts tell."""

    @cached_property
    @abstractmethod
    def query_list(self) -> QueryList:
        """All queries of the source."""

    def queries(self) -> dict[str, Query]:
        """Return the queries in the dataset's order."""
        return self.query_list.queries

    def notes(self, chosen: Iterable[str]) -> list[str]:
        """Return what is left out of queries and judgements, a line each.

        Raise InputError where one of the chosen queries has two texts, or an identifier that no run file can hold.
        """
        return self.query_list.notes(chosen, self.qrels() or ())

    @abstractmethod
    def qrels(self) -> Qrels | None:
        """Return the judgements, or None where the dataset has none."""

    @abstractmethod
    def docs(self) -> Docs:
        """Return the documents. Raise InputError where the dataset has none."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Return JSON for a fingerprint: equal for equal content, wherever it lies."""

    def first_stage(self) -> Run | None:
        """Return the run that the dataset itself carries, or None."""
        return None

    def exclusions(self) -> Mapping[str, set[str]]:
        """Return for each query the documents that the dataset excludes from its results."""
        return {}


def takes_queries_from_documents(name: str) -> bool:
    """Return True for the name of a BEIR set whose queries are documents: ArguAna and Quora."""
    return bool({"arguana", "quora"} & set(re.findall("[a-z]+", name.lower())))


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
