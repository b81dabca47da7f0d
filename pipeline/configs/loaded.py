"""A config out of a document, checked, with the place of whatever is wrong."""

import math
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import ValidationError

from ...rerankers import catalog
from ...rerankers.backends.base import ModelOptions
from ...rerankers.errors import InputError, plain
from ...rerankers.marks import PathMark, SpeedMark
from ...rerankers.ranker import Ranker
from . import shipped, yaml_files
from .schema import Config, DatasetMark, Entry, Key, Open, Queries, Stage, fields, items, walk
from .yaml_files import Document


@dataclass(frozen=True)
class Loaded:
    """A config with what was noticed while reading it."""

    config: Config
    notes: tuple[str, ...]
    changes_ranking: bool  # by `--set` or `--queries`: more than speed, name and measures

    @property
    def stages(self) -> list[Stage]:
        """The stages of reranking, each with its model; a config without `stages` has one.

        Raises `InputError` where a ranker or a model is missing.
        """
        config = self.config
        if config.ranker is None and config.stages is None:
            raise InputError(f"config {config.name} has no `ranker`; rerank needs one")
        given = config.stages or [Stage(ranker=config.ranker or {})]
        stages = [stage.model_copy(update={"model": stage.model or config.model}) for stage in given]
        for number, stage in enumerate(stages, 1):
            if stage.model is None:
                which = f"; neither has stage {number}" if config.stages else ""
                raise InputError(f"config {config.name} has no `model`{which}; rerank needs one")
        return stages

    def of_query(self, query_id: str) -> Self:
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


def checked(
    document: Document, path: Path, settings: Sequence[str], queries: int | None, changed: Sequence[Key] = ()
) -> Loaded:
    """Return the config of a document read from that file, with `--set` and `--queries` laid over it.

    Settings `changed` since its figures were published count as `--set` does. Raises `InputError` that names file,
    line, the key, and the nearest known key.
    """
    for text in settings:
        document.merge(yaml_files.setting(text))
    narrowing = "first" if document.values.get("queries") else "limit"
    changes = [*settings, *([] if queries is None else [f"queries.{narrowing}={queries}"])]
    for text in changes[len(settings) :]:
        document.merge(yaml_files.setting(text))
    document.values.setdefault("name", path.stem)
    notes: list[str] = []
    harmless: dict[Key, bool] = {}
    for entry in walk(document.values):
        _keep_text(document, entry)
        if note := _unused(document, entry):
            notes.append(note)
            del entry.holder[entry.part]
            continue
        harmless[entry.key] = entry.mark(SpeedMark) is not None or harmless.get(entry.key[:-1], False)
        if mark := entry.mark(PathMark):
            _make_absolute(document, entry, mark)
    with placed(document, path):
        config = Config.model_validate(document.values)
    if config.fuse is not None:
        unused = config.fuse.model_fields_set & {"k", "alpha"} - config.fuse.parameters.keys()
        notes += [f"fuse.{key} is not used by {config.fuse.method}" for key in sorted(unused)]
    for entry in walk(document.values):
        if entry.mark(Open) and entry.value is not None:
            with placed(document, path, entry.key):
                _ = Ranker.create(entry.value, config.seed) if entry.key[-1] == "ranker" else model_options(entry.value)
    changed = [*changed, *(tuple(text.partition("=")[0].strip().split(".")) for text in changes)]
    changes_ranking = not all(harmless.get(key, True) for key in changed)  # a key that is not there is not used
    return Loaded(config, tuple(notes), changes_ranking)


def paths(values: Mapping[str, Any]) -> dict[Key, PathMark]:
    """Return the keys of a config that may hold a path, each with its mark."""
    return {entry.key: mark for entry in walk(values) if (mark := entry.mark(PathMark))}


def _unused(document: Document, entry: Entry) -> str | None:
    """Return a note for a key that only another method or backend uses. Raises `InputError` for one that none knows."""
    name, where = ".".join(entry.key), document.line(entry.key)
    if (opened := entry.mark(Open)) and isinstance(entry.value, dict):
        chosen, key = entry.value.get(opened.selector), (*entry.key, opened.selector)
        name, where = ".".join(key), document.line(key)
        if not isinstance(chosen, str):
            raise InputError(f"{where}: {name} must be one of {', '.join(catalog.names(opened.selector))}")
        try:
            catalog.known(chosen, catalog.names(opened.selector), opened.selector)
        except InputError as error:
            raise InputError(f"{where}: {name}: {error}") from error
    if not entry.siblings or entry.key[-1] in entry.siblings:
        return None
    section = entry.section
    others = catalog.names(section.selector) if section else []
    elsewhere = {key for other in others if section for key in fields(section.takers(other))}
    if section and entry.key[-1] in elsewhere:
        return f"{name} is not used by {entry.holder[section.selector]}"
    known = entry.siblings | elsewhere
    raise InputError(f"{where}: unknown key {name}{catalog.nearest(entry.key[-1], known, 0.6, 'keys')}")


def _keep_text(document: Document, entry: Entry) -> None:
    """Replace a value by its characters where the schema takes it for text: `031_1`, `1e5`, `no`, `null`.

    Raises `InputError` for numbers that no computer's integers or floats hold.
    """
    place, value, allowed = document.places.get(entry.key), entry.value, entry.types
    if isinstance(value, str) or place is None or place.text is None:
        return
    if value is None and (NoneType in allowed or not place.text):
        return
    if not {type(value), float if type(value) is int else type(value)} & set(allowed):
        words = [word for kind in allowed if get_origin(kind) is Literal for word in get_args(kind)]
        if str in [*allowed, *items(allowed)] or place.text in words:
            entry.holder[entry.part] = place.text
            return
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{place.words}: {'.'.join(entry.key)}: {place.text[:40]} is beyond 64 bits or no number")


def _make_absolute(document: Document, entry: Entry, mark: PathMark) -> None:
    """Replace a relative path by the place it is found at: beside its YAML file, or in the current folder.

    PACKAGE/FILE may also be of an installed Python package. One that leads upwards, as a run's do, and leads nowhere
    since the run was moved, is looked up in all folders around the YAML file.
    """
    value, place = entry.value, document.place(entry.key)
    if not isinstance(value, str) or place is None or value == mark.word:
        return
    name = Path(os.path.expanduser(value))  # noqa: PTH111 - Path's raises for `~nobody`
    bare = Path(*(part for part in name.parts if part != os.pardir))
    moved = place.folder.resolve().parents if bare != name else ()
    beside = [folder / name for folder in (place.folder, Path.cwd())]
    if "/" in value:
        beside.append(Path(sysconfig.get_path("purelib")) / name)
    if isinstance(mark, DatasetMark) and value in shipped.datasets():
        beside.append(shipped.SHIPPED / name)
    for path in (*beside, *(folder / bare for folder in moved)):
        with suppress(OSError):  # of a name too long, or a folder that may not be entered
            if mark.leads(path):
                entry.holder[entry.part] = str(path.resolve())
                return


@contextmanager
def placed(document: Document, path: Path, section: Key = ()) -> Iterator[None]:
    """Raise `InputError` that names the place of whatever is wrong in a section."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{document.line(section) or path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = (*section, *map(str, first["loc"]))
        key = (key[0], *key[2:]) if key[0] == "dataset" else key  # without the tag of its form
        where = f"{document.line(key) or path}: {'.'.join(key)}"
        if first["type"] == "missing":
            raise InputError(f"{where} is missing; add it to the file, or --set {'.'.join(key)}=...") from error
        quoted = first["type"] != "value_error" and not isinstance(first["input"], dict)
        shown = f", not {first['input']!r:.100}" if quoted else ""
        said = "belongs to another form of this section" if first["type"] == "extra_forbidden" else plain(first["msg"])
        raise InputError(f"{where}: {said}{shown}") from error
