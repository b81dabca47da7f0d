"""YAML with places: what a config file says, and on which line of which file it says it.

Files are merged by `extends`: mappings deeply, a later file over an earlier one, the file itself last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..rerankers.catalog import nearest
from ..rerankers.errors import InputError

ILL_FORMED = (yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, RecursionError)
"""What PyYAML raises: its own errors; others for a date such as 2019-13-45, for `!!bool maybe`, for endless nesting."""

WORD_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
"""What YAML takes a key for: not for a number, nor for the truth value that it sees in `on` and `no`."""

Key = tuple[str, ...]
"""The way to a value: the keys from the top, `("ranker", "num_child")`; items of a list go by number, from 0."""

ALTERNATIVES: dict[Key, tuple[set[str], ...]] = {
    (): ({"ranker"}, {"stages"}),
    ("first_stage",): ({"bm25"}, {"run"}),
    ("queries",): ({"limit"}, {"sample"}, {"ids"}),
    ("dataset",): ({"docs", "queries"}, {"candidates"}, {"beir"}),
}
"""Keys that replace each other when files are merged: whoever names one does not want the inherited other."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written; relative paths in it are looked up in `folder`."""

    words: str
    folder: Path


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
    if not equals or not all(keys):
        raise InputError(f"--set {text}: expected a dotted key and a YAML value, such as ranker.num_child=4")
    try:
        parsed = yaml.safe_load(value)
    except ILL_FORMED as error:
        raise InputError(f"--set {text}: not a YAML value: {_problem(error)}") from error
    for key in reversed(keys):
        parsed = {key: parsed}
    place = Place(f"--set {text}", Path.cwd())
    return Document(parsed, {keys[:n]: place for n in range(1, len(keys) + 1)})


def _read(path: Path, shipped: Path, extending: tuple[Path, ...]) -> Document:
    if path.resolve() in extending:
        raise InputError(f"{path}: extends itself, by way of {' and '.join(p.name for p in extending)}")
    own = _parse(path)
    document = Document()
    names = own.values.pop("extends", None) or []
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            raise InputError(f"{_words(own, ('extends',))}: extends takes names of config files, not {name!r}")
        try:
            parent = find(name, path.parent, shipped)
        except InputError as error:
            raise InputError(f"{_words(own, ('extends',))}: {error}") from error
        document.merge(_read(parent, shipped, (*extending, path.resolve())))
    document.merge(own)
    return document


def _words(document: Document, key: Key) -> str:
    place = document.place(key)
    return place.words if place else ".".join(key)


def _parse(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"config {path}: cannot be read: {error}") from error
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise InputError(f"config {path}: the file is empty; see `r2llm list configs` for examples")
        if not isinstance(root, yaml.MappingNode):
            raise InputError(f"{path}, line {root.start_mark.line + 1}: expected a mapping of keys to values")
        _refuse_repeats(root, path)
        values = loader.construct_document(root)
    except ILL_FORMED as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {_problem(error)}") from error
    places = {key: Place(f"{path}, line {node.start_mark.line + 1}", path.parent) for key, node in _keys(root, ())}
    return Document(values, places)


def _refuse_repeats(node: yaml.Node, path: Path) -> None:
    """YAML lets a later key silently win over an earlier one; a config must not."""
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in WORD_TAGS:
                raise InputError(f"{path}, line {key.start_mark.line + 1}: a key must be a word, in quotes if need be")
            if key.value in seen and key.value != "<<":
                raise InputError(f"{path}, line {key.start_mark.line + 1}: {key.value} is given twice")
            seen.add(key.value)


def _mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _keys(node: yaml.Node, at: Key) -> Iterator[tuple[Key, yaml.Node]]:
    """Every key in a mapping, and every item of a list, with the node that shows where it stands."""
    found: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        found = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        found = [(str(number), item, item) for number, item in enumerate(node.value)]
    for name, shown, value in found:
        yield (*at, name), shown
        yield from _keys(value, (*at, name))


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
