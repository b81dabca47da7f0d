"""The first stage: Lucene BM25, a given TREC run, or the candidates that a dataset carries.

Lucene's hits are cached under a hash of the index, the parameters and the queries, so each search is done once.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import filelock

from ...rerankers.errors import InputError
from ...rerankers.hashing import cache_folder, file_digest
from ...rerankers.types import Candidates, Doc, Query
from .. import datasets
from ..configs.load import Loaded
from ..configs.load import Queries as QueryChoice
from ..configs.schema import Bm25, CandidateFile, DataFiles
from ..datasets import Dataset, Docs
from ..datasets.base import batches
from ..io.files import replacing
from ..io.progress import Listener
from ..run import contents, runfile
from ..run.runfile import Run
from ..run.shards import Shard
from . import lucene

Rule = bool | Literal["auto"]
"""`first_stage.exclude_same_id`."""


@dataclass(frozen=True)
class FirstStage:
    """The candidates of an experiment's queries, in first-stage order, and their origin.

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
        """Yield each query's candidates with their text, in the order of presentation."""
        for query_id, hits in self.run.items():
            presented = hits[::-1] if self.order == "inverse" else list(hits)
            if self.order == "shuffle":
                random.Random(f"{self.seed}|{query_id}").shuffle(presented)  # noqa: S311
            texts = self.docs.texts([doc for doc, _ in presented])
            docs = tuple(Doc(doc, texts[doc]) for doc, _ in presented)
            yield Candidates(self.queries[query_id], docs, tuple(score for _, score in presented))

    @property
    def own_queries(self) -> dict[str, Query]:
        """The queries that are ranked here: the shard's, or all."""
        return self.shard.part(self.queries) if self.shard else self.queries

    @property
    def documents(self) -> dict[str, list[str]]:
        """Document ids of each query in first-stage order."""
        return runfile.documents(self.run)


def retrieve(loaded: Loaded, listener: Listener, shard: Shard | None = None) -> FirstStage:
    """Return the first stage of an experiment, or of a shard of it, which may turn out to have no candidates.

    Raise InputError for queries, documents or runs that are missing or do not belong together.
    """
    return _Retrieval(loaded, listener, shard).first_stage()


def dataset_with_index(loaded: Loaded, listener: Listener) -> Dataset:
    """Return the dataset that a config names; it opens the first stage's index where that holds its documents."""
    return _Retrieval(loaded, listener, None).dataset


def open_dataset(loaded: Loaded, docs_from_index: Callable[[], Docs] | None = None) -> Dataset:
    """Return the dataset that a config names."""
    spec = loaded.config.dataset
    plain = spec if isinstance(spec, str) else spec.model_dump(exclude_none=True)
    return datasets.load(plain, docs_from_index)


class _Retrieval:
    def __init__(self, loaded: Loaded, listener: Listener, shard: Shard | None) -> None:
        self.loaded = loaded
        self.shard = shard
        self.config = loaded.config
        self.stage = loaded.config.first_stage
        self.listener = listener

    def first_stage(self) -> FirstStage:
        config, order = self.config, self.stage.order
        queries = chosen_queries(self.dataset.queries(), config.queries)
        for note in self.dataset.notes(queries):
            self.listener.note(note)
        own = self.shard.part(queries) if self.shard else queries
        run, source = self._candidates(queries, own)
        run = {query: run[query] for query in own if query in run}
        docs = self.dataset.docs()
        absent = self._absent(run, queries, docs)
        same_id = {id_: query for id_, query in queries.items() if id_ not in absent}
        themselves = _own_documents(self.dataset, self.stage.exclude_same_id, same_id)
        run = _without_excluded(run, self.dataset, themselves, self.listener)
        run = {query: hits[: self.stage.depth] for query, hits in run.items() if hits}
        if not run and not self.shard:
            raise InputError("none of the queries has candidates; check that queries and first stage belong together")
        if len(run) < len(own):
            self.listener.note(f"{len(own) - len(run)} of {len(own)} queries have no candidates")
        content = self.dataset.identity()
        identity: dict[str, object] = {"dataset": without_qrels(content), "queries": contents.queries(queries)}
        identity |= {"source": source, "depth": self.stage.depth, "order": order}
        beir = "beir" in content or str(content.get("ir_datasets")).startswith("beir/")
        kept = sum(doc == query for query, hits in run.items() for doc, _ in hits)
        if beir and kept:
            self.listener.note(
                f"{kept} candidates have their query's id and are kept: they are judged relevant, or nothing says that "
                "they are the query itself (first_stage.exclude_same_id)"
            )
        if themselves != (same_id.keys() if beir else set()):
            identity["themselves"] = contents.digest(sorted(themselves))
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
        bm25 = self.stage.bm25
        if bm25 is None:
            raise InputError("dataset: `docs: index` takes text out of first_stage.bm25.index, which is not given")
        if bm25.index != "build":
            return lucene.Index(lucene.find_index(bm25.index))
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
        flat = _flat(self.dataset.identity())
        return {key: value for key, value in flat.items() if key not in ("qrels", "queries", "field")}

    def _candidates(self, queries: Mapping[str, Query], own: Mapping[str, Query]) -> tuple[Run, dict[str, object]]:
        """Return the hits of each of the own queries, best first, and a specification of all that decides them."""
        if self.stage.bm25 is not None:
            run, source = self._searched(self.stage.bm25, queries, own)
            origin = "BM25"
        elif self.stage.run is not None:
            path = Path(self.stage.run)
            origin = str(path)
            if not path.is_file():
                raise InputError(f"first_stage.run: no file {origin}; {datasets.LOOKED}")
            run, warnings = runfile.read(path, own.keys() if self.shard else None, intern=True)
            if not run:  # it may be of other queries altogether, which is refused
                run, _ = runfile.read(path, intern=True)
            for warning in warnings:
                self.listener.note(warning)
            source = {"run": file_digest(path)}
        else:
            carried = self.dataset.first_stage()
            if carried is None:
                raise InputError("first_stage needs bm25 or run: where do the candidates come from?")
            run, source, origin = carried, {"carried": True}, "the dataset's candidates"
        strangers = [query for query in run if query not in queries]
        if strangers and len(strangers) == len(run):
            raise InputError(f"{origin}: none of its {len(run)} queries belongs to the experiment ({strangers[:1]})")
        if strangers and self.stage.run:
            self.listener.note(f"{origin}: {len(strangers)} queries outside the experiment are ignored")
        return run, source

    def _searched(
        self, bm25: Bm25, queries: Mapping[str, Query], own: Mapping[str, Query]
    ) -> tuple[Run, dict[str, object]]:
        if isinstance(self.config.dataset, CandidateFile) and bm25.index == "build":
            raise InputError("first_stage.bm25.index: a file of candidates is no corpus to build an index of")
        if isinstance(self.config.dataset, DataFiles) and (self.config.dataset.docs, bm25.index) == ("index", "build"):
            raise InputError("an index cannot be built from the text of an index; give `docs` a file")
        excluded = self.dataset.exclusions()
        depth = self.stage.depth + max((len(excluded.get(query, ())) for query in queries), default=0)
        index: object = bm25.index
        if bm25.index == "build":
            index = {"build": self._corpus_identity}
        elif Path(bm25.index).is_dir():
            index = self.index.identity()
        language = bm25.language or lucene.language_of(bm25.index)
        # RM3 takes `contents` alone.
        fields = bm25.fields or (None if bm25.rm3 else lucene.fields_of(bm25.index))
        rm3 = bm25.rm3.model_dump() if bm25.rm3 else None
        source: dict[str, object] = {"index": index, "k1": bm25.k1, "b": bm25.b}
        source |= {} if language == "en" else {"language": language}
        source |= ({"fields": fields} if fields else {}) | ({"rm3": rm3} if rm3 else {})

        def search(notes: list[str]) -> Run:
            prebuilt = bm25.index if index == bm25.index else None
            self.index.use(language, rm3, prebuilt=prebuilt)
            if not prebuilt or bm25.language or bm25.fields:
                self.index.check(language, fields, sure=bm25.language is not None)
            options: dict[str, Any] = {"k1": bm25.k1, "b": bm25.b, "depth": depth, "fields": fields}
            with self.listener.task("searching", len(own)) as advance:
                return self.index.search([*own.values()], **options, on_note=notes.append, on_progress=advance)

        # A shard takes its part of the hits of all queries, or else searches for its part alone.
        places = []
        for asked in (queries, own) if self.shard else (own,):
            key = contents.digest([source, depth, [[query.id, query.text] for query in asked.values()]])
            places.append(cache_folder() / "first_stages" / f"{key[:32]}.trec")
        cached = next((place for place in places if place.exists()), places[-1])
        odd = cached.with_suffix(".notes")
        with _one_process(cached):
            if cached.exists():
                run, _ = runfile.read(cached, own.keys(), intern=True)
                notes = odd.read_text(encoding="utf-8").splitlines() if odd.is_file() else []
            else:
                notes = []
                run = search(notes) if own else {}
                if any(run.values()):
                    if notes:
                        with replacing(odd) as stream:
                            stream.write("\n".join(notes))
                    runfile.write_scored(cached, {query: hits for query, hits in run.items() if hits}, "bm25")
        for note in notes:
            self.listener.note(note)
        return run, source

    def _absent(self, run: Run, queries: Iterable[str], docs: Docs) -> set[str]:
        """Return the queries' identifiers that no document has.

        Raise InputError for a run with documents that the dataset does not have, also below the depth.
        """
        candidates = dict.fromkeys(doc for hits in run.values() for doc, _ in hits)
        absent = docs.missing([*candidates, *queries])
        missing = [doc for doc in absent if doc in candidates]
        if missing:
            query = next(query for query, hits in run.items() if any(doc == missing[0] for doc, _ in hits))
            others = f", and so are {len(missing) - 1} others" if len(missing) > 1 else ""
            raise InputError(
                f"{self.stage.run or 'the first stage'}: query {query}: document {missing[0]} is not in dataset "
                f"{self.dataset.name}{others}; run and dataset must belong together"
            )
        return set(absent)


def chosen_queries(queries: Mapping[str, Query], choice: QueryChoice) -> dict[str, Query]:
    """Return the queries to run, in the dataset's order."""
    if choice.ids is not None:
        unknown = [query for query in choice.ids if query not in queries]
        if unknown:
            raise InputError(f"queries.ids: {', '.join(unknown)} not among the dataset's {len(queries)} queries")
        wanted = set(choice.ids)
    elif choice.sample is not None:
        wanted = set(random.Random(choice.seed).sample(sorted(queries), min(choice.sample, len(queries))))  # noqa: S311
    else:
        wanted = set(list(queries)[: choice.limit])
    return dict(islice((item for item in queries.items() if item[0] in wanted), choice.first))


def without_own_documents(run: Run, dataset: Dataset, rule: Rule, listener: Listener) -> Run:
    """Return a run as the first stage would take it: without excluded documents, whoever made it."""
    queries = dataset.queries()
    same_id = [query for query, hits in run.items() if query in queries and any(doc == query for doc, _ in hits)]
    if same_id and dataset.queries_are_documents is None and rule == "auto":
        absent = dataset.docs().missing(same_id)
        same_id = [query for query in same_id if query not in absent]
    themselves = _own_documents(dataset, rule, {query: queries[query] for query in same_id})
    return _without_excluded(run, dataset, themselves, listener)


def _own_documents(dataset: Dataset, rule: Rule, same_id: Mapping[str, Query]) -> set[str]:
    """Return the queries of `same_id`, each of which is the id of a document, whose results lose that document.

    Where the rule is `auto` the document must be known to be the query itself: by the dataset's name, or by its text.
    One that is judged relevant is never dropped.
    """
    qrels = dataset.qrels() or {}
    unjudged = [query for query in same_id if qrels.get(query, {}).get(query, 0) <= 0]
    known = dataset.queries_are_documents if rule == "auto" else rule
    if known is not None:
        return set(unjudged) if known else set()
    return {
        query
        for batch in batches(unjudged, 1000)
        for query, text in dataset.docs().texts(batch).items()
        if text.split() == same_id[query].text.split()
    }


def _without_excluded(run: Run, dataset: Dataset, themselves: set[str], listener: Listener) -> Run:
    excluded = dataset.exclusions()
    kept = {}
    for query, hits in run.items():
        dropped = excluded.get(query, set()) | {query} & themselves
        kept[query] = [hit for hit in hits if hit[0] not in dropped]
    counts = [count for query, hits in run.items() if (count := len(hits) - len(kept[query]))]
    if counts:
        listener.note(
            f"{sum(counts)} documents are excluded from the results of {len(counts)} queries: each is the "
            "query itself, or the dataset says that it is no result"
        )
    return kept


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Let one process at a time make what belongs at `path`; the others wait and find it made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{path.name}.lock")):
            yield
    except OSError as error:
        problem = f"the cache folder {cache_folder()} cannot be used ({error})"
        raise InputError(f"{problem}; name another with R2LLM_CACHE") from error


def without_qrels(identity: Mapping[str, object]) -> dict[str, object]:
    """Return a dataset's identity without its judgements, which do not change a ranking."""
    return {
        key: without_qrels(value) if isinstance(value, Mapping) else value
        for key, value in identity.items()
        if key != "qrels"
    }


def _flat(identity: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in identity.items():
        flat |= _flat(value) if isinstance(value, Mapping) else {key: value}
    return flat
