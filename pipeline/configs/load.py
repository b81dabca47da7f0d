"""The config: what a YAML file may say, checked, with the place of whatever is wrong."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ...rerankers import catalog, fusion
from ...rerankers.backends.base import ModelOptions
from ...rerankers.errors import InputError
from ...rerankers.marks import PathMark, SpeedMark, marks
from ...rerankers.ranker import Ranker, RankerOptions
from .. import evaluate
from ..io.progress import Listener
from . import yaml_files
from .yaml_files import Document, Key

FIRST_STAGE = "first_stage"
"""What a ranking is fused with where it is no run file."""

SHIPPED = Path(__file__).parents[2] / "configs"
"""The configs that come with the package."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _texts(value: object) -> object:
    """Return a text or a list of texts as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class BeirFolder(_Section):
    """A BEIR folder and the split whose qrels name the queries."""

    beir: str = Field(description="the folder, or the name of a shipped dataset")
    split: str = Field("test", description="the one whose qrels name the queries")


class DataFiles(_Section):
    """Documents, queries and relevance judgements in files."""

    docs: str = Field(description="JSONL, a folder of it, or TSV; or `index`: text of the first stage's Lucene index")
    queries: str = Field(description="TSV, JSONL or TREC topics")
    field: str | None = Field(
        None, description="the part of a topic that is its text: title (if there is one), description, or another"
    )
    qrels: str | None = Field(None, description="TREC or BEIR TSV")


class CandidateFile(_Section):
    """Candidates with their text in one file, as RankLLM writes them."""

    candidates: str = Field(description="JSON or JSONL with query, candidates and their text")
    qrels: str | None = Field(None, description="TREC or BEIR TSV")
    queries: str | None = Field(None, description="TSV or JSONL")


class Queries(_Section):
    """Which of the dataset's queries to run."""

    limit: int | None = Field(None, ge=1, description="the first so many")
    sample: int | None = Field(None, ge=1, description="so many at random")
    seed: int = Field(0, description="what the sample is drawn with")
    ids: Texts | None = Field(None, description="these")
    first: int | None = Field(None, ge=1, description="of those only the first so many, as `--queries`")

    @model_validator(mode="after")
    def _one_choice(self) -> Queries:
        if sum(choice is not None for choice in (self.limit, self.sample, self.ids)) > 1:
            raise ValueError("give one of limit, sample and ids")
        return self


class Rm3(_Section):
    """RM3 (relevance feedback without judgements), with Anserini's defaults."""

    fb_terms: int = Field(10, ge=1, description="expansion terms")
    fb_docs: int = Field(10, ge=1, description="first hits that they are taken from")
    original_query_weight: float = Field(0.5, ge=0, le=1, description="of the query as it was, beside the expansion")


class Bm25(_Section):
    """Lucene BM25 through Pyserini."""

    index: str = Field(description="a prebuilt index by Pyserini's name, a Lucene folder, or `build`")
    k1: float = Field(0.9, ge=0, description="how fast a term's frequency saturates")
    b: float = Field(0.4, ge=0, le=1, description="how far scores are normalised by length")
    language: str | None = Field(
        None, description="that of the index, by its code: how texts are split into terms; a prebuilt one's, or en"
    )
    fields: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        None, description="fields of the index to search, each with its weight; a prebuilt one's, or contents"
    )
    rm3: Rm3 | None = Field(None, description="queries expanded by terms of their first hits")

    @model_validator(mode="after")
    def _searchable(self) -> Bm25:
        if self.rm3 and self.fields:
            raise ValueError("give one of fields and rm3: queries are expanded in one field only")
        if self.fields is not None and not any(self.fields.values()):
            raise ValueError("fields: give at least one a weight above 0, such as {contents: 1, title: 1}")
        return self


class FirstStage(_Section):
    """Where the candidates come from, how many a query, and in which order they are presented."""

    bm25: Bm25 | None = None
    run: str | None = Field(None, description="a TREC run file")
    depth: int = Field(100, ge=1, description="candidates a query")
    order: Literal["given", "inverse", "shuffle"] = Field(
        "given", description="as retrieved, reversed, or shuffled: sensitivity to the initial ranking"
    )
    seed: int | None = Field(None, description="what the shuffle is drawn with; the config's seed unless given")
    exclude_same_id: Literal["auto"] | bool = Field(
        "auto",
        description="drop a query's own document: where known to be that, wherever ids are equal, never",
    )

    @model_validator(mode="after")
    def _one_source(self) -> FirstStage:
        if self.bm25 and self.run:
            raise ValueError("give one of bm25 and run")
        return self


class Evaluate(_Section):
    """What to measure."""

    measures: Texts = Field(("nDCG@10",), min_length=1, description="any measures of ir-measures")

    @model_validator(mode="after")
    def _known_measures(self) -> Evaluate:
        try:
            evaluate.parse(self.measures)
        except InputError as error:
            raise ValueError(str(error)) from error
        return self


class Stage(_Section):
    """A stage of a cascade: it reranks the first documents of the order that the stage before it left."""

    ranker: dict[str, Any] = Field(description="as the config's own")
    model: dict[str, Any] | None = Field(None, description="the config's own unless given")
    depth: int | None = Field(None, ge=1, description="how many documents it ranks; all unless given")


class Fuse(_Section):
    """Another run that the reranked order is joined with."""

    model_config = ConfigDict(serialize_by_alias=True)

    method: Literal["rrf", "interpolate"] = Field(description="by ranks (reciprocal rank fusion), or by scores")
    other: str = Field(FIRST_STAGE, alias="with", description="first_stage, or a TREC run file")
    k: int = Field(fusion.RRF_K, ge=0, description="rrf: a document's share is 1 / (k + rank)")
    alpha: float | None = Field(None, ge=0, le=1, description="interpolate: the other run's weight")

    @model_validator(mode="after")
    def _weighed(self) -> Fuse:
        if self.method == "interpolate" and self.alpha is None:
            raise ValueError("interpolate needs alpha, the weight of the other run: 0 to 1")
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """What its method goes by."""
        return {"k": self.k} if self.method == "rrf" else {"alpha": self.alpha or 0.0}


class Expected(_Section):
    """A published figure."""

    value: float = Field(description="the measure's mean")
    tolerance: float = Field(ge=0, description="how far a run may be from it")
    source: str = Field(description="where it was published")


def _dataset_form(value: object) -> str:
    """Which of its forms a `dataset` takes: the tag of the class that checks it."""
    keys = value.model_fields_set if isinstance(value, BaseModel) else value
    if isinstance(keys, (Mapping, Set)):
        return next((form for form in ("beir", "candidates") if form in keys), "docs")
    return "id"


DatasetForm = Annotated[
    Annotated[str, Tag("id")]
    | Annotated[BeirFolder, Tag("beir")]
    | Annotated[CandidateFile, Tag("candidates")]
    | Annotated[DataFiles, Tag("docs")],
    Discriminator(_dataset_form),
]


class Config(_Section):
    """An experiment. `ranker` and `model` hold the keys that the method and backend use, and no others.

    A cascade has `stages` instead of a `ranker`; its `model` is that of the stages that have none of their own.
    """

    name: str = Field(
        max_length=200,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        description="names the run's folder and is its tag; the file's stem",
    )
    dataset: DatasetForm = Field(description="an ir_datasets id, a BEIR folder, or files")
    queries: Queries = Queries()
    first_stage: FirstStage = FirstStage()
    ranker: dict[str, Any] | None = Field(None, description="what is asked, how often, how answers make a ranking")
    model: dict[str, Any] | None = Field(None, description="who answers")
    stages: list[Stage] | None = Field(None, min_length=1, description="a cascade: rankers that follow each other")
    fuse: Fuse | None = None
    evaluate: Evaluate = Evaluate()
    expected: dict[str, Expected] = {}
    schedule: Literal["throughput", "latency"] = Field(
        "throughput", description="all queries at once, or one at a time, whose seconds are then its latency"
    )
    max_unparsed: float | None = Field(
        None, ge=0, le=1, description="the share of unread answers above which rerank exits with 3; none unless given"
    )
    shared_ledger: str | None = Field(
        None, description="a folder of answers that runs share, also across machines; looked up before a model is asked"
    )
    seed: int = Field(0, description="of all chance that has no seed of its own")

    @property
    def shuffle_seed(self) -> int:
        """The seed of the shuffle alone."""
        return self.seed if self.first_stage.seed is None else self.first_stage.seed

    @field_validator("stages")
    @classmethod
    def _one_way(cls, stages: list[Stage] | None, info: ValidationInfo) -> list[Stage] | None:
        if stages is not None and info.data.get("ranker") is not None:
            raise ValueError("give one of ranker and stages")
        return stages


def _is_named_file(path: Path) -> bool:
    """Whether it is a file that a plain name, such as that of a prompt, cannot mean."""
    return bool(path.suffix) and path.is_file()


PATHS: dict[Key, Callable[[Path], bool]] = {
    ("dataset",): Path.is_dir,
    ("dataset", "beir"): Path.is_dir,
    ("dataset", "docs"): Path.exists,
    **{("dataset", key): Path.is_file for key in ("candidates", "queries", "qrels")},
    ("first_stage", "run"): Path.is_file,
    ("first_stage", "bm25", "index"): Path.is_dir,
    ("fuse", "with"): Path.is_file,
    ("shared_ledger",): lambda _: True,  # it is made where it is not there yet
}
"""Keys that may hold a path, and what it must lead to: an ir_datasets id is none."""

STAGE_PATHS: dict[Key, Callable[[Path], bool]] = {
    ("ranker", "prompt"): _is_named_file,
}
"""Those of every stage, besides the marked ones of its backend: a prompt's name is none."""

DATASETS: tuple[Key, ...] = (("dataset",), ("dataset", "beir"))
"""Keys that may also name a dataset that comes with the package."""

WORDS: dict[Key, str] = {
    ("dataset", "docs"): "index",
    ("first_stage", "bm25", "index"): "build",
    ("fuse", "with"): FIRST_STAGE,
}
"""Values that have a meaning of their own, whatever files and folders are called."""

SELECTORS = {"ranker": "method", "model": "backend"}
"""The key of an open section whose value says which further keys there are."""

HARMLESS = ("schedule=", "shared_ledger=", "max_unparsed=", "name=", "evaluate.", "expected.")
"""How settings begin that do not change a ranking, besides those of a model that its backend names."""

STAGE = re.compile(r"^stages\.\d+\.")
"""What the keys of a stage begin with; the rest of them is as without stages."""


@dataclass(frozen=True)
class Loaded:
    """A config with what was noticed while reading it."""

    config: Config
    notes: tuple[str, ...]
    changes_ranking: bool
    """Whether `--set` or `--queries` changed more than speed, name and measures."""

    folder: Path
    """Where relative paths of the dataset and the first stage are looked up first."""

    @property
    def stages(self) -> list[Stage]:
        """The stages of reranking, each with its model; a config without `stages` has one.

        Raises `InputError` where a ranker or a model is missing.
        """
        config = self.config
        if config.ranker is None and config.stages is None:
            raise InputError(f"config {config.name} has no `ranker`; rerank needs one")
        given = config.stages or [Stage(ranker=config.ranker or {})]
        found = [stage.model_copy(update={"model": stage.model or config.model}) for stage in given]
        for number, stage in enumerate(found, 1):
            if stage.model is None:
                which = f"; neither has stage {number}" if config.stages else ""
                raise InputError(f"config {config.name} has no `model`{which}; rerank needs one")
        return found

    def of_query(self, query_id: str) -> Loaded:
        """Return the same experiment for one query of its dataset."""
        return replace(self, config=self.config.model_copy(update={"queries": Queries(ids=(query_id,))}))

    @property
    def rankers(self) -> list[Ranker]:
        """The ranker of each stage."""
        return [Ranker.create(stage.ranker, self.config.seed) for stage in self.stages]

    @property
    def models(self) -> list[ModelOptions]:
        """The backend's options of each stage."""
        return [model_options(stage.model or {}) for stage in self.stages]


def model_options(model: Mapping[str, Any]) -> ModelOptions:
    """The options of a `model` section. Raises pydantic's `ValidationError` for a bad one."""
    given = {key: value for key, value in model.items() if key != "backend"}
    checked: ModelOptions = catalog.backend(model["backend"]).Options.model_validate(given)
    return checked


def load(name: str, settings: Sequence[str] = (), queries: int | None = None) -> Loaded:
    """The config of that path or shipped name, with `--set` and `--queries` laid over it.

    Raises `InputError` that names file, line, the key, and the nearest known key.
    """
    path = yaml_files.find(name, Path.cwd(), SHIPPED)
    document = yaml_files.read(path, SHIPPED)
    for text in settings:
        document.merge(yaml_files.setting(text))
    narrowing = "first" if document.value(("queries",)) else "limit"
    changes = [*settings, *([] if queries is None else [f"queries.{narrowing}={queries}"])]
    for text in changes[len(settings) :]:
        document.merge(yaml_files.setting(text))
    document.values.setdefault("name", path.stem)
    document.values = _typed(document, document.values, [Config], ())
    notes = [note for key in sections(document.values) for note in _keep_used_keys(document, key)]
    for key, leads_there in paths(document.values).items():
        _make_absolute(document, key, leads_there)
    with _placed(document, path):
        config = Config.model_validate(document.values)
    if config.fuse is not None:
        unused = config.fuse.model_fields_set & {"k", "alpha"} - config.fuse.parameters.keys()
        notes += [f"fuse.{key} is not used by {config.fuse.method}" for key in sorted(unused)]
    dataset = document.place(("dataset",))
    changing = any(not text.startswith(_harmless()) for text in (STAGE.sub("", change) for change in changes))
    for key in sections(document.values):
        section = document.value(key)
        if section is not None:
            with _placed(document, path, key):
                _ = Ranker.create(section, config.seed) if key[-1] == "ranker" else model_options(section)
    return Loaded(config, tuple(notes), changing, dataset.folder if dataset else path.parent)


@cache
def _harmless() -> tuple[str, ...]:
    of_models = {key for name in catalog.backends() for key in marks(catalog.backend(name).Options, SpeedMark)}
    return (*HARMLESS, *(f"model.{key}{end}" for key in sorted(of_models) for end in ("=", ".")))


def load_noting(name: str, settings: Sequence[str], queries: int | None, listener: Listener) -> Loaded:
    """What `load` gives; the listener hears what was noticed while reading it. Raises as `load` does."""
    loaded = load(name, settings, queries)
    for note in loaded.notes:
        listener.note(note)
    return loaded


def names() -> list[str]:
    """The names of the shipped configs that are whole experiments; `parts/` are for them to extend."""
    return [name for name in files() if not name.startswith("parts/")]


def files() -> list[str]:
    """The names of all shipped YAML files."""
    return sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def datasets() -> list[str]:
    """Return the names of the shipped datasets."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/corpus.jsonl"))


def sections(values: Mapping[str, Any]) -> list[Key]:
    """The keys of all sections that say how documents are ranked and by which model: `ranker`s and `model`s."""
    stages = values.get("stages")
    count = len(stages) if isinstance(stages, list) else 0
    before: list[Key] = [(), *(("stages", str(number)) for number in range(count))]
    return [(*key, name) for key in before for name in SELECTORS]


def paths(values: Mapping[str, Any]) -> dict[Key, Callable[[Path], bool]]:
    """All keys of a config that may hold a path, and what it must lead to.

    A method's further prompts, besides its ranker's own, are `<what>_prompt`.
    """
    found = dict(PATHS)
    for key in sections(values):
        section = yaml_files.value_at(values, key)
        named = [each for each in section if str(each).endswith("_prompt")] if isinstance(section, dict) else []
        own = {("ranker", str(each)): _is_named_file for each in named} if key[-1] == "ranker" else {}
        backend = section.get("backend") if isinstance(section, dict) and key[-1] == "model" else None
        if backend in catalog.backends():
            marked = marks(catalog.backend(backend).Options, PathMark)
            own = {("model", each): mark.leads for each, mark in marked.items()}
        found |= {(*key[:-1], *path): leads for path, leads in (STAGE_PATHS | own).items()}
    return found


def _keep_used_keys(document: Document, key: Key) -> list[str]:
    """Drop keys that only another method or backend uses, and say so; refuse those that none knows."""
    values = document.value(key)
    if not isinstance(values, dict):
        return []
    section, name = key[-1], ".".join(key)
    selector = SELECTORS[section]
    chosen, where = values.get(selector), yaml_files.first_line(document, (*key, selector))
    if not isinstance(chosen, str):
        raise InputError(f"{where}: {name}.{selector} must be one of {', '.join(choices(section))}")
    try:
        own = _own_keys(section, chosen)
    except InputError as error:
        raise InputError(f"{where}: {name}.{selector}: {error}") from error
    elsewhere = {each for other in choices(section) for each in _own_keys(section, other)} - own
    for each in values:
        if each not in own | elsewhere:
            raise InputError(
                f"{yaml_files.first_line(document, (*key, each))}: unknown key {name}.{each}"
                f"{catalog.nearest(str(each), own | elsewhere)}"
            )
    document.value(key[:-1])[section] = {each: value for each, value in values.items() if each in own}
    return [f"{name}.{each} is not used by {chosen}" for each in values if each in elsewhere]


def choices(section: str) -> list[str]:
    """Return the methods that a `ranker` can name, or the backends that a `model` can."""
    return catalog.methods() if section == "ranker" else catalog.backends()


def _own_keys(section: str, name: str) -> set[str]:
    return {SELECTORS[section], *(key for model in takers(section, name) for key in model.model_fields)}


def takers(section: str, name: str) -> list[type[BaseModel]]:
    """Return the classes that know the keys of a `ranker` with that method, or of a `model` with that backend."""
    if section == "ranker":
        return [RankerOptions, catalog.method(name).params]
    return [catalog.backend(name).Options]


def kinds(annotation: Any) -> list[Any]:
    """Return the types that a value may have: each of a union, without what constrains it."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in kinds(member)]
    return [annotation]


def models(types: Iterable[Any]) -> list[type[BaseModel]]:
    """Return those of some types that check a section."""
    return [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]


def below(above: Sequence[Any], key: str, values: Any) -> list[Any]:
    """Return the types that the value at a key or item may have, `values` being of the types `above`; [] if unknown."""
    found = []
    for kind in above:
        if models([kind]):
            fields = [field for name, field in kind.model_fields.items() if key == (field.alias or name)]
            found += [one for field in fields for one in kinds(field.annotation)]
        elif get_origin(kind) is not Literal and get_args(kind):
            found += kinds(get_args(kind)[1 if get_origin(kind) is dict else 0])
    if key in SELECTORS and dict[str, Any] in found:
        section = values.get(key) if isinstance(values, dict) else None
        name = section.get(SELECTORS[key]) if isinstance(section, dict) else None
        return [*found, *takers(key, name)] if name in choices(key) else found
    return found


def _typed(document: Document, value: Any, allowed: Sequence[Any], key: Key) -> Any:
    """Return a value in which whatever the schema takes for text is as it was written: `031_1`, `1e5`, `no`, `null`.

    Raises `InputError` for numbers that no computer's integers or floats hold.
    """
    if isinstance(value, dict):
        return {part: _typed(document, one, below(allowed, part, value), (*key, part)) for part, one in value.items()}
    if isinstance(value, list):
        items = [(str(number), one) for number, one in enumerate(value)]
        return [_typed(document, one, below(allowed, part, value), (*key, part)) for part, one in items]
    place = document.places.get(key)
    if isinstance(value, str) or place is None or place.text is None:
        return value
    if value is None and (NoneType in allowed or not place.text):
        return None
    if not {type(value), float if type(value) is int else type(value)} & set(allowed):
        words = [word for kind in allowed if get_origin(kind) is Literal for word in get_args(kind)]
        if str in [*allowed, *below(allowed, "0", value)] or place.text in words:
            return place.text
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{place.words}: {'.'.join(key)}: {place.text[:40]} is beyond 64 bits or no number")
    return value


def _make_absolute(document: Document, key: Key, leads_there: Callable[[Path], bool]) -> None:
    """Replace a relative path by the place it is found at: beside its YAML file, or in the current folder.

    One that leads upwards, as a run's do, and leads nowhere since the run was moved, is looked up in all folders around
    the YAML file.
    """
    section, value, place = document.value(key[:-1]), document.value(key), document.place(key)
    if not isinstance(value, str) or place is None or value == WORDS.get(key):
        return
    name = Path(os.path.expanduser(value))  # noqa: PTH111 - Path's raises for `~nobody`
    bare = Path(*(part for part in name.parts if part != os.pardir))
    moved = place.folder.resolve().parents if bare != name else ()
    shipped = (SHIPPED,) if key in DATASETS and value in datasets() else ()
    for path in (
        *(folder / name for folder in (place.folder, Path.cwd(), *shipped)),
        *(folder / bare for folder in moved),
    ):
        with suppress(OSError):  # of a name too long, or a folder that may not be entered
            if leads_there(path):
                section[key[-1]] = str(path.resolve())
                return


@contextmanager
def _placed(document: Document, path: Path, before: Key = ()) -> Iterator[None]:
    """Say of whatever is wrong where it was written; `before` is the key of the section that is looked at."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{yaml_files.first_line(document, before) or path}: {error}") from error
    except ValidationError as error:
        errors = error.errors()
        # A misspelt key is often a missing one too: the spelling is what to mend.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        forms = {"id", "beir", "candidates", "docs"}
        key = (*before, *(str(part) for part in first["loc"]))
        if key[0] == "dataset" and len(key) > 1 and key[1] in forms:
            key = (key[0], *key[2:])
        name = ".".join(key)
        where = yaml_files.first_line(document, key) or path
        if first["type"] == "extra_forbidden":
            known = _known_keys(document, key[:-1])
            raise InputError(f"{where}: unknown key {name}{catalog.nearest(key[-1], known, 0.6)}") from error
        if first["type"] == "missing":
            raise InputError(f"{where}: {name} is missing") from error
        told = first["type"] == "value_error" or isinstance(first["input"], dict)
        found = "" if told else f", not {first['input']!r:.100}"
        raise InputError(f"{where}: {name}: {_plain(first['msg'])}{found}") from error


def _known_keys(document: Document, section: Key) -> set[str]:
    """Return the keys of a section, by the names that they have in a file."""
    allowed, values = [Config], document.values
    for part in section:
        allowed, values = below(allowed, part, values), yaml_files.value_at(values, (part,))
    return {field.alias or name for model in models(allowed) for name, field in model.model_fields.items()}


def _plain(message: str) -> str:
    message = (
        message.removeprefix("Value error, ").replace("Input should be", "should be").replace("valid tuple", "list")
    )
    return "should be a mapping of keys to values" if "valid dictionary" in message else message
