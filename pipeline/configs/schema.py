"""The sections of a config: every key with its type, default and meaning, and marks for what else is known of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic.functional_validators import BeforeValidator, field_validator, model_validator

from ...rerankers import catalog, fusion
from ...rerankers.errors import InputError
from ...rerankers.marks import M, PathMark, marks
from ...rerankers.marks import Speed as Harmless
from ...rerankers.ranker import RankerOptions
from ..run import measures as evaluation

Key = tuple[str, ...]
"""The way to a value: the keys from the top, `("ranker", "num_child")`; items of a list go by number, from 0."""

FIRST_STAGE = "first_stage"  # the word for fusing a ranking with its first stage


@dataclass(frozen=True, slots=True)
class DatasetMark(PathMark):
    """A folder, or the name of a dataset that comes with the package."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One of the ways to fill a section: a file that names a key of it does not want the inherited key of another."""

    way: str


@dataclass(frozen=True, slots=True)
class Open:
    """A section whose other keys are known by the classes that belong to the value of its `selector`."""

    selector: str
    takers: Callable[[str], list[type[BaseModel]]]


METHOD = Open("method", lambda name: [RankerOptions, catalog.method(name).params])
BACKEND = Open("backend", lambda name: [catalog.backend(name).Options])

DataFile = Annotated[str | None, PathMark("file")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _one_alternative(cls, value: object, info: ValidationInfo) -> object:
        ways = {key: mark.way for key, mark in marks(cls, Alternative).items()}
        given = {ways[key] for key in (*info.data, info.field_name) if key in ways and info.data.get(key, value)}
        if info.field_name in ways and value is not None and len(given) > 1:
            *others, last = dict.fromkeys(ways.values())
            raise ValueError(f"give one of {', '.join(others)} and {last}")
        return value


Texts = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(lambda one: (one,) if isinstance(one, str) else one)
]
"""Texts, or one of them."""


class BeirFolder(_Section):
    """A BEIR folder and the split whose qrels name the queries."""

    beir: Annotated[str, DatasetMark("folder"), Alternative("beir")] = Field(
        description="the folder, or the name of a shipped dataset"
    )
    split: str = Field("test", description="the split whose qrels name the queries")


class DataFiles(_Section):
    """Documents, queries and relevance judgements in files."""

    docs: Annotated[str, PathMark("file or folder", word="index"), Alternative("docs")] = Field(
        description="JSONL, a folder of it, or TSV; or `index`: text of the first stage's Lucene index"
    )
    queries: Annotated[str, PathMark("file"), Alternative("docs")] = Field(description="TSV, JSONL or TREC topics")
    field: Annotated[str | None, Alternative("docs")] = Field(
        None, description="the part of a topic that is its text: title (if there is one), description, or another"
    )
    qrels: DataFile = Field(None, description="TREC or BEIR TSV")


class CandidateFile(_Section):
    """Candidates with their text in one file, as RankLLM writes them."""

    candidates: Annotated[str, PathMark("file"), Alternative("candidates")] = Field(
        description="JSON or JSONL with query, candidates and their text"
    )
    qrels: DataFile = Field(None, description="TREC or BEIR TSV")


class Queries(_Section):
    """The choice among the dataset's queries."""

    limit: Annotated[int | None, Alternative("limit")] = Field(None, ge=1, description="run the first so many")
    sample: Annotated[int | None, Alternative("sample")] = Field(None, ge=1, description="run so many at random")
    seed: int = Field(0, description="seed of the sample")
    ids: Annotated[Texts | None, Alternative("ids")] = Field(None, description="run the queries with these ids")
    first: int | None = Field(
        None, ge=1, description="of the chosen queries, run the first so many, as `--queries` does"
    )


class Rm3(_Section):
    """RM3 (relevance feedback without judgements), with Anserini's defaults."""

    fb_terms: int = Field(10, ge=1, description="expansion terms")
    fb_docs: int = Field(10, ge=1, description="first hits that the terms are taken from")
    original_query_weight: float = Field(
        0.5, ge=0, le=1, description="weight of the query as it was, beside the expansion"
    )


class Bm25(_Section):
    """Lucene BM25 through Pyserini."""

    index: Annotated[str, PathMark("folder", word="build")] = Field(
        description="a prebuilt index by Pyserini's name, a Lucene folder, or `build`"
    )
    k1: float = Field(0.9, ge=0, description="how fast a term's frequency saturates")
    b: float = Field(0.4, ge=0, le=1, description="how far scores are normalised by length")
    language: str | None = Field(
        None,
        description="code of the index's language, by which texts are split into terms; a prebuilt index's own, or en",
    )
    fields: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="fields of the index to search, each with its weight; a prebuilt index's own, or contents"
    )
    rm3: Rm3 | None = Field(None, description="expand queries by terms of their first hits")

    @model_validator(mode="after")
    def _searchable(self) -> Self:
        if self.rm3 and self.fields:
            raise ValueError("give one of fields and rm3: queries are expanded in one field only")
        if self.fields is not None and not any(self.fields.values()):
            raise ValueError("fields: give at least one a weight above 0, such as {contents: 1, title: 1}")
        return self


class FirstStage(_Section):
    """The source of the candidates, their number a query, and the order in which they are presented."""

    bm25: Annotated[Bm25 | None, Alternative("bm25")] = None
    run: Annotated[DataFile, Alternative("run")] = Field(None, description="a TREC run file")
    depth: int = Field(100, ge=1, description="candidates a query")
    order: Literal["given", "inverse", "shuffle"] = Field(
        "given", description="as retrieved, reversed, or shuffled: sensitivity to the initial ranking"
    )
    seed: int | None = Field(None, description="seed of the shuffle; the config's seed unless given")
    exclude_same_id: Literal["auto"] | bool = Field(
        "auto",
        description="drop a query's own document: auto where known to be it, true wherever ids are equal, false never",
    )


class Evaluate(_Section):
    """The measures."""

    measures: Texts = Field(("nDCG@10",), min_length=1, description="any measures of ir-measures")

    @model_validator(mode="after")
    def _known_measures(self) -> Self:
        try:
            evaluation.parse(self.measures)
        except InputError as error:
            raise ValueError(str(error)) from error
        return self


class Stage(_Section):
    """A stage of a cascade: it reranks the first documents of the order that the stage before it left."""

    ranker: Annotated[dict[str, Any], METHOD] = Field(description="as the config's `ranker`")
    model: Annotated[dict[str, Any] | None, BACKEND] = Field(
        None, description="as the config's `model`, which holds unless given"
    )
    depth: int | None = Field(None, ge=1, description="how many documents it ranks; all unless given")


class Fuse(_Section):
    """Another run that the reranked order is joined with."""

    model_config = ConfigDict(serialize_by_alias=True)

    method: Literal["rrf", "interpolate"] = Field(description="by ranks (reciprocal rank fusion), or by scores")
    other: Annotated[str, PathMark("file", word=FIRST_STAGE)] = Field(
        FIRST_STAGE, alias="with", description="first_stage, or a TREC run file"
    )
    k: int = Field(fusion.RRF_K, ge=0, description="rrf: a document's share is 1 / (k + rank)")
    alpha: float | None = Field(None, ge=0, le=1, description="interpolate: the other run's weight")

    @model_validator(mode="after")
    def _weighed(self) -> Self:
        if self.method == "interpolate" and self.alpha is None:
            raise ValueError("interpolate needs alpha, the weight of the other run: 0 to 1")
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Return the parameters of its method."""
        return {"k": self.k} if self.method == "rrf" else {"alpha": self.alpha or 0.0}


class Expected(_Section):
    """A published figure."""

    value: float = Field(description="the measure's mean")
    tolerance: float = Field(ge=0, description="how far a run may be from it")
    source: str = Field(description="where it was published")

    def allows(self, value: float) -> bool:
        """Return whether a measure's mean is within tolerance of the figure, but for rounding."""
        return abs(value - self.value) <= self.tolerance + evaluation.EXACT

    def verdict(self, value: float) -> str:
        """Return how a measure's mean stands to the figure: never that it reproduces it."""
        return "within tolerance" if self.allows(value) else "out of tolerance"


class Published(_Section):
    """A figure that was published for a system."""

    collection: str = Field(description="the collection and the candidates, such as DL19, BM25 top 100")
    measure: str = Field("nDCG@10", description="the measure")
    value: float = Field(description="the measure's mean")
    source: str = Field(description="where it was published")


class System(_Section):
    """A published reranker: what a file of `systems/` says of it beside its `ranker` and `model`."""

    family: str = Field(description="the line of models that it belongs to")
    size: str = Field(pattern=r"^[0-9.]+[MB]$", description="its parameters, in millions or billions: 33M, 0.6B")
    licence: str = Field(description="the licence of its weights")
    needs: Texts = Field((), description="what else it takes: an extra of r2llm, remote code, a GPU")
    source: str = Field(description="paper or model card, and the code that defines its input")
    verified: bool = Field(description="whether its scores were held against its authors' code or formula")
    check: str = Field(description="what they were held against; if not verified, what is to be checked")
    expected: list[Published] = Field([], description="published figures")

    @property
    def parameters(self) -> float:
        """Return the number of its parameters."""
        return float(self.size[:-1]) * {"M": 1e6, "B": 1e9}[self.size[-1]]


def _form(value: object) -> str:
    keys = value.model_fields_set if isinstance(value, BaseModel) else value
    if isinstance(keys, (Mapping, Set)):
        return next((form for form in ("beir", "candidates") if form in keys), "docs")
    return "id"


DatasetForm = Annotated[
    Annotated[str, Tag("id")]
    | Annotated[BeirFolder, Tag("beir")]
    | Annotated[CandidateFile, Tag("candidates")]
    | Annotated[DataFiles, Tag("docs")],
    Discriminator(_form),
]


class Config(_Section):
    """An experiment. `ranker` and `model` hold the keys that the method and backend use, and no others.

    A cascade has `stages` instead of a `ranker`; its `model` is that of the stages that have none of their own.
    """

    name: Harmless[str] = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        description="names the run's folder and is its tag; the file's stem unless given",
    )
    dataset: Annotated[DatasetForm, DatasetMark("folder")] = Field(
        description="an ir_datasets id, a BEIR folder, or files"
    )
    queries: Queries = Queries()
    first_stage: FirstStage = FirstStage()
    ranker: Annotated[dict[str, Any] | None, METHOD, Alternative("ranker")] = Field(
        None, description="the method, its prompt and parameters"
    )
    model: Annotated[dict[str, Any] | None, BACKEND] = Field(
        None, description="the backend that answers, and its model"
    )
    stages: Annotated[list[Stage] | None, Alternative("stages")] = Field(
        None, min_length=1, description="a cascade: rankers in sequence, instead of `ranker`"
    )
    fuse: Fuse | None = None
    evaluate: Harmless[Evaluate] = Evaluate()
    expected: Harmless[dict[str, Expected]] = {}
    about: Harmless[System | None] = Field(None, exclude_if=lambda about: about is None)
    schedule: Harmless[Literal["throughput", "latency"]] = Field(
        "throughput", description="all queries at once, or one at a time: a query's seconds are then its latency"
    )
    max_unparsed: Harmless[float | None] = Field(
        None, ge=0, le=1, description="the share of unread answers above which rerank exits with 3; none unless given"
    )
    shared_ledger: Annotated[Harmless[str | None], PathMark("any")] = Field(
        None, description="a folder of answers that runs share, also across machines; looked up before a model is asked"
    )
    seed: int = Field(0, description="seed of all random choices that have no seed of their own")

    @property
    def shuffle_seed(self) -> int:
        """Return the seed of the shuffle alone."""
        return self.seed if self.first_stage.seed is None else self.first_stage.seed


Axes = dict[str, list[Any] | dict[str, Any]]


class FileKeys(_Section):
    """Keys of a file that makes one config of others, or many: they are no part of a config."""

    extends: Texts | None = Field(None, description="configs to start from, by path or shipped name; later ones win")
    base: Texts | None = Field(None, description="a grid's `extends`; several are an axis, `base`")
    grid: Axes = Field(
        {}, description="makes the file a grid: each axis with its values, of a key or the names of parts"
    )
    axes: Axes = Field({}, description="another word for `grid`")
    exclude: list[dict[str, Any]] = Field([], description="combinations of a grid that are left out")
    formerly: str = Field("", description="the names that a grid's cells had, with {axis} for a value")


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a config with its value, and what the sections say about it."""

    holder: Any  # the mapping or list that the value stands in
    part: Any  # its key or number there
    key: Key
    fields: list[FieldInfo]  # of that key, in each class that may check its section
    types: list[Any]  # that the value may have; none if it may be anything
    siblings: Set[str]  # the keys that its section may have; none if it may have any
    section: Open | None  # its section, if that is an open one

    @property
    def value(self) -> Any:
        """Return the value."""
        return self.holder[self.part]

    def mark(self, kind: type[M]) -> M | None:
        """Return the mark of this kind on one of its fields, or None."""
        return next((mark for field in self.fields for mark in field.metadata if isinstance(mark, kind)), None)


def walk(values: Any, types: Sequence[Any] = (), key: Key = (), section: Open | None = None) -> Iterator[Entry]:
    """Yield every key of a config, sections before what is in them. Meanwhile, values may be replaced or deleted."""
    known = fields(types or [Config]) if isinstance(values, dict) else {}
    for part in list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ():
        named = known.get(str(part), [])
        inner = [kind for field in named for kind in kinds(field.annotation)] if named else items(types)
        siblings = known.keys() | {section.selector} if section else known.keys()
        entry = Entry(values, part, (*key, str(part)), named, inner, siblings, section)
        opened, value = entry.mark(Open), entry.value
        if opened and isinstance(value, dict) and value.get(opened.selector) in catalog.names(opened.selector):
            inner += opened.takers(value[opened.selector])
        yield entry
        if isinstance(values, list) or part in values:
            yield from walk(values[part], inner or [Any], entry.key, opened)


def fields(types: Iterable[Any]) -> dict[str, list[FieldInfo]]:
    """Return the fields of the classes among these types, by their key in a file."""
    by_key: dict[str, list[FieldInfo]] = {}
    for model in models(types):
        for name, field in model.model_fields.items():
            by_key.setdefault(field.alias or name, []).append(field)
    return by_key


def kinds(annotation: Any) -> list[Any]:
    """Return the types that a value may have: each of a union, without what constrains it."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in kinds(member)]
    return [annotation]


def items(types: Iterable[Any]) -> list[Any]:
    """Return the types of the values in a mapping or list of one of these types."""
    within = [kind for kind in types if get_args(kind) and get_origin(kind) is not Literal]
    return [one for kind in within for one in kinds(get_args(kind)[get_origin(kind) is dict])]


def models(types: Iterable[Any]) -> list[type[BaseModel]]:
    """Return those of some types that check a section."""
    return [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]


def alternatives(section: Key) -> dict[str, str]:
    """Return the way that each key of a section belongs to, where there are several to fill it; others are left out."""
    types: list[Any] = [Config]
    for part in section:
        types = [kind for field in fields(types).get(part, []) for kind in kinds(field.annotation)]
    return {key: mark.way for model in models(types) for key, mark in marks(model, Alternative).items()}
