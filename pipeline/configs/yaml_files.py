"""YAML with places: what a config file says, in which characters, and on which line of which file.

Files are merged by `extends`: mappings deeply, a later file over an earlier one, the file itself last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...rerankers.catalog import nearest
from ...rerankers.errors import InputError

ILL_FORMED = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, RecursionError)
"""What PyYAML raises: its own errors; others for `!!bool maybe`, for `!!timestamp soon`, for endless nesting."""

WORD_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""What YAML takes a key for: not for a number, nor for the truth value that it sees in `on` and `no`."""

TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}
"""What values can be. Plain text that YAML takes for something else, such as 2019-01-01 and `=`, is text."""

MOST_BYTES = 4_000_000
"""The size of a file, beyond which it is no config."""

MOST_REPEATED = 100_000
"""So many values may aliases repeat: aliases of aliases make billions of a few lines."""

DEEPEST = 100
"""How deep values may be nested."""

Written = tuple["Key", yaml.Node, yaml.Node]
"""A key, the node that shows where it stands, and its value's."""

Key = tuple[str, ...]
"""The way to a value: the keys from the top, `("ranker", "num_child")`; items of a list go by number, from 0."""

ALTERNATIVES: dict[Key, tuple[set[str], ...]] = {
    (): ({"ranker"}, {"stages"}),
    ("first_stage",): ({"bm25"}, {"run"}),
    ("queries",): ({"limit"}, {"sample"}, {"ids"}),
    ("dataset",): ({"docs", "queries", "field"}, {"candidates"}, {"beir"}),
}
"""Keys that replace each other when files are merged: whoever names one does not want the inherited other."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a value was written; relative paths in it are looked up in `folder`."""

    words: str
    folder: Path
    text: str | None = None
    """The characters that stand there, `031_1` where the value is 311; None for a mapping or a list."""


@dataclass
class Document:
    """A mapping of a YAML file, and the place of each of its keys."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)

    def place(self, key: Key) -> Place | None:
        """Where the key, or the nearest one around it, was written."""
        return next((self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places), None)

    def value(self, key: Key) -> Any:
        """What stands at a key; None where nothing does."""
        return value_at(self.values, key)

    def merge(self, over: Document) -> None:
        """Lay another document over this one.

        A list replaces a list; a mapping whose keys are numbers changes those items of a list. Raises `InputError`
        for an item that the list does not have.
        """
        self._lay(self.values, over.values, (), over)
        self.places.update(over.places)

    def _lay(self, below: dict[str, Any], above: dict[str, Any], at: Key, over: Document) -> None:
        alternatives = ALTERNATIVES.get(at, ())
        for group in alternatives:
            if group & above.keys():
                for key in [k for other in alternatives if other is not group for k in other - above.keys()]:
                    below.pop(key, None)
        for key, value in above.items():
            here = (*at, key)
            if isinstance(value, dict) and isinstance(below.get(key), dict):
                below[key] = dict(below[key])  # an alias may have put the same mapping elsewhere too
                self._lay(below[key], value, here, over)
            elif isinstance(value, dict) and isinstance(below.get(key), list):
                items = {str(number): item for number, item in enumerate(below[key])}
                for number in value.keys() - items.keys():
                    where = first_line(over, (*here, number))
                    raise InputError(f"{where}: {'.'.join(here)} has no item {number}; there are {', '.join(items)}")
                self._lay(items, value, here, over)
                below[key] = list(items.values())
            else:
                below[key] = value
                self.places = {place: found for place, found in self.places.items() if place[: len(here)] != here}


def read(path: Path, shipped: Path) -> Document:
    """The file with everything it extends. Names that are not beside it are looked up among the `shipped` configs.

    Raises `InputError` with file and line for what is not YAML, not a mapping, or missing.
    """
    return _read(path, shipped, ())


def find(name: str, folder: Path, shipped: Path) -> Path:
    """The config file of that path or name: in `folder`, or else among the shipped ones, `.yaml` added if need be."""
    names = [name] if name.endswith((".yaml", ".yml")) else [name, f"{name}.yaml"]
    for candidate in [place / n for place in (folder, shipped) for n in names]:
        with suppress(OSError):  # of a name that is too long, or a folder that may not be entered
            if candidate.is_file():
                return candidate
    known = sorted(str(path.relative_to(shipped)) for path in shipped.rglob("*.yaml"))
    raise InputError(f"no config {name} in {folder} or among the shipped ones{nearest(name, known)}")


def value_at(values: Any, key: Key) -> Any:
    """What stands at a key in mappings and lists; None where nothing does."""
    for part in key:
        if isinstance(values, list):
            values = values[int(part)] if part.isdecimal() and int(part) < len(values) else None
        else:
            values = values.get(part) if isinstance(values, dict) else None
    return values


def setting(text: str) -> Document:
    """The document that `--set ranker.num_child=4` stands for; `stages.0.depth=50` is of a list's first item."""
    name, equals, value = text.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys) or len(keys) > DEEPEST:
        raise InputError(f"--set {text}: expected a dotted key and a YAML value, such as ranker.num_child=4")
    place = Place(f"--set {text}", Path.cwd())
    try:
        parsed, nodes = _parse(value)
    except ILL_FORMED as error:
        raise InputError(f"--set {text}: not a YAML value: {_problem(error)}") from error
    places = {(*keys, *key): replace(place, text=_text(node)) for key, _, node in nodes}
    for key in reversed(keys):
        parsed = {key: parsed}
    return Document(parsed, {keys[:n]: place for n in range(1, len(keys) + 1)} | places)


def _read(path: Path, shipped: Path, extending: tuple[Path, ...]) -> Document:
    if path.resolve() in extending:
        raise InputError(f"{path}: extends itself, by way of {' and '.join(p.name for p in extending)}")
    own = _file(path)
    document = Document()
    names = own.values.pop("extends", None)
    several = [("extends", str(number)) for number in range(len(names))] if isinstance(names, list) else [("extends",)]
    for key in several if names else ():
        name = own.places[key].text
        if not name:
            raise InputError(f"{own.places[key].words}: extends takes names of config files")
        try:
            parent = find(name, path.parent, shipped)
        except InputError as error:
            raise InputError(f"{own.places[key].words}: {error}") from error
        document.merge(_read(parent, shipped, (*extending, path.resolve())))
    document.merge(own)
    return document


def _file(path: Path) -> Document:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"config {path}: longer than {MOST_BYTES:,} bytes; long lists belong in the dataset's files"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path}: cannot be read: {error}") from error
    try:
        values, nodes = _parse(text)
    except ILL_FORMED as error:
        mark = getattr(error, "problem_mark", None)
        form = "" if isinstance(error, _UnfitError) else "not valid YAML: "
        raise InputError(f"{path}{f', line {mark.line + 1}' if mark else ''}: {form}{_problem(error)}") from error
    if not nodes:
        raise InputError(f"config {path}: the file is empty; see `r2llm list configs` for examples")
    places = {
        key: Place(f"{path}, line {shown.start_mark.line + 1}", path.parent, _text(node)) for key, shown, node in nodes
    }
    if not isinstance(values, dict):
        raise InputError(f"{places[()].words}: expected a mapping of keys to values")
    return Document(values, places)


class _Loader(yaml.SafeLoader):
    """The safe loader, for which nothing written plainly is a date, and integers have 64 bits."""

    yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in {None, *TAGS}}  # noqa: RUF012
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [resolver for resolver in resolvers if resolver[0] in TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def integer(self, node: yaml.ScalarNode) -> float:
        """Return the integer, or infinity for one beyond 64 bits."""
        number = self.construct_yaml_int(node) if len(node.value) < 99 else math.inf
        return number if abs(number) < 2**63 else math.inf


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)


class _UnfitError(yaml.MarkedYAMLError):
    """It is YAML, but none that a config is written in."""


def _parse(text: str) -> tuple[Any, list[Written]]:
    """Return what YAML says, and its nodes by key, the whole first; none where it is empty. Raises `ILL_FORMED`."""
    loader = _Loader(text)
    root = loader.get_single_node()
    if root is None:
        return None, []
    _extent(root, {})
    return loader.construct_document(root), [*_nodes((), root, root)]


def _extent(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return of how many values a node is made, and how deep, each alias being what it repeats; nodes are visited once.

    Raises for too many or too deep ones, for text that is not Unicode, and for a key that is no word or stands there
    twice: YAML lets it silently win over the earlier one.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = (0, DEEPEST)  # whoever meets it again below itself is nested without end
    below = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in WORD_TAGS or not key.value.isprintable():
                raise _UnfitError(problem="a key must be a word, in quotes if need be", problem_mark=key.start_mark)
            if key.value in seen and key.value != "<<":
                raise _UnfitError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
            below.append(_extent(value, known))
    elif isinstance(node, yaml.SequenceNode):
        below = [_extent(value, known) for value in node.value]
    elif re.search("[\0\ud800-\udfff]", node.value):
        raise _UnfitError(
            problem="half a character, or one that ends texts: a lone surrogate or NUL", problem_mark=node.start_mark
        )
    count, depth = 1 + sum(count for count, _ in below), 1 + max((depth for _, depth in below), default=0)
    if depth > DEEPEST:
        raise yaml.MarkedYAMLError(problem="it is nested without end", problem_mark=node.start_mark)
    if count > len(known) + MOST_REPEATED:
        raise _UnfitError(
            problem=f"aliases of aliases make {count:,} values of it; write out what is meant",
            problem_mark=node.start_mark,
        )
    known[id(node)] = (count, depth)
    return count, depth


def _nodes(key: Key, shown: yaml.Node, node: yaml.Node) -> Iterator[Written]:
    """Yield a node, and all keys in its mappings and items of its lists, each with the node that shows where it is."""
    yield key, shown, node
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _nodes((*key, str(name.value)), name, value)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _nodes((*key, str(number)), item, item)


def _text(node: yaml.Node) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested without end"
    problem = getattr(error, "problem", None) or str(error)
    if "could not determine a constructor for the tag" in problem:
        problem = f"the tag {problem.split()[-1]} is not allowed; write plain values"
    return " ".join(str(problem).split())


def first_line(document: Document, keys: Sequence[str | int]) -> str:
    """Where the value at these keys was written, in words; empty where nobody wrote it."""
    place = document.place(tuple(str(key) for key in keys))
    return place.words if place else ""
