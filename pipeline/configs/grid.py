"""Grids: one file that is many configs, a cell for each combination of the values on its axes.

A name ends in the choices that make a cell of its file: `grids/setwise-paper/dataset=dl19/model=flan-t5-large/…`. What
a name cannot hold is written as in a URL, `%2F` for a slash. Keys of a config may follow any name in the same way.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml

from ...rerankers import catalog
from ...rerankers.errors import InputError
from ...rerankers.prompts import template
from . import shipped, yaml_files
from .loaded import Loaded, checked, placed
from .schema import Config, FileKeys, Key, kinds
from .yaml_files import Document, Place, value_at

PLAIN = "+:=@~"  # characters that stay as they are in a cell's name, beside letters, digits and `-._`
GRID_KEYS = FileKeys.model_fields.keys() - {"extends", "base"}  # texts of these two are as they were typed
FIGURE = ("measure", "value", "tolerance", "source")  # columns of a table of published figures, beside the axes


@dataclass(frozen=True, eq=False)
class Value:
    """A value on an axis: as the file has it, as text, the keys it sets with their texts, and the config that it is."""

    axis: str
    shown: Any
    text: str
    keys: dict[str, str]
    part: Document
    path: Path

    @cached_property
    def document(self) -> Document:
        """Return the document that this value lays over a config, with all that it extends."""
        return _extended(self.part, self.path, (self.path.resolve(),))

    @property
    def word(self) -> str:
        """The word for it in the name of a config: `dl19`, but `num_child-2`."""
        key = f"{self.axis.rpartition('.')[2]}-" if self.keys == {self.axis: self.text} else ""
        return _word(key + self.text)


@dataclass(frozen=True)
class Cell:
    """A config by the name that `--config` takes, and its value on each axis."""

    name: str
    source: Source = field(repr=False, compare=False)
    values: Sequence[Value] = field(repr=False, compare=False)

    @property
    def settings(self) -> dict[str, Any]:
        """The value on each axis as the file has it."""
        return {value.axis: value.shown for value in self.values}

    def load(self, settings: Sequence[str] = (), queries: int | None = None) -> Loaded:
        """Return the config, with `--set` and `--queries` laid over it. Raises `InputError` as `load` does."""
        document, changed = self.source.document(self.values)
        return checked(document, self.source.path, settings, queries, changed)

    def at(self, values: Sequence[Value], segments: Iterable[tuple[str, str]]) -> Cell:
        """Return the cell with further values; the segments are those of its name."""
        name = "/".join([self.name, *(f"{quote(axis)}={quote(text, safe=PLAIN)}" for axis, text in segments)])
        return Cell(name, self.source, [*self.values, *values])


@dataclass(frozen=True)
class Grid:
    """Configs that differ in their values on some axes; none is read before it is loaded."""

    name: str
    axes: Mapping[str, Sequence[Any]]
    cells: Sequence[Cell]

    def only(self, choices: Sequence[str]) -> Grid:
        """Return the cells that have these values, `dataset=dl19,dl20`; a `*` in a value stands for anything.

        Raises `InputError` with the nearest names for an unknown axis or value, and where no cell is left.
        """
        cells = self.cells
        values = dict.fromkeys(value for cell in cells for value in cell.values)
        for choice in choices:
            axis, _, texts = choice.partition("=")
            chosen = _having(values, axis, map(unquote, texts.split(",")), f"--only {choice}")
            cells = [cell for cell in cells if not chosen.isdisjoint(cell.values)]
        if not cells:
            raise InputError(f"--only {' --only '.join(choices)}: {self.name} has no cell with all of these values")
        return _grid(self.name, cells)


@dataclass(frozen=True)
class Source:
    """A config file by the name that `--config` takes. If it is no grid, it has no axes, and is itself its one cell."""

    name: str
    path: Path

    @cached_property
    def own(self) -> Document:
        """The file without what it extends, its keys that are no part of a config checked."""
        own = yaml_files.file(self.path)
        with placed(own, self.path):
            FileKeys.model_validate({key: own.values[key] for key in GRID_KEYS & own.values.keys()})
        return own

    @cached_property
    def axes(self) -> Mapping[str, Sequence[Value]]:
        """The values on each axis; none if the file is no grid. Raises `InputError` for an axis without values."""
        ways = {"base": ("base",)} if len(_names(self.own, "base")) > 1 else {}
        ways |= {axis: (word, axis) for word in ("grid", "axes") for axis in self.own.values.get(word, {})}
        axes = {axis: list(_axis(axis, self.own, at, self.path)) for axis, at in ways.items()}
        for axis, values in axes.items():
            if len({value.text for value in values}) < max(len(values), 1):
                problem = "a value twice" if values else "no values"
                raise InputError(f"{self.own.line(ways[axis])}: axis {axis} has {problem}")
        return axes

    def cells(self) -> Iterator[Cell]:
        """Yield the cells that are not excluded, the last axis varying fastest."""
        short = self.axes and self.path.is_relative_to(shipped.SHIPPED)
        start = Cell(self.name.removesuffix(".yaml") if short else self.name, self, [])
        for values in itertools.product(*self.axes.values()):
            if not self.excluded(values):
                yield start.at(values, [(value.axis, value.text) for value in values])

    def excluded(self, values: Sequence[Value]) -> bool:
        """Return whether the file leaves this combination out."""
        return any(all(any(value in of for value in values) for of in rule) for rule in self._rules)

    def document(self, values: Sequence[Value], extending: tuple[Path, ...] = ()) -> tuple[Document, list[Key]]:
        """Return the config of these values, and the keys by which it may differ from what its figures belong to.

        `extending` are files being read already. Raises `InputError` for one of them.
        """
        if self.path.resolve() in extending:
            raise InputError(f"{self.path}: extends itself, by way of {' and '.join(p.name for p in extending)}")
        document, changed = Document(), list[Key]()
        varied = [value for value in values if value.axis in self.axes]
        for value in varied:
            if value.axis == "base":
                document.merge(value.document)
        document.merge(_extended(self.own, self.path, (*extending, self.path.resolve())))
        figures = self._figures(varied)
        for value in values:
            if value.axis != "base":
                document.merge(value.document)
                if value not in varied or not (figures.values or "expected" in self.own.values):
                    changed += [(key,) for key in value.document.values]
        if self.axes:
            title = [_word(str(self.own.values["name"]))] if "name" in self.own.values else []
            document.values["name"] = "-".join([*title, *(value.word for value in varied)])[:200]
            if isinstance(self.own.values.get("expected"), str):
                del document.values["expected"]
        document.merge(figures)
        return document, changed if "expected" in document.values else []

    @cached_property
    def _rules(self) -> list[list[set[Value]]]:
        """The combinations that are left out, each as the values of which one of each set makes it."""
        values = [value for of in self.axes.values() for value in of]
        return [
            [_having(values, key, [text], self.own.line(at)) for key, text in _leaves(rule, places).items()]
            for at in [("exclude", str(n)) for n in range(len(self.own.values.get("exclude", [])))]
            for rule, places in _alternatives(self.own, at)
        ]

    def _figures(self, values: Sequence[Value]) -> Document:
        """Return the published figures that the file's table has for these values."""
        texts = {value.axis: value.text for value in values}
        figures = Document()
        for place, row in self._table:
            if all(row[axis] == texts[axis] for axis in texts.keys() & row.keys()):
                figure = {k: row[k] if k == "source" else yaml.safe_load(row[k]) for k in FIGURE[1:] if k in row}
                figures.merge(yaml_files.nested(("expected", row["measure"]), figure, {(): place}))
        return figures

    @cached_property
    def _table(self) -> list[tuple[Place, dict[str, str]]]:
        """The rows of the table beside the file. Raises `InputError` with file and line for what is wrong there."""
        name = self.own.values.get("expected")
        if not self.axes or not isinstance(name, str):
            return []
        path = self.path.parent / name
        try:
            first, *lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise InputError(f"{self.own.line(('expected',))}: table {path} cannot be read: {error}") from error
        for column in {*first, *FIGURE} - ({*self.axes, *FIGURE} & {*first}):
            raise InputError(f"{path}, line 1: {column}: columns should be axes of the grid, and {', '.join(FIGURE)}")
        rows = []
        for number, line in enumerate(lines, 2):
            place = Place(f"{path}, line {number}", path.parent)
            if len(line) != len(first):
                raise InputError(f"{place.words}: {len(line)} columns between tabs, where line 1 has {len(first)}")
            rows.append((place, dict(zip(first, line, strict=True))))
            for axis in self.axes.keys() & {*first}:
                _having(self.axes[axis], axis, [rows[-1][1][axis]], place.words)
        return rows


def read(name: str) -> Grid:
    """Return the grid of that path or shipped name. Raises `InputError` where there is none, or a plain config."""
    source, choices = _locate(name, Path.cwd())
    if choices or not source.axes:
        raise InputError(f"config {name} is no grid: it has no `grid`; `r2llm list configs` names the grids there are")
    return _grid(str(source.own.values.get("name", source.path.stem)), list(source.cells()))


def is_grid(name: str) -> bool:
    """Return whether there is a grid of that path or shipped name."""
    path = shipped.file(name, Path.cwd())
    return path is not None and bool(Source(name, path).axes)


def ad_hoc(configs: Sequence[str], axes: Sequence[str]) -> Grid:
    """Return the grid of some configs or grids and further axes `KEY=V1,V2`, values as YAML has them.

    Raises `InputError` for a config that is not there, and for what is no axis.
    """
    varied = []
    for text in axes:
        axis, equals, values = (part.strip() for part in text.partition("="))
        document = yaml_files.setting(f"{axis}=[{values}]" if equals else text, "--axis")
        at = tuple(axis.split("."))
        listed = isinstance(value_at(document.values, (*at, "0")), list)
        varied.append(list(_axis(axis, document, (*at, "0") if listed else at, Path.cwd() / "-")))
    cells = [
        start.at(values, [pair for value in values for pair in value.keys.items() or [(value.axis, value.text)]])
        for config in configs
        for one in (read(config).cells if is_grid(config) else [cell(config)])
        for start in [
            one if len(configs) == 1 else one.at([Value("config", config, config, {}, Document(), Path())], [])
        ]
        for values in itertools.product(*varied)
    ]
    words = [Path(config).stem for config in configs] + [axis.partition("=")[0].strip() for axis in axes]
    return _grid("-".join(words), cells)


def cell(name: str, folder: Path | None = None) -> Cell:
    """Return the config of that path or name, which may end in choices: a grid's axes, or keys of a config.

    A path is looked up in the folder, the current one unless given. Raises `InputError` with the nearest names.
    """
    source, choices = _locate(name, folder or Path.cwd())
    chosen = dict(choices)
    for axis in chosen.keys() - source.axes.keys() if source.axes else ():
        if axis.partition(".")[0] not in Config.model_fields:
            raise InputError(f"config {source.name} has no axis {axis}{catalog.nearest(axis, source.axes)}")
    values: list[Value] = []
    for axis, of in source.axes.items():
        if axis not in chosen:
            known = f"{len(list(source.cells())):,} configs; `r2llm list cells` names them"
            raise InputError(f"config {name} is a grid of {known}: give {axis} one of its values, NAME/{axis}=VALUE")
        exact = [value for value in of if value.text == chosen[axis]]
        values += exact or _having(of, axis, [escape(chosen[axis])], f"config {source.name}")
    for axis, text in choices:
        if axis not in source.axes:
            document = yaml_files.setting(f"{axis}={text}", f"config {source.name}:")
            values += _axis(axis, document, tuple(axis.split(".")), source.path, single=True)
    if len(chosen) < len(choices) or source.excluded(values):
        problem = "excludes this combination" if len(chosen) == len(choices) else "has an axis twice"
        raise InputError(f"config {name} {problem}")
    return Cell(name, source, values)


def _grid(name: str, cells: Sequence[Cell]) -> Grid:
    if not cells:
        raise InputError(f"grid {name} has no config: every combination is excluded, or an axis has no values")
    shown: dict[str, dict[str, Any]] = {}
    for one in cells:
        keys = [key for value in one.values for key in value.keys]
        if len({*keys}) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"grid {name}: {twice} is set by two axes, so one would not count: {one.name}")
        for axis, value in one.settings.items():
            shown.setdefault(axis, {}).setdefault(str(value), value)
    return Grid(name, {axis: list(of.values()) for axis, of in shown.items()}, tuple(cells))


def _locate(name: str, folder: Path) -> tuple[Source, list[tuple[str, str]]]:
    """Return the file of a name, and the choices that follow it. Raises `InputError` with the nearest names."""
    parts = name.split("/")
    ends = [len(parts), len(parts) - len(list(itertools.takewhile(lambda part: "=" in part, reversed(parts))))]
    for end in ends:
        if path := shipped.file("/".join(parts[:end]), folder):
            pairs = [part.partition("=") for part in parts[end:]]
            return Source("/".join(parts[:end]), path), [(unquote(axis), unquote(text)) for axis, _, text in pairs]
    known = shipped.files()
    for source in (Source(grid, shipped.SHIPPED / f"{grid}.yaml") for grid in shipped.of_kind("grids")):
        if "\nformerly:" in source.path.read_text(encoding="utf-8"):
            for one in source.cells():
                texts = {value.axis: value.text for value in one.values}
                known.append(f"{source.own.values['formerly']}.yaml".format_map(texts))
                if f"/{name.removesuffix('.yaml')}.yaml".endswith(f"/{known[-1]}"):
                    return source, list(texts.items())
    alike = 0.6 if name.endswith(".yaml") else 0.5  # the ending alone makes all names alike
    remedy = catalog.nearest(name, known, alike, "configs")
    raise InputError(f"no config {name} in {folder} or among the shipped ones{remedy}")


def _word(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)


def _names(own: Document, key: str) -> list[Key]:
    """Return the keys at which a file has the names of configs: one, or a list of them."""
    names = own.values.get(key)
    return [(key, str(n)) for n in range(len(names))] if isinstance(names, list) else [(key,)] if names else []


def _extended(own: Document, path: Path, extending: tuple[Path, ...]) -> Document:
    """Return what a file holds laid over what it extends: files beside it, or shipped ones."""
    document = Document()
    bases = _names(own, "base")
    for key in [*(bases if len(bases) == 1 else ()), *_names(own, "extends")]:
        if not (name := own.places[key].text):
            raise InputError(f"{own.line(key)}: extends takes names of config files")
        try:
            parent = cell(name, path.parent)
        except InputError as error:
            raise InputError(f"{own.line(key)}: {error}") from error
        document.merge(parent.source.document(parent.values, extending)[0])
    document.merge(Document({k: v for k, v in own.values.items() if k not in FileKeys.model_fields}, own.places))
    return document


def _axis(axis: str, own: Document, at: Key, path: Path, *, single: bool = False) -> Iterator[Value]:
    """Yield the values of an axis at a key of a file: in a list, or each under the name it gets, or a `single` one.

    A text is the name of a part, if there is such a part. Raises `InputError` with the line of what is no value.
    """
    folders = [] if "." in axis else [f"parts/{axis}s", f"parts/{path.stem}", f"{axis}s"]
    files = (file for of in folders for home in (shipped.SHIPPED, path.parent) for file in (home / of).glob("*.yaml"))
    parts = {file.stem: str(file) for file in files}
    is_key = axis.partition(".")[0] in Config.model_fields
    no_text = "." not in axis and is_key and str not in kinds(Config.model_fields[axis].annotation) and parts
    held = value_at(own.values, at)
    for item in [""] if single else held if isinstance(held, dict) else map(str, range(len(held))):
        label, here = item if isinstance(held, dict) and not single else None, at if single else (*at, item)
        value, place = value_at(own.values, here), own.places[here]
        name = parts.get(place.text or "", place.text if axis == "base" or (label and not is_key) else None)
        text = label or place.text or ""
        if name:
            yield Value(
                axis, text, text, {}, Document({"extends": name}, {("extends",): replace(place, text=name)}), path
            )
        elif label and not is_key and isinstance(value, dict):
            yield Value(axis, text, text, {}, Document(value, own.below(here)), path)
        elif is_key and not (no_text and isinstance(value, str)):
            for one, places in _alternatives(own, here) if label is None else [(value, own.below(here))]:
                keys = _leaves(one, places, (axis,))
                text = label or "+".join(f"{k}:{t}".removeprefix(axis)[1:] for k, t in keys.items())
                plain = label is None and isinstance(one, (str, int, float)) and str(one) == text
                part = yaml_files.nested(tuple(axis.split(".")), one, places)
                yield Value(axis, one if plain else text, text, keys, part, path)
        else:
            remedy = catalog.nearest(text, parts) if parts else "; give each of its values a name, NAME: {...}"
            raise InputError(f"{place.words}: axis {axis}: '{text or value}' is no part{remedy}")


def _having(values: Iterable[Value], key: str, patterns: Iterable[str], where: str) -> set[Value]:
    """Return the values that have one of these texts on an axis or for a key. Raises `InputError` with the nearest."""
    texts = [(value, name, text) for value in values for name, text in [(value.axis, value.text), *value.keys.items()]]
    pairs = [(value, text) for value, name, text in texts if f".{name}".endswith(f".{key}")]
    if not pairs:
        raise InputError(f"{where}: no axis is {key}{catalog.nearest(key, {name for _, name, _ in texts})}")
    chosen: set[Value] = set()
    for pattern in patterns:
        matching = {value for value, text in pairs if text == pattern or fnmatchcase(text, pattern)}
        if not matching:
            near = catalog.nearest(pattern, {text for _, text in pairs})
            raise InputError(f"{where}: axis {key} has no value '{pattern}'{near}")
        chosen |= matching
    return chosen


def _alternatives(own: Document, at: Key) -> Iterator[tuple[Any, dict[Key, Place]]]:
    """Yield the values, with places, that the value at a key stands for: a mapping for each item of a list in it.

    The `prompt` of a name that ends in `/*` stands for each variation of that prompt.
    """
    value, place = value_at(own.values, at), own.places[at]
    if isinstance(value, dict):
        ways = []
        for name, of in value.items():
            items = [(*at, name, str(n)) for n in range(len(of))] if isinstance(of, list) else [(*at, name)]
            ways.append([(name, *way) for item in items for way in _alternatives(own, item)])
        for chosen in itertools.product(*ways):
            places = {(name, *rest): place for name, _, of in chosen for rest, place in of.items()}
            yield {name: one for name, one, _ in chosen}, {(): place} | places
    elif isinstance(value, str) and value.endswith("/*") and any(part.endswith("prompt") for part in at):
        for name in template.variations(value.removesuffix("/*")):
            yield name, {(): replace(place, text=name)}
    else:
        yield value, own.below(at)


def _leaves(value: Any, places: Mapping[Key, Place], before: Key = (), key: Key = ()) -> dict[str, str]:
    """Return the dotted keys of a value, each with what stands there as text."""
    if isinstance(value, dict) and value:
        return {k: t for name, of in value.items() for k, t in _leaves(of, places, before, (*key, name)).items()}
    text = places[key].text
    if isinstance(value, list):
        items = [(held, places[(*key, str(n))].text) for n, held in enumerate(value)]
        value = [held if item is None or str(held) == item else item for held, item in items]
    if text is None or (isinstance(value, str) and not re.fullmatch(r"[\w./=+@~*-]+", text)):
        text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).splitlines()[0]
    return {".".join((*before, *key)): text or "null"}
