"""Lucene: build an index, locate one by name, search it with BM25, read texts out of it.

Everything is Anserini's, so that figures published with Anserini and Pyserini come out to the last digit.
"""

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rerankers import catalog
from ...rerankers.errors import BackendError, InputError
from ...rerankers.types import Query
from ..datasets.base import Docs, batches
from ..datasets.records import DOC_TEXTS
from .java import java_class, java_errors, java_list, java_string, last_complaint, run_java

Progress = Callable[[int], None]
"""Called with the number of documents or queries done so far."""

SHARD_DOCS = 50_000
"""Documents in one file for the indexer, which reads as many files at a time as there are cores."""

FETCHED_DOCS = 16_384
"""Documents that Java holds at a time: Anserini fetches the stored text of every hit."""

PREBUILT_LANGUAGE = re.compile(r"(?:mrtydi-v1\.1|miracl-v1\.0|ciral-v1\.0|hc4-v1\.0|neuclir22)-([a-z]+)|(zh)wiki-.*")
"""The names of prebuilt indexes of one language; those of translations end in `-en` besides."""

LANGUAGE_CODES = {"bengali": "bn", "indonesian": "id"}
"""Languages that names of prebuilt indexes spell out, where the code is not the first two letters."""

WHITE_SPACE_LANGUAGES = ("ha", "so", "sw", "yo")
"""Those of prebuilt indexes that Anserini splits at white space, as it does for every code that it does not know."""

CHECKED_DOCS, CHECKED_TERMS = 20, 25
"""Stored documents of an index, and terms of each, that are compared with what the analyzer makes of their texts."""

ALIKE = 0.9
"""The share of the terms that must be in the index: texts may have been cleaned before they were indexed."""

REMEDY = "give a prebuilt Pyserini name, the folder of a Lucene index, or `build`"


def build_index(
    docs: Iterable[tuple[str, str]], folder: Path, *, language: str = "en", on_progress: Progress | None = None
) -> None:
    """Index (docid, text) pairs of a language into a new Lucene index at `folder`, with Anserini's defaults.

    The index appears only when whole. Documents stream through files beside it; only their ids are in memory. As
    always with Anserini, a document of white space only is left out. Raise InputError for an empty corpus, a bad or
    repeated id or a folder that exists, and BackendError where Java fails or loses a document.
    """
    folder = folder.absolute()
    try:
        if folder.exists():
            raise InputError(f"{folder} exists already: remove it or choose another folder for the index")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.partial-") as workplace:
            shards, index = Path(workplace, "shards"), Path(workplace, "index")
            shards.mkdir()
            _index_shards(shards, index, _write_shards(docs, shards, on_progress), language)
            index.rename(folder)
    except OSError as error:
        raise InputError(f"cannot build an index at {folder}: {error}") from error


def _write_shards(docs: Iterable[tuple[str, str]], folder: Path, on_progress: Progress | None) -> int:
    """Write documents as JSON lines in files of `SHARD_DOCS` documents; return how many there were."""
    seen: set[str] = set()
    stream = iter(docs)
    for number in itertools.count():
        with (folder / f"{number:05}.jsonl").open("w", encoding="ascii") as shard:
            for docid, text in itertools.islice(stream, SHARD_DOCS):
                if docid in seen or not docid:
                    problem = f"repeats the id {docid!r}: make the ids unique" if docid else "has an empty id"
                    raise InputError(f"document {len(seen) + 1} of the corpus {problem}")
                if java_string(docid) != docid:
                    raise InputError(f"document id {docid!r} is not valid Unicode: rename the document")
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


def _index_shards(shards: Path, index: Path, count: int, language: str) -> None:
    """Run Anserini's indexer, and check that nothing but empty documents is missing from the index."""
    # The buffer only says how often the indexer writes to disk; Anserini's own 4 GB may exceed Java's memory.
    arguments = (
        "-collection JsonCollection -generator DefaultLuceneDocumentGenerator -storeRaw -optimize"
        f" -memoryBuffer 512 -threads {os.cpu_count() or 1}"
    ).split()
    arguments += ["-input", str(shards), "-index", str(index), "-language", language]
    output = run_java("io.anserini.index.IndexCollection", arguments)
    counts = dict(re.findall(r"- (indexed|empty): +([\d,]+)$", output, re.MULTILINE))
    indexed, empty = (int(counts.get(name, "0").replace(",", "")) for name in ("indexed", "empty"))
    # Anserini logs a disk that is full, or a document that it cannot index, and ends as if all were well.
    if " ERROR " in output or indexed + empty != count or not _is_index(index):
        raise BackendError(f"Anserini indexed {indexed} of {count} documents ({empty} empty): {last_complaint(output)}")
    if indexed == 0:
        raise InputError(f"nothing to index: every document of the corpus ({count}) is empty")


def find_index(name: str) -> Path:
    """Return the folder of an index that is named by its path or by Pyserini.

    A prebuilt index is downloaded into Pyserini's cache unless it is there. Raise InputError for an unknown name, a
    folder without an index, and a download that fails.
    """
    path = Path(name).expanduser()
    if _is_index(path):
        return path.absolute()
    if len(path.parts) == 1:
        java_class("java.lang.System")  # Java must run before Pyserini starts it its own way
        from pyserini.prebuilt_index_info import TF_INDEX_INFO  # 0.3 s

        if name in TF_INDEX_INFO:
            return _prebuilt_folder(name, TF_INDEX_INFO[name])
        if not path.exists():
            raise InputError(f"unknown index {name!r}{catalog.nearest(name, TF_INDEX_INFO)}; {REMEDY}")
    if path.exists():
        raise InputError(f"{path.absolute()} is not a Lucene index (no segments file in it): {REMEDY}")
    raise InputError(f"no index at {path.absolute()}: {REMEDY}")


def _is_index(folder: Path) -> bool:
    return any(folder.glob("segments_*"))


def _prebuilt_folder(name: str, info: Mapping[str, Any]) -> Path:
    url = info["urls"][0]
    archive = re.sub(r"[.]tar[.]gz.*$", "", info.get("filename") or url.rpartition("/")[2])
    cache = Path(os.environ.get("PYSERINI_CACHE") or Path.home() / ".cache" / "pyserini", "indexes")
    folder = cache / f"{archive}.{info['md5']}"
    if _is_index(folder):
        return folder
    where = f"{url} ({(info.get('size compressed (bytes)') or 0) / 1e6:,.0f} MB)"
    try:
        from pyserini.util import download_prebuilt_index

        with contextlib.redirect_stdout(sys.stderr):
            downloaded = Path(download_prebuilt_index(name))
    except (OSError, ValueError, AssertionError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        remedy = f"fetch {where} elsewhere and put the unpacked folder at {folder}, or give its path as the index"
        raise InputError(f"index {name!r} could not be downloaded ({reason}): {remedy}") from error
    if not _is_index(downloaded):
        raise InputError(f"{downloaded} is not a Lucene index: remove it to have {where} downloaded again")
    return downloaded


def language_of(name: str) -> str:
    """Return the language of a prebuilt index by its name; `en` for any other name."""
    match = PREBUILT_LANGUAGE.fullmatch(name)
    code = (match[1] or match[2]) if match else "en"
    return LANGUAGE_CODES.get(code, code[:2])


def fields_of(name: str) -> dict[str, float] | None:
    """Return the weights of the fields that Anserini searches in a prebuilt index; None for `contents` alone."""
    return {"contents": 1.0, "title": 1.0} if re.fullmatch(r"beir-.*\.multifield", name) else None


def check_language(language: str) -> None:
    """Raise InputError for a language without an analyzer."""
    analyzed = java_class("io.anserini.analysis.AnalyzerMap").analyzerMap.keySet().toArray()
    known = sorted({"en", *WHITE_SPACE_LANGUAGES, *analyzed})
    if language not in known:
        raise InputError(f"first_stage.bm25.language: no analyzer for {language!r}; known: {', '.join(known)}")


class Index(Docs):
    """A Lucene index, open for searching and reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.source = str(self.folder)
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
        fields: Mapping[str, float] | None = None,
        on_note: Callable[[str], object] | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, list[tuple[str, float]]]:
        """Return the `depth` best (docid, BM25 score) of each query by its id, best first; empty where none matches.

        A document of the query's own id comes on top of these. Order, ties and scores are Anserini's: scores are
        rounded to four decimals; equal ones stand in ascending order of id and are then set a millionth apart. Of a
        docid that the index has twice the later hit is dropped. `on_note` receives that and queries whose terms the
        index lacks; `on_progress` counts queries.
        """
        results: dict[str, list[tuple[str, float]]] = {query.id: [] for query in queries}
        waiting, fetched, done, repeats = list(queries), depth, 0, []
        with java_errors(f"search in {self.folder} failed"):
            self._searcher.set_bm25(float(k1), float(b))
            while waiting:
                short = []
                for batch in batches(waiting, max(os.cpu_count() or 1, FETCHED_DOCS // fetched)):
                    for query, rows in zip(batch, self._hits(batch, fetched, fields), strict=True):
                        once: dict[str, float] = {}
                        for docid, score in rows:
                            once.setdefault(docid, score)
                        wanted = depth + (query.id in once)
                        if len(once) < wanted and len(rows) == fetched:
                            short.append(query)
                            continue
                        results[query.id] = list(once.items())[:wanted]
                        repeats += [query] if len(once) < len(rows) else []
                        done += 1
                    if on_progress:
                        on_progress(done)
                waiting, fetched = short, 2 * fetched
            empty = [query for query in queries if not results[query.id]]
            if on_note and empty:
                terms = ", ".join(self._terms(empty[0].text)[:5])
                on_note(f"{len(empty)} queries have no term that the index has (the first is {empty[0].id}: {terms})")
        if on_note and repeats:
            problem = "a document twice among their hits, as the index has it; the later one is dropped"
            on_note(f"{len(repeats)} of {len(queries)} queries have {problem} (the first is {repeats[0].id})")
        return results

    def _hits(
        self, queries: Sequence[Query], count: int, fields: Mapping[str, float] | None
    ) -> list[list[tuple[str, float]]]:
        places = [str(place) for place in range(len(queries))]
        arguments = [java_list(query.text for query in queries), java_list(places), count, os.cpu_count() or 1]
        if fields:
            weights = java_class("java.util.HashMap")()
            for name, weight in fields.items():
                weights.put(name, java_class("java.lang.Float")(weight))
            hits = self._searcher.batch_search_fields(*arguments, weights)
        else:
            hits = self._searcher.batch_search(*arguments)
        return [[(hit.docid, hit.score) for hit in hits.get(place)] for place in places]

    def use(self, language: str, rm3: Mapping[str, float] | None = None, *, prebuilt: str | None = None) -> None:
        """Set the language of the queries, and how they are expanded.

        `prebuilt` is Pyserini's name of the index. Raise InputError for a language without an analyzer, and where the
        index does not hold what expansion needs.
        """
        check_language(language)
        if language != "en":
            self._searcher.set_language(language)
        if rm3 is None:
            return
        collection = None
        if java_class("io.anserini.index.IndexReaderUtils").getReader(str(self.folder)).getTermVectors(0) is None:
            version = re.match("msmarco-v2-(doc)?", prebuilt or "")
            kind = version and ("Doc" if version[1] else "Passage")
            collection = f"MsMarcoV2{kind}Collection" if kind else "JsonCollection"
            if _body(_json_fields(self._searcher.doc(0).get("raw") or "")) is None:
                raise InputError(
                    f"first_stage.bm25.rm3: {self.folder} has neither document vectors (-storeDocvectors) nor its "
                    "documents as JSON (-storeRaw), of which the terms could be taken"
                )
        terms, docs, weight = rm3["fb_terms"], rm3["fb_docs"], rm3["original_query_weight"]
        self._searcher.set_rm3(collection, int(terms), int(docs), float(weight), False, True)

    def check(self, language: str, fields: Mapping[str, float] | None, *, sure: bool) -> None:
        """Raise InputError where the index is not one of this language, or does not have these fields.

        The terms of some stored documents must be those that the language's analyzer makes of their texts. Where no
        texts are stored, the caller must be `sure` of the language.
        """
        utilities = java_class("io.anserini.index.IndexReaderUtils")
        with java_errors(f"reading {self.folder} failed"):
            reader = utilities.getReader(str(self.folder))
            infos = [entry.getValue() for entry in utilities.getFieldInfo(reader).entrySet().toArray()]
            texts = [str(i.name) for i in infos if str(i.getIndexOptions().toString()) != "NONE" and not i.omitsNorms()]
            unknown = [name for name in fields or {} if name not in texts]
            if unknown or (fields is None and texts != ["contents"]):
                problem = f"has no field {unknown[0]}" if unknown else "has other fields than `contents`"
                remedy = f"in first_stage.bm25.fields, give weights to some of {sorted(texts)}"
                raise InputError(f"{self.folder} {problem}: {remedy}")
            share = self._share_of_terms(reader)
        if share is None and not sure:
            problem = "stores no texts, so its language cannot be told: say first_stage.bm25.language"
            raise InputError(f"{self.folder} {problem}")
        if share is not None and share < ALIKE:
            raise InputError(
                f"{self.folder} was not indexed with Anserini's analyzer for {language!r}: it has {share:.0%} of the "
                "terms that this makes of its texts; set first_stage.bm25.language to the language it was built with"
            )

    def _share_of_terms(self, reader: Any) -> float | None:
        """Return the share of the terms of stored texts that the index has for them; None without texts."""
        searcher = java_class("org.apache.lucene.search.IndexSearcher")(reader)
        term, query = java_class("org.apache.lucene.index.Term"), java_class("org.apache.lucene.search.TermQuery")
        must = java_class("org.apache.lucene.search.BooleanClause$Occur").MUST
        present: list[bool] = []
        for number in range(min(reader.maxDoc(), CHECKED_DOCS)):
            document = self._searcher.doc(number)
            raw = document.get("raw") or ""
            text = document.get("contents") or _body(_json_fields(raw)) or _text_of(raw)
            for token in list(dict.fromkeys(self._terms(text)))[:CHECKED_TERMS]:
                both = java_class("org.apache.lucene.search.BooleanQuery$Builder")()
                both.add(query(term("id", document.get("id"))), must)
                both.add(query(term("contents", token)), must)
                present.append(searcher.count(both.build()) > 0)
        return sum(present) / len(present) if present else None

    def _terms(self, text: str) -> list[str]:
        analyze = java_class("io.anserini.analysis.AnalyzerUtils").analyze
        return [str(token) for token in analyze(self._searcher.get_analyzer(), java_string(text)).toArray()]

    def lookup(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the texts of those documents that are there, "title text" where the index has a title.

        Raise InputError where the index was built without its documents' texts.
        """
        texts: dict[str, str] = {}
        with java_errors(f"reading {self.folder} failed"):
            for batch in batches(ids, FETCHED_DOCS):
                documents = self._searcher.batch_get_docs(java_list(batch), os.cpu_count() or 1)
                for docid in batch:
                    if (document := documents.get(java_string(docid))) is None:
                        continue
                    raw = document.get("raw")
                    texts[docid] = document.get("contents") if raw is None else _text_of(raw)
                    if texts[docid] is None:
                        raise InputError(
                            f"{self.folder} was built without its documents' texts (-storeRaw, -storeContents): use "
                            "another index, or take the texts from the dataset instead of `docs: index`"
                        )
        return texts

    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise InputError("an index cannot be built from the text of an index; give `docs` a file")

    def identity(self) -> str:
        """Return a SHA-256 that tells this index from others; copies of its folder have the same.

        It covers the names and sizes of the files, and the content of those that hold the random identifiers
        which Lucene gives to segments and commits: a second build of the same documents has another identity.
        """
        digest = hashlib.sha256()
        for path in sorted(path for path in self.folder.iterdir() if path.name.startswith(("_", "segments_"))):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            if path.name.startswith("segments_") or path.suffix == ".si":
                digest.update(path.read_bytes())
        return digest.hexdigest()


def _text_of(raw: str) -> str:
    """Return the text of a stored document.

    JSON is joined as ir_datasets does by default, markup loses its tags as when Anserini parses it.
    """
    fields = _json_fields(raw)
    body = _body(fields)
    if body is None:
        has_tag = re.search(r"<[A-Za-z!/][^<>]*>", raw)
        return str(java_class("org.jsoup.Jsoup").parse(java_string(raw)).text()) if has_tag else raw
    return " ".join(
        part for part in (fields.get("title"), fields.get("headings"), body) if part and isinstance(part, str)
    )


def _json_fields(raw: str) -> dict[str, Any]:
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _body(fields: Mapping[str, Any]) -> str | None:
    return next((fields[name] for name in DOC_TEXTS if isinstance(fields.get(name), str)), None)
