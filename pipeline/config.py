"""The config: what a YAML file may say, checked, with the place of whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from ..rerankers import catalog
from ..rerankers.backends import ModelOptions
from ..rerankers.errors import InputError
from ..rerankers.ranker import Ranker, RankerOptions
from . import evaluate, yaml_files
from .yaml_files import Document, Key

SHIPPED = Path(__file__).parent.parent / "configs"
"""The configs that come with the package."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


def _texts(value: object) -> object:
    """A word or a list of words as a tuple of strings; YAML reads a query id such as 19335 as a number."""
    if isinstance(value, (str, int)):
        value = [value]
    if isinstance(value, list):
        return tuple(str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value)
    return value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class BeirFolder(_Section):
    """A BEIR folder and the split whose qrels name the queries."""

    beir: str
    split: str = "test"


class DataFiles(_Section):
    """Documents, queries and relevance judgements in files."""

    docs: str = Field(description="JSONL or TSV, .gz too; or `index`: text out of the first stage's Lucene index")
    queries: str = Field(description="TSV or JSONL")
    qrels: str | None = Field(None, description="TREC or BEIR TSV")


class CandidateFile(_Section):
    """Candidates with their text in one file, as RankLLM writes them."""

    candidates: str
    qrels: str | None = None
    queries: str | None = None


class Queries(_Section):
    """Which of the dataset's queries to run."""

    limit: int | None = Field(None, ge=1, description="the first so many")
    sample: int | None = Field(None, ge=1, description="so many at random")
    seed: int = Field(0, description="what the sample is drawn with")
    ids: Texts | None = Field(None, description="these")

    @model_validator(mode="after")
    def _one_choice(self) -> Queries:
        if sum(choice is not None for choice in (self.limit, self.sample, self.ids)) > 1:
            raise ValueError("give one of limit, sample and ids")
        return self


class Bm25(_Section):
    """Lucene BM25 through Pyserini."""

    index: str = Field(description="a prebuilt index by Pyserini's name, a Lucene folder, or `build`")
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)


class FirstStage(_Section):
    """Where the candidates come from, how many a query, and in which order they are presented."""

    bm25: Bm25 | None = None
    run: str | None = Field(None, description="a TREC run file")
    depth: int = Field(100, ge=1, description="candidates a query")
    order: Literal["given", "inverse", "shuffle"] = Field(
        "given", description="as retrieved, reversed, or shuffled: sensitivity to the initial ranking"
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


class Expected(_Section):
    """A published figure."""

    value: float
    tolerance: float = Field(ge=0)
    source: str


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
    """An experiment. `ranker` and `model` hold the keys that the method and backend use, and no others."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="names the run's folder and is its tag")
    dataset: DatasetForm = Field(description="an ir_datasets id, a BEIR folder, or files")
    queries: Queries = Queries()
    first_stage: FirstStage = FirstStage()
    ranker: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    evaluate: Evaluate = Evaluate()
    expected: dict[str, Expected] = {}
    schedule: Literal["throughput", "latency"] = "throughput"
    seed: int = 0


SECTIONS: dict[Key, tuple[type[BaseModel], ...]] = {
    (): (Config,),
    ("dataset",): (BeirFolder, CandidateFile, DataFiles),
    ("queries",): (Queries,),
    ("first_stage",): (FirstStage,),
    ("first_stage", "bm25"): (Bm25,),
    ("evaluate",): (Evaluate,),
}
"""The classes that know the keys of each section; `expected` holds measures, `ranker` and `model` are open."""


def _is_named_file(path: Path) -> bool:
    """Whether it is a file that a plain name, such as that of a prompt, cannot mean."""
    return bool(path.suffix) and path.is_file()


PATHS: dict[Key, Callable[[Path], bool]] = {
    ("dataset",): Path.is_dir,
    ("dataset", "beir"): Path.is_dir,
    **{("dataset", key): Path.is_file for key in ("candidates", "docs", "queries", "qrels")},
    ("first_stage", "run"): Path.is_file,
    ("first_stage", "bm25", "index"): Path.is_dir,
    ("ranker", "prompt"): _is_named_file,
    ("model", "name"): Path.is_dir,
    ("model", "answers"): _is_named_file,
}
"""Keys that may hold a path, and what it must lead to: an ir_datasets id, a hub id or a prompt's name is none."""

WORDS: dict[Key, str] = {("dataset", "docs"): "index", ("first_stage", "bm25", "index"): "build"}
"""Values that have a meaning of their own, whatever files and folders are called."""

HARMLESS = (
    "schedule=",
    "name=",
    "evaluate.",
    "expected.",
    "model.device=",
    "model.batch_size=",
    "model.exact=",
)
"""How settings begin that do not change a ranking."""


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
    def ranker(self) -> Ranker:
        """The ranker. Raises `InputError` where the config has none."""
        if self.config.ranker is None:
            raise InputError(f"config {self.config.name} has no `ranker`; rerank needs one")
        return Ranker.create(self.config.ranker, self.config.seed)

    @property
    def backend_options(self) -> ModelOptions:
        """The backend's options. Raises `InputError` where the config has none."""
        if self.config.model is None:
            raise InputError(f"config {self.config.name} has no `model`; rerank needs one")
        options = catalog.backend(self.config.model["backend"]).Options
        given = {key: value for key, value in self.config.model.items() if key != "backend"}
        checked: ModelOptions = options.model_validate(given)
        return checked


def load(name: str, settings: Sequence[str] = (), queries: int | None = None) -> Loaded:
    """The config of that path or shipped name, with `--set` and `--queries` laid over it.

    Raises `InputError` that names file, line, the key, and the nearest known key.
    """
    path = yaml_files.find(name, Path.cwd(), SHIPPED)
    document = yaml_files.read(path, SHIPPED)
    changes = [*settings, *([] if queries is None else [f"queries.limit={queries}"])]
    for text in changes:
        document.merge(yaml_files.setting(text))
    document.values.setdefault("name", path.stem)
    notes = [*_keep_used_keys(document, "ranker"), *_keep_used_keys(document, "model")]
    for key in (*PATHS, *prompt_keys(document.values)):
        _make_absolute(document, key)
    with _placed(document, path):
        config = Config.model_validate(document.values)
    dataset = document.place(("dataset",))
    changing = any(not text.startswith(HARMLESS) for text in changes)
    loaded = Loaded(config, tuple(notes), changing, dataset.folder if dataset else path.parent)
    if config.ranker is not None:
        with _placed(document, path, "ranker"):
            _ = loaded.ranker
    if config.model is not None:
        with _placed(document, path, "model"):
            _ = loaded.backend_options
    return loaded


def names() -> list[str]:
    """The names of the shipped configs that are whole experiments; `parts/` are for them to extend."""
    return [name for name in files() if not name.startswith("parts/")]


def files() -> list[str]:
    """The names of all shipped YAML files."""
    return sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))


def _keep_used_keys(document: Document, section: str) -> list[str]:
    """Drop keys that only another method or backend uses, and say so; refuse those that none knows."""
    values = document.values.get(section)
    if not isinstance(values, dict):
        return []
    selector = {"ranker": "method", "model": "backend"}[section]
    chosen = values.get(selector)
    if not isinstance(chosen, str):
        raise InputError(
            f"{_where(document, (section, selector))}: {section}.{selector} must be one of "
            f"{', '.join(_choices(section))}"
        )
    try:
        own = _own_keys(section, chosen)
    except InputError as error:
        raise InputError(f"{_where(document, (section, selector))}: {section}.{selector}: {error}") from error
    elsewhere = {key for name in _choices(section) for key in _own_keys(section, name)} - own
    for key in values:
        if key not in own | elsewhere:
            raise InputError(
                f"{_where(document, (section, key))}: unknown key {section}.{key}"
                f"{catalog.nearest(str(key), own | elsewhere)}"
            )
    document.values[section] = {key: value for key, value in values.items() if key in own}
    return [f"{section}.{key} is not used by {chosen}" for key in values if key in elsewhere]


def _choices(section: str) -> list[str]:
    return catalog.methods() if section == "ranker" else catalog.backends()


def _own_keys(section: str, name: str) -> set[str]:
    if section == "ranker":
        return {*RankerOptions.model_fields, *catalog.method(name).params.model_fields}
    return {"backend", *catalog.backend(name).Options.model_fields}


def prompt_keys(values: Mapping[str, Any]) -> list[Key]:
    """The ranker's keys that name prompts besides its own: a method's further prompts are `<what>_prompt`."""
    ranker = values.get("ranker")
    return [("ranker", str(key)) for key in ranker if str(key).endswith("_prompt")] if isinstance(ranker, dict) else []


def _make_absolute(document: Document, key: Key) -> None:
    """Replace a relative path by the place it is found at: beside its YAML file, or in the current folder."""
    section: Any = document.values
    for part in key[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    value = section.get(key[-1]) if isinstance(section, dict) else None
    place = document.place(key)
    if not isinstance(value, str) or place is None or value == WORDS.get(key):
        return
    for folder in (place.folder, Path.cwd()):
        found = folder / Path(value).expanduser()
        if PATHS.get(key, _is_named_file)(found):
            section[key[-1]] = str(found.resolve())
            return


def _where(document: Document, key: Sequence[str | int]) -> str:
    return yaml_files.first_line(document, key) or "config"


@contextmanager
def _placed(document: Document, path: Path, section: str | None = None) -> Iterator[None]:
    """Say of whatever is wrong where it was written."""
    before: Key = (section,) if section else ()
    try:
        yield
    except InputError as error:
        raise InputError(f"{_where(document, before)}: {error}") from error
    except ValidationError as error:
        errors = error.errors()
        # A misspelt key is often a missing one too: the spelling is what to mend.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        forms = {"id", "beir", "candidates", "docs"}
        key = (*before, *(str(part) for part in first["loc"]))
        if key[0] == "dataset" and len(key) > 1 and key[1] in forms:
            key = (key[0], *key[2:])
        name = ".".join(key)
        where = _where(document, key) if document.place(key) else str(path)
        if first["type"] == "extra_forbidden":
            known = {field for model in SECTIONS.get(key[:-1], (Expected,)) for field in model.model_fields}
            raise InputError(f"{where}: unknown key {name}{catalog.nearest(key[-1], known)}") from error
        if first["type"] == "missing":
            raise InputError(f"{where}: {name} is missing") from error
        found = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
        raise InputError(f"{where}: {name}: {_plain(first['msg'])}{found}") from error


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should be", "should be")
    return "should be a mapping of keys to values" if "valid dictionary" in message else message
