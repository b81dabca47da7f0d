"""YAML files: their values, and the place and the characters in which each was written."""

import math
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import yaml

from ...rerankers.errors import InputError
from .schema import Key, alternatives

ILL_FORMED = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, RecursionError)
"""Errors of PyYAML: its own; others for `!!bool maybe`, for endless nesting."""

WORD_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""The tags of keys: not those of a number, nor of the truth value that YAML sees in `on` and `no`."""

TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
"""The tags of values. Plain text that YAML takes for something else, such as 2019-01-01 and `=`, is text."""

MOST_BYTES = 4_000_000  # of a file; a longer one is no config
MOST_REPEATED = 100_000  # values that aliases may repeat: aliases of aliases make billions of a few lines
DEEPEST = 100  # levels of nested values


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value; relative paths in it are looked up in `folder`."""

    words: str
    folder: Path
    text: str | None = None  # the characters there, `031_1` where the value is 311; None for a mapping or a list


@dataclass
class Document:
    """A mapping of a YAML file, and the place of each of its keys."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)

    def place(self, key: Key) -> Place | None:
        """Return where the key, or the nearest one around it, was written; None if nowhere."""
        return next((self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places), None)

    def line(self, key: Key) -> str:
        """Return the place of a key in words, or an empty text."""
        return place.words if (place := self.place(key)) else ""

    def below(self, key: Key) -> dict[Key, Place]:
        """Return the places of what is at a key and in it, relative to it."""
        return {path[len(key) :]: place for path, place in self.places.items() if path[: len(key)] == key}

    def merge(self, over: Self) -> None:
        """Lay another document over this one.

        A list replaces a list; a mapping whose keys are numbers changes those items of a list. Raises `InputError`
        for an item that the list does not have.
        """
        self._lay(self.values, over.values, (), over)
        self.places |= over.places

    def _lay(self, below: dict[str, Any], above: dict[str, Any], at: Key, over: Self) -> None:
        ways = alternatives(at)
        chosen = {ways[key] for key in above if key in ways}
        for key, way in ways.items():
            if key not in above and chosen - {way}:
                below.pop(key, None)
        for key, value in above.items():
            here = (*at, key)
            if isinstance(value, dict) and isinstance(below.get(key), dict):
                self._lay(below[key], value, here, over)
            elif isinstance(value, dict) and isinstance(below.get(key), list):
                items = {str(number): item for number, item in enumerate(below[key])}
                for number in value.keys() - items.keys():
                    where = over.line((*here, number))
                    raise InputError(f"{where}: {'.'.join(here)} has no item {number}; there are {', '.join(items)}")
                self._lay(items, value, here, over)
                below[key] = list(items.values())
            else:
                below[key] = deepcopy(value)
                self.places = {path: place for path, place in self.places.items() if path[: len(here)] != here}


def value_at(values: Any, key: Key) -> Any:
    """Return the value at a key in mappings and lists, or None."""
    for part in key:
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def setting(text: str, option: str = "--set") -> Document:
    """Return the document that `--set ranker.num_child=4` stands for; `stages.0.depth=50` is of a list's first item.

    Raises `InputError` that names the option if it has no dotted key or no YAML value.
    """
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys) or len(keys) > DEEPEST:
        raise InputError(f"{option} {text}: expected a dotted key and a YAML value, such as ranker.num_child=4")
    place = Place(f"{option} {text}", Path.cwd())
    try:
        parsed, places = _parse(value, lambda _: place)
    except ILL_FORMED as error:
        raise InputError(f"{option} {text}: not a YAML value: {_problem(error)}") from error
    return nested(keys, parsed, {(): place} | places)


def nested(key: Key, value: Any, places: Mapping[Key, Place]) -> Document:
    """Return the document that has the value, whose places are relative to it, at a key."""
    around = {key[:n]: replace(places[()], text=None) for n in range(1, len(key))}
    for part in reversed(key):
        value = {part: value}
    return Document(value, around | {(*key, *rest): place for rest, place in places.items()})


def file(path: Path) -> Document:
    """Return a file as it is. Raises `InputError` with file and line for what is not YAML, or no mapping of keys."""
    try:
        if path.stat().st_size > MOST_BYTES:
            limit = f"longer than {MOST_BYTES:,} bytes"
            raise InputError(f"config {path}: {limit}; long lists belong in the dataset's files")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path}: cannot be read: {error}") from error
    try:
        values, places = _parse(text, lambda line: Place(f"{path}, line {line}", path.parent))
    except ILL_FORMED as error:
        mark = getattr(error, "problem_mark", None)
        form = "" if isinstance(error, _UnfitError) else "not valid YAML: "
        raise InputError(f"{path}{f', line {mark.line + 1}' if mark else ''}: {form}{_problem(error)}") from error
    if not places:
        raise InputError(f"config {path}: the file is empty; see `r2llm list configs` for examples")
    if not isinstance(values, dict):
        raise InputError(f"{places[()].words}: expected a mapping of keys to values")
    return Document(values, places)


class _UnfitError(yaml.MarkedYAMLError):
    """It is YAML, but none that a config is written in."""


def _parse(text: str, place: Callable[[int], Place]) -> tuple[Any, dict[Key, Place]]:
    """Return the value of a YAML text, and the places in it by key; none if it is empty. Raises `ILL_FORMED`."""
    loader = _Loader(text, place)
    root = loader.get_single_node()
    return (None if root is None else loader.value(root, (), root)), loader.places


class _Loader(yaml.SafeLoader):
    """The safe loader, by which nothing written plainly is a date, and a mapping that aliases repeat is many."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [resolver for resolver in resolvers if resolver[0] in TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, place: Callable[[int], Place]) -> None:
        """Load a text whose lines, counted from 1, are at these places."""
        super().__init__(text)
        self.places: dict[Key, Place] = {}
        self._place = place
        self._most_values = len(text) + MOST_REPEATED

    def value(self, node: yaml.Node, key: Key, shown: yaml.Node, depth: int = 0) -> Any:
        """Return the value of a node, which `shown` shows the place of, and record the places of all below it by key.

        Raises for too many or too deep ones, for text that is not Unicode, and for a key that is no word or stands
        there twice: YAML lets it silently win over the earlier one.
        """
        text = str(node.value) if isinstance(node, yaml.ScalarNode) else None
        self.places[key] = replace(self._place(shown.start_mark.line + 1), text=text)
        if depth >= DEEPEST:
            raise yaml.MarkedYAMLError(problem="it is nested without end", problem_mark=node.start_mark)
        if len(self.places) > self._most_values:
            problem = f"aliases of aliases make more than {MOST_REPEATED:,} values of it; write out what is meant"
            raise _UnfitError(problem=problem, problem_mark=node.start_mark)
        if node.tag not in TAGS:
            problem = f"the tag {node.tag!r} is not allowed; write plain values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*key, str(n)), item, depth + 1) for n, item in enumerate(node.value)]
        if re.search("[\0\ud800-\udfff]", node.value):
            problem = "half a character, or one that ends texts: a lone surrogate or NUL"
            raise _UnfitError(problem=problem, problem_mark=node.start_mark)
        whole = node.tag.endswith(":int")
        number = math.inf if whole and len(node.value) > 99 else self.construct_object(node)
        return math.inf if whole and abs(number) >= 2**63 else number

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by the keys that it stands for, without those that others win over."""
        super().flatten_mapping(node)
        node.value = [*{name.value: (name, value) for name, value in node.value}.values()]

    def _mapping(self, node: yaml.MappingNode, key: Key, depth: int) -> dict[str, Any]:
        names: set[str] = set()
        for name, _ in node.value:
            problem = ""
            if not isinstance(name, yaml.ScalarNode) or name.tag not in WORD_TAGS or not name.value.isprintable():
                problem = "a key must be a word, in quotes if need be"
            elif name.value in names:
                problem = f"{name.value} is given twice"
            if problem:
                raise _UnfitError(problem=problem, problem_mark=name.start_mark)
            names.add(name.value)
        self.flatten_mapping(node)
        return {name.value: self.value(value, (*key, name.value), name, depth + 1) for name, value in node.value}


def _problem(error: Exception) -> str:
    problem = "it is nested without end" if isinstance(error, RecursionError) else getattr(error, "problem", None)
    return " ".join(str(problem or error).split())
