"""The first stage: Lucene BM25, a given TREC run, or the candidates that a dataset carries.

What Lucene finds is cached under a hash of the index, the parameters and the queries, so it is searched once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import filelock

from ...rerankers.errors import InputError
from ...rerankers.hashing import cache_folder, file_digest
from ...rerankers.types import Candidates, Doc, Query
from .. import datasets
from ..configs.load import Bm25, CandidateFile, Config, DataFiles, Loaded
from ..configs.load import Queries as QueryChoice
from ..datasets import Dataset, Docs
from ..io.files import replacing
from ..io.progress import Listener
from ..run import contents, runfile
from ..run.runfile import Run
from ..run.shards import Shard
from . import lucene

NOTES = ".notes"
"""The suffix of the file, beside what was found by a search, that holds what was odd about it."""

TEXTS_AT_A_TIME = 1000
"""Documents whose texts are in memory at a time, where they are compared with queries."""


@dataclass(frozen=True)
class FirstStage:
    """The candidates of an experiment's queries, in first-stage order, and what they were made from.

    In a shard `queries` and `identity` are of the whole experiment, and `run` is of the shard's queries.
    """

    dataset: Dataset
    queries: dict[str, Query]
    run: Run
    docs: Docs
    identity: dict[str, object]
    order: str
    seed: int
    shard: Shard | None = None

    def __iter__(self) -> Iterator[Candidates]:
        """Each query's candidates with their text, in the order of presentation."""
        for query_id, found in self.run.items():
            presented = self._presented(query_id, found)
            texts = self.docs.texts([doc for doc, _ in presented])
            yield Candidates(
                query=self.queries[query_id],
                docs=tuple(Doc(doc, texts[doc]) for doc, _ in presented),
                scores=tuple(score for _, score in presented),
            )

    @property
    def own_queries(self) -> dict[str, Query]:
        """The queries that are ranked here: the shard's, or all."""
        return self.shard.part(self.queries) if self.shard else self.queries

    @property
    def documents(self) -> dict[str, list[str]]:
        """Document ids of each query in first-stage order."""
        return {query: [doc for doc, _ in found] for query, found in self.run.items()}

    def _presented(self, query_id: str, found: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
        presented = list(found)
        if self.order == "inverse":
            presented.reverse()
        elif self.order == "shuffle":
            random.Random(f"{self.seed}|{query_id}").shuffle(presented)  # noqa: S311
        return presented


def retrieve(loaded: Loaded, listener: Listener, shard: Shard | None = None) -> FirstStage:
    """The first stage of an experiment, or of a shard of it, which may turn out to have no candidates at all.

    Raises `InputError` for queries, documents or runs that are missing or do not belong together.
    """
    return _Retrieval(loaded, listener, shard).first_stage()


def dataset_with_index(loaded: Loaded, listener: Listener) -> Dataset:
    """The dataset that a config names, which opens the first stage's index where its documents are there."""
    return _Retrieval(loaded, listener, None).dataset


def open_dataset(loaded: Loaded, docs_from_index: Callable[[], Docs] | None = None) -> Dataset:
    """The dataset that a config names."""
    spec = loaded.config.dataset
    plain = spec if isinstance(spec, str) else spec.model_dump(exclude_none=True)
    return datasets.load(plain, base=loaded.folder, docs_from_index=docs_from_index)


class _Retrieval:
    """One experiment's first stage in the making."""

    def __init__(self, loaded: Loaded, listener: Listener, shard: Shard | None) -> None:
        self.loaded = loaded
        self.shard = shard
        self.config: Config = loaded.config
        self.folder = loaded.folder
        self.listener = listener

    def first_stage(self) -> FirstStage:
        config = self.config
        queries = chosen_queries(self.dataset.queries(), config.queries)
        for note in self.dataset.notes(queries):
            self.listener.note(note)
        own = self.shard.part(queries) if self.shard else queries
        run, source = self._found(queries, own)
        run = {query: run[query] for query in own if query in run}
        docs = self.dataset.docs()
        absent = self._absent(run, queries, docs)
        same_id = {id_: query for id_, query in queries.items() if id_ not in absent}
        themselves = own_documents(self.dataset, config.first_stage.exclude_same_id, same_id)
        run = without_excluded(run, self.dataset, themselves, self.listener)
        depth = config.first_stage.depth
        run = {query: run[query][:depth] for query in own if run.get(query)}
        if not run and not self.shard:
            raise InputError("none of the queries has candidates; check that queries and first stage belong together")
        if len(run) < len(own):
            self.listener.note(f"{len(own) - len(run)} of {len(own)} queries have no candidates")
        identity = {
            "dataset": without_qrels(self.dataset.identity()),
            "queries": contents.queries(queries),
            "source": source,
            "depth": depth,
            "order": config.first_stage.order,
        }
        named = self.dataset.identity()
        beir = "beir" in named or str(named.get("ir_datasets")).startswith("beir/")
        kept = sum(doc == query for query, found in run.items() for doc, _ in found)
        if beir and kept:
            self.listener.note(
                f"{kept} candidates have their query's id and are kept: they are judged relevant, or nothing says that "
                "they are the query itself (first_stage.exclude_same_id)"
            )
        if themselves != (same_id.keys() if beir else set()):
            identity["themselves"] = contents.digest(sorted(themselves))
        order = config.first_stage.order
        if order == "shuffle" and config.shuffle_seed != config.seed:
            identity["seed"] = config.shuffle_seed
        return FirstStage(self.dataset, queries, run, docs, identity, order, config.shuffle_seed, self.shard)

    @cached_property
    def dataset(self) -> Dataset:
        """The experiment's dataset."""
        return open_dataset(self.loaded, lambda: self.index)

    @cached_property
    def index(self) -> lucene.Index:
        """The Lucene index that the config names, built first where it says so."""
        bm25 = self.config.first_stage.bm25
        if bm25 is None:
            raise InputError("dataset: `docs: index` takes text out of first_stage.bm25.index, which is not given")
        if bm25.index != "build":
            return lucene.Index(lucene.find_index(bm25.index, base=self.folder))
        language = bm25.language or "en"
        corpus = self._corpus_identity | ({} if language == "en" else {"language": language})
        folder = cache_folder() / "indexes" / contents.digest(corpus)[:32]
        with _one_process(folder):
            if not folder.exists():
                lucene.check_language(language)
                with self.listener.task("indexing", None) as advance:
                    lucene.build_index(self.dataset.docs(), folder, language=language, on_progress=advance)
        return lucene.Index(folder)

    @property
    def _corpus_identity(self) -> dict[str, object]:
        of_queries = ("qrels", "queries", "field")
        return {key: value for key, value in _flat(self.dataset.identity()).items() if key not in of_queries}

    def _found(self, queries: Mapping[str, Query], own: Mapping[str, Query]) -> tuple[Run, dict[str, object]]:
        """What the first stage found for each of its own queries, best first, and a specification of all of it."""
        stage = self.config.first_stage
        if stage.bm25 is not None:
            return self._searched(stage.bm25, queries, own)
        if stage.run is not None:
            path = self._run_file(stage.run)
            run, warnings = runfile.read(path, own.keys() if self.shard else None)
            if not run:  # it may be of other queries altogether, which is refused
                run, _ = runfile.read(path)
            for warning in warnings:
                self.listener.note(warning)
            return self._relevant(run, queries, str(path)), {"run": file_digest(path)}
        carried = self.dataset.first_stage()
        if carried is None:
            raise InputError("first_stage needs bm25 or run: where do the candidates come from?")
        return self._relevant(carried, queries, "the dataset's candidates"), {"carried": True}

    def _searched(
        self, bm25: Bm25, queries: Mapping[str, Query], own: Mapping[str, Query]
    ) -> tuple[Run, dict[str, object]]:
        if isinstance(self.config.dataset, CandidateFile) and bm25.index == "build":
            raise InputError("first_stage.bm25.index: a file of candidates is no corpus to build an index of")
        if isinstance(self.config.dataset, DataFiles) and (self.config.dataset.docs, bm25.index) == ("index", "build"):
            raise InputError("an index cannot be built from the text of an index; give `docs` a file")
        excluded = self.dataset.exclusions()
        spare = max((len(excluded.get(query, ())) for query in queries), default=0)
        depth = self.config.first_stage.depth + spare
        if bm25.index == "build":
            index: object = {"build": self._corpus_identity}
        elif Path(bm25.index).is_dir():
            index = self.index.identity()
        else:
            index = bm25.index
        language, fields = _language(bm25), _fields(bm25)
        source: dict[str, object] = {"index": index, "k1": bm25.k1, "b": bm25.b}
        source |= {} if language == "en" else {"language": language}
        source |= {"fields": fields} if fields else {}
        source |= {"rm3": bm25.rm3.model_dump()} if bm25.rm3 else {}
        # A shard takes its part of what was found for all, or else searches for its part alone.
        places = [_cached_search([source, depth], asked) for asked in ((queries, own) if self.shard else (own,))]
        cached = next((place for place in places if place.exists()), places[-1])
        with _one_process(cached):
            if cached.exists():
                run, _ = runfile.read(cached, own.keys())
            else:
                noted: list[str] = []
                run = self._search(bm25, depth, own, noted) if own else {}
                if any(run.values()):
                    if noted:
                        with replacing(cached.with_suffix(NOTES)) as stream:
                            stream.write("\n".join(noted))
                    runfile.write_scored(cached, {query: found for query, found in run.items() if found}, "bm25")
                elif noted:
                    self.listener.note(noted[0])
            if cached.with_suffix(NOTES).is_file():
                for note in cached.with_suffix(NOTES).read_text(encoding="utf-8").splitlines():
                    self.listener.note(note)
        return self._relevant(run, queries, "BM25"), source

    def _search(self, bm25: Bm25, depth: int, queries: Mapping[str, Query], notes: list[str]) -> Run:
        """Return what Lucene finds; `notes` is added to where that is odd."""
        language, fields = _language(bm25), _fields(bm25)
        prebuilt = None if bm25.index == "build" or Path(bm25.index).is_dir() else bm25.index
        self.index.use(language, bm25.rm3.model_dump() if bm25.rm3 else None, prebuilt=prebuilt)
        if not prebuilt or bm25.language or bm25.fields:
            self.index.check(language, fields, sure=bm25.language is not None)
        asked = list(queries.values())
        with self.listener.task("searching", len(asked)) as advance:
            return self.index.search(
                asked, k1=bm25.k1, b=bm25.b, depth=depth, fields=fields, on_note=notes.append, on_progress=advance
            )

    def _run_file(self, name: str) -> Path:
        path = Path(name)
        if not path.is_file():
            raise InputError(f"first_stage.run: no file {name} in {self.folder} or {Path.cwd()}")
        return path

    def _relevant(self, run: Run, queries: Mapping[str, Query], source: str) -> Run:
        """The run of the experiment's queries, in their order."""
        strangers = [query for query in run if query not in queries]
        if strangers and len(strangers) == len(run):
            raise InputError(f"{source}: none of its {len(run)} queries belongs to the experiment ({strangers[:1]})")
        if strangers and self.config.first_stage.run:
            self.listener.note(f"{source}: {len(strangers)} queries outside the experiment are ignored")
        return {query: run[query] for query in queries if query in run}

    def _absent(self, run: Run, queries: Iterable[str], docs: Docs) -> set[str]:
        """Return which of the queries' identifiers no document has.

        Raises `InputError` for a run with documents that the dataset does not have, also below the depth.
        """
        candidates = dict.fromkeys(doc for found in run.values() for doc, _ in found)
        absent = docs.missing([*candidates, *queries])
        missing = [doc for doc in absent if doc in candidates]
        if missing:
            query = next(query for query, found in run.items() if any(doc == missing[0] for doc, _ in found))
            source = self.config.first_stage.run or "the first stage"
            raise InputError(
                f"{source}: query {query}: document {missing[0]} is not in dataset {self.dataset.name}"
                + (f", and so are {len(missing) - 1} others" if len(missing) > 1 else "")
                + "; run and dataset must belong together"
            )
        return set(absent)


def _language(bm25: Bm25) -> str:
    """The language of the index."""
    return bm25.language or lucene.language_of(bm25.index)


def _fields(bm25: Bm25) -> dict[str, float] | None:
    """The fields to search; None for `contents`. RM3 takes that one alone."""
    return bm25.fields or (None if bm25.rm3 else lucene.fields_of(bm25.index))


def chosen_queries(queries: Mapping[str, Query], choice: QueryChoice) -> dict[str, Query]:
    """The queries to run, in the dataset's order."""
    if choice.ids is not None:
        unknown = [query for query in choice.ids if query not in queries]
        if unknown:
            raise InputError(f"queries.ids: {', '.join(unknown)} not among the dataset's {len(queries)} queries")
        wanted = set(choice.ids)
    elif choice.sample is not None:
        wanted = set(random.Random(choice.seed).sample(sorted(queries), min(choice.sample, len(queries))))  # noqa: S311
    else:
        wanted = set(list(queries)[: choice.limit])
    chosen = (item for item in queries.items() if item[0] in wanted)
    return dict(islice(chosen, choice.first))


def own_documents(dataset: Dataset, rule: bool | Literal["auto"], same_id: Mapping[str, Query]) -> set[str]:
    """Return those queries that a document of their identifier, which each of `same_id` has, is to be dropped from.

    Where the rule is `auto` the document must be known to be the query itself: by the dataset's name, or by its text.
    One that is judged relevant is never dropped.
    """
    qrels = dataset.qrels() or {}
    unjudged = [query for query in same_id if qrels.get(query, {}).get(query, 0) <= 0]
    if rule != "auto" or dataset.queries_are_documents is not None:
        return set(unjudged) if (dataset.queries_are_documents if rule == "auto" else rule) else set()
    docs = dataset.docs() if unjudged else None
    return {
        query
        for start in range(0, len(unjudged), TEXTS_AT_A_TIME)
        for query, text in (docs.texts(unjudged[start : start + TEXTS_AT_A_TIME]) if docs else {}).items()
        if text.split() == same_id[query].text.split()
    }


def without_excluded(run: Run, dataset: Dataset, themselves: Container[str], listener: Listener) -> Run:
    """Return the run without what the dataset excludes and without the documents that are their query."""
    listed = dataset.exclusions()
    kept = {
        query: [
            (doc, score)
            for doc, score in found
            if doc not in listed.get(query, ()) and not (doc == query and query in themselves)
        ]
        for query, found in run.items()
    }
    dropped = {query: count for query, found in run.items() if (count := len(found) - len(kept[query]))}
    if dropped:
        listener.note(
            f"{sum(dropped.values())} documents are excluded from the results of {len(dropped)} queries: each is the "
            "query itself, or the dataset says that it is no result"
        )
    return kept


def without_own_documents(run: Run, dataset: Dataset, rule: bool | Literal["auto"], listener: Listener) -> Run:
    """Return a run as the first stage would take it: without excluded documents, whoever made it."""
    queries = dataset.queries()
    same_id = [query for query, found in run.items() if query in queries and any(doc == query for doc, _ in found)]
    if same_id and dataset.queries_are_documents is None and rule == "auto":
        absent = dataset.docs().missing(same_id)
        same_id = [query for query in same_id if query not in absent]
    themselves = own_documents(dataset, rule, {query: queries[query] for query in same_id})
    return without_excluded(run, dataset, themselves, listener)


def _cached_search(search: list[object], queries: Mapping[str, Query]) -> Path:
    """Where what a search for some queries found is kept."""
    asked = [[query.id, query.text] for query in queries.values()]
    return cache_folder() / "first_stages" / f"{contents.digest([*search, asked])[:32]}.trec"


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Let one process at a time make what belongs at `path`; the others wait and find it made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{path.name}.lock")):
            yield
    except OSError as error:
        raise InputError(
            f"the cache folder {cache_folder()} cannot be used ({error}); name another with R2LLM_CACHE"
        ) from error


def without_qrels(identity: Mapping[str, object]) -> dict[str, object]:
    """Judgements do not change a ranking: a corrected qrels file must not make another experiment of it."""
    return {
        key: without_qrels(value) if isinstance(value, Mapping) else value
        for key, value in identity.items()
        if key != "qrels"
    }


def _flat(identity: Mapping[str, object]) -> dict[str, object]:
    """The identity's entries, those of a nested one too."""
    flat: dict[str, object] = {}
    for key, value in identity.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: value}
    return flat
