"""Lucene: build an index, find one by name, search it with BM25, read texts out of it.

Everything is Anserini's, so that figures published with Anserini and Pyserini come out to the last digit.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..rerankers.errors import BackendError, InputError
from ..rerankers.types import Query
from .java import java_class, java_errors, java_list, java_string, last_complaint, run_java

Item = TypeVar("Item")

Progress = Callable[[int], None]
"""Told how many documents or queries are done so far."""

SHARD_DOCS = 50_000
"""Documents in one file for the indexer, which reads as many files at a time as there are cores."""

FETCHED_DOCS = 16_384
"""Documents that Java holds at a time: Anserini fetches the stored text of every hit."""

BODY_FIELDS = ("contents", "text", "passage", "segment", "body")
"""Where a stored JSON document has its text: Anserini's and BEIR's names, then those of MS MARCO v2."""


# Building


def build_index(docs: Iterable[tuple[str, str]], folder: Path, *, on_progress: Progress | None = None) -> None:
    """Index (docid, text) pairs into a new Lucene index at `folder`, with Anserini's defaults.

    The index appears at `folder` only when whole. Documents stream through files beside it; in memory are
    only the ids (about 100 bytes each). As always with Anserini, a document of white space only is left out.
    `on_progress` counts documents taken. `InputError` for an empty corpus, a bad or repeated id, a folder
    that exists; `BackendError` where Java fails or loses a document.
    """
    folder = folder.absolute()
    try:
        if folder.exists():
            raise InputError(f"{folder} exists already: remove it or choose another folder for the index")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as workplace:
            shards, index = Path(workplace, "shards"), Path(workplace, "index")
            shards.mkdir()
            given = _write_shards(docs, shards, on_progress)
            _index_shards(shards, index, given)
            index.rename(folder)
    except OSError as error:
        raise InputError(f"cannot build an index at {folder}: {error}") from error


def _write_shards(docs: Iterable[tuple[str, str]], folder: Path, on_progress: Progress | None) -> int:
    """Write documents as JSON lines in files of `SHARD_DOCS` documents; how many there were."""
    seen: set[str] = set()
    stream = iter(docs)
    for number in itertools.count():
        with (folder / f"{number:05}.jsonl").open("w", encoding="ascii") as shard:
            for docid, text in itertools.islice(stream, SHARD_DOCS):
                _check_id(docid, seen)
                seen.add(docid)
                shard.write(json.dumps({"id": docid, "contents": text}) + "\n")
                if on_progress and len(seen) % 1000 == 0:
                    on_progress(len(seen))
        if len(seen) < (number + 1) * SHARD_DOCS:
            break
    if on_progress and len(seen) % 1000:
        on_progress(len(seen))
    if not seen:
        raise InputError("no documents to index: the corpus is empty")
    return len(seen)


def _check_id(docid: str, seen: set[str]) -> None:
    number = len(seen) + 1
    if docid in seen:
        raise InputError(f"document {number} of the corpus repeats the id {docid!r}: make the ids unique")
    if not docid:
        raise InputError(f"document {number} of the corpus has an empty id: every document needs one")
    try:
        docid.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"document id {docid!r} is not valid Unicode: rename the document") from error


def _index_shards(shards: Path, index: Path, given: int) -> None:
    """Run Anserini's indexer, and see that nothing but empty documents is missing from the index."""
    # The buffer only says how often the indexer writes to disk; Anserini's own 4 GB may exceed Java's memory.
    arguments = (
        "-collection JsonCollection -generator DefaultLuceneDocumentGenerator -storeRaw -optimize"
        f" -memoryBuffer 512 -threads {os.cpu_count() or 1}"
    ).split()
    arguments += ["-input", str(shards), "-index", str(index)]
    output = run_java("io.anserini.index.IndexCollection", arguments)
    counts = dict(re.findall(r"- (indexed|empty): +([\d,]+)$", output, re.MULTILINE))
    indexed, empty = (int(counts.get(name, "0").replace(",", "")) for name in ("indexed", "empty"))
    # Anserini logs a disk that is full, or a document that it cannot index, and ends as if all were well.
    if " ERROR " in output or indexed + empty != given or not _is_index(index):
        raise BackendError(f"Anserini indexed {indexed} of {given} documents ({empty} empty): {last_complaint(output)}")
    if indexed == 0:
        raise InputError(f"nothing to index: every document of the corpus ({given}) is empty")


# Finding

REMEDY = "give a prebuilt Pyserini name, the folder of a Lucene index, or `build`"


def find_index(name: str, *, base: Path) -> Path:
    """The folder of an index given by path (relative to `base` or the working folder) or by Pyserini's name.

    An index that has such a name is downloaded into Pyserini's cache unless it is there. `InputError` for an
    unknown name, a folder without an index, or a download that fails.
    """
    given = Path(name).expanduser()
    folders = [base / given, Path.cwd() / given]
    for folder in folders:
        if _is_index(folder):
            return folder
    there = [folder for folder in folders if folder.exists()]
    if len(given.parts) == 1:
        known = _prebuilt_indexes()
        if name in known:
            return _prebuilt_folder(name, known[name])
        if not there:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(f"unknown index {name!r}: {hint}{REMEDY}")
    if there:
        raise InputError(f"{there[0]} is not a Lucene index (no segments file in it): {REMEDY}")
    raise InputError(f"no index at {folders[0]}: {REMEDY}")


def _is_index(folder: Path) -> bool:
    return any(folder.glob("segments_*"))


def _prebuilt_indexes() -> dict[str, dict[str, Any]]:
    """What Pyserini knows of its prebuilt inverted indexes, by name: urls, md5, size."""
    java_class("java.lang.System")  # Java must run before Pyserini starts it its own way
    from pyserini.prebuilt_index_info import TF_INDEX_INFO  # 0.3 s

    indexes: dict[str, dict[str, Any]] = TF_INDEX_INFO
    return indexes


def _prebuilt_folder(name: str, info: dict[str, Any]) -> Path:
    """Where Pyserini keeps a prebuilt index; downloaded by Pyserini if it is not there."""
    url = info["urls"][0]
    archive = info.get("filename") or url.rpartition("/")[2]
    cache = Path(os.environ.get("PYSERINI_CACHE") or Path.home() / ".cache" / "pyserini", "indexes")
    folder = cache / f"{re.sub(r'[.]tar[.]gz.*$', '', archive)}.{info['md5']}"
    if _is_index(folder):
        return folder
    size = info.get("size compressed (bytes)") or 0
    where = f"{url} ({size / 1e6:,.0f} MB)"
    try:
        from pyserini.util import download_prebuilt_index

        with contextlib.redirect_stdout(sys.stderr):
            downloaded = Path(download_prebuilt_index(name))
    except (OSError, ValueError, AssertionError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"index {name!r} could not be downloaded ({reason}): fetch {where} elsewhere and put the unpacked"
            f" folder at {folder}, or give its path as the index"
        ) from error
    if not _is_index(downloaded):
        raise InputError(f"{downloaded} is not a Lucene index: remove it to have {where} downloaded again")
    return downloaded


# Searching


class Index:
    """A Lucene index, open for searching and reading."""

    def __init__(self, folder: Path) -> None:
        if not _is_index(folder):
            raise InputError(f"{folder} is not a Lucene index (no segments file in it)")
        self.folder = folder.absolute()
        searcher = java_class("io.anserini.search.SimpleSearcher")
        # A long query (BRIGHT, ArguAna) may have more than Lucene's 1,024 different terms.
        java_class("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(2**31 - 1)
        with java_errors(f"{folder} cannot be opened as a Lucene index", InputError):
            self._searcher = searcher(str(self.folder))

    def search(
        self,
        queries: Sequence[Query],
        *,
        k1: float,
        b: float,
        depth: int,
        on_progress: Progress | None = None,
    ) -> dict[str, list[tuple[str, float]]]:
        """The `depth` best (docid, BM25 score) of each query by its id, best first; empty where none matches.

        Order, ties and scores are Anserini's: scores are rounded to four decimals; equal ones stand in
        ascending order of id and are then set a millionth apart. `on_progress` counts queries.
        """
        threads = os.cpu_count() or 1
        results: dict[str, list[tuple[str, float]]] = {}
        with java_errors(f"search in {self.folder} failed"):
            self._searcher.set_bm25(float(k1), float(b))
            for batch in _batches(queries, max(threads, FETCHED_DOCS // depth)):
                positions = java_list([str(i) for i in range(len(batch))])
                hits = self._searcher.batch_search(
                    java_list([query.text for query in batch]), positions, depth, threads
                )
                for i, query in enumerate(batch):
                    results[query.id] = [(hit.docid, hit.score) for hit in hits.get(str(i))]
                if on_progress:
                    on_progress(len(results))
        return results

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of documents by id, "title text" where the index has a title; unknown ids are left out.

        `InputError` where the index was built without its documents' texts.
        """
        texts: dict[str, str] = {}
        for docid, document in self._documents(ids):
            raw = document.get("raw")
            if raw is None:
                raise InputError(
                    f"{self.folder} was built without its documents' texts (-storeRaw): use another index,"
                    " or take the texts from the dataset instead of `docs: index`"
                )
            texts[docid] = _text_of(raw)
        return texts

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Those of the ids that no document of the index has, in the order given."""
        found = {docid for docid, _ in self._documents(ids)}
        return [docid for docid in ids if docid not in found]

    def identity(self) -> str:
        """A hash (sha256, hexadecimal) that tells this index from others; copies of its folder have the same.

        It covers the names and sizes of the files, and the content of those that hold the random identifiers
        which Lucene gives to segments and commits: a second build of the same documents has another identity.
        """
        files = sorted(path for path in self.folder.iterdir() if path.name.startswith(("_", "segments_")))
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            if path.name.startswith("segments_") or path.suffix == ".si":
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def _documents(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Those of the documents that exist, as (id, Lucene document)."""
        with java_errors(f"reading {self.folder} failed"):
            for batch in _batches(ids, FETCHED_DOCS):
                documents = self._searcher.batch_get_docs(java_list(batch), os.cpu_count() or 1)
                for docid in batch:
                    document = documents.get(java_string(docid))
                    if document is not None:
                        yield docid, document


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _text_of(raw: str) -> str:
    """The text of a stored document: JSON joined as ir_datasets does by default, anything else as it is."""
    try:
        fields = json.loads(raw)
    except ValueError:
        return raw
    if not isinstance(fields, dict):
        return raw
    body = next((fields[name] for name in BODY_FIELDS if isinstance(fields.get(name), str)), None)
    if body is None:
        return raw
    parts = (fields.get("title"), fields.get("headings"), body)
    return " ".join(part for part in parts if isinstance(part, str) and part)
