"""Methods, prompts, backends, datasets, configs, systems and keys, each with a line about it."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from ...rerankers import catalog
from ...rerankers.errors import InputError
from ...rerankers.marks import marks
from ...rerankers.prompts import template as prompts
from ...rerankers.types import Candidates, Doc, Query
from ..estimate import simulation
from ..io.progress import Listener
from . import grid, schema, shipped
from .loaded import Loaded

Row = tuple[str, ...]

KEYS = ("key", "type", "default", "meaning")

SYSTEMS = ("name", "family", "method", "size", "licence", "needs", "verified", "cost", "published")

CANDIDATES, PASSAGE_TOKENS = 100, 128  # of the query whose cost is listed

TYPES = {str: "text", int: "integer", float: "number", bool: "true | false"}  # others are mappings


def rows(what: str) -> list[Row]:
    """Return names and descriptions of all methods, prompts, backends (models), datasets or configs.

    Rows of keys are `KEYS`, those of systems `SYSTEMS`.
    """
    match what:
        case "methods":
            return [(name, catalog.method(name).summary.rstrip(".")) for name in catalog.names("method")]
        case "backends" | "models":
            return [(name, _summary(catalog.backend(name))) for name in catalog.names("backend")]
        case "prompts":
            shipped_prompts = map(prompts.load, catalog.names("prompt"))
            return [(prompt.name, f"{', '.join(prompt.asks)}; {prompt.source}") for prompt in shipped_prompts]
    return {"datasets": _datasets, "configs": _configs, "systems": _systems, "keys": _keys}[what]()


def about(what: str, name: str) -> list[Row] | str:
    """Return the `KEYS` of a method or backend, a folder's configs, or the file of a prompt, config or system as text.

    Raises `InputError` where there is none of that name.
    """
    section = {"methods": schema.METHOD, "backends": schema.BACKEND, "models": schema.BACKEND}.get(what)
    if section:
        return list(_fields(reversed(section.takers(name)), ""))
    if what == "prompts":
        return catalog.prompt_file(name.partition("/")[0]).read_text(encoding="utf-8")
    if what == "systems":
        name = f"systems/{name.removeprefix('systems/')}"
    elif what != "configs":
        raise InputError(f"r2llm list {what} takes no name, such as {name}")
    below = [row for row in _configs() if row[0].startswith(f"{name.rstrip('/')}/")]
    return below or (shipped.file(name, Path.cwd()) or grid.cell(name).source.path).read_text(encoding="utf-8")


def default(field: FieldInfo) -> str:
    """Return a field's default as YAML has it, or `required`, or `none`."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None or isinstance(value, BaseModel) else written(value)


def written(value: object) -> str:
    """Return a value as YAML has it, on one line."""
    return yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=sys.maxsize).splitlines()[0]


def meaning(field: FieldInfo) -> str:
    """Return the description of a field, or that of the section it holds."""
    kinds = schema.kinds(field.annotation)
    return field.description or _summary(schema.models([*kinds, *schema.items(kinds)])[0])


def _keys() -> list[Row]:
    """Return every key of a config, those that some methods or backends have with their names."""
    keys: list[Row] = []
    sections = marks(schema.Config, schema.Open)
    for row in _fields([schema.FileKeys, schema.Config], ""):
        keys.append(row)
        if section := sections.get(row[0]):
            users: dict[Row, list[str]] = {}
            names = catalog.names(section.selector)
            for name in names:
                for key in _fields(section.takers(name), f"{row[0]}."):
                    users.setdefault(key, []).append(name)
            for key, of in sorted(users.items()):
                keys.append(key if of == names else (*key[:3], f"{key[3]} ({', '.join(of)})"))
    kinds = " | ".join(catalog.names("backend"))
    return [*keys, ("model.backend", kinds, "required", "the kind of model: `r2llm list backends`")]


def _fields(models: Iterable[type[BaseModel]], before: str) -> Iterator[Row]:
    """Yield the `KEYS` of sections that these classes check, and of all sections in them."""
    for model in models:
        for name, field in model.model_fields.items():
            key, kinds = before + (field.alias or name), schema.kinds(field.annotation)
            inner, items = schema.models(kinds), schema.models(schema.items(kinds))
            yield key, " | ".join(dict.fromkeys(map(_type, kinds))), default(field), meaning(field)
            yield from dict.fromkeys(_fields(inner, f"{key}."))
            yield from _fields(items, f"{key}.*.")


def _summary(documented: object) -> str:
    return (documented.__doc__ or "").partition("\n")[0].rstrip(".")


def _type(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (list, tuple):
        return f"list of {' | '.join(map(_type, schema.kinds(inner[0])))}"
    return "null" if kind is type(None) else TYPES.get(kind, "mapping")


def _datasets() -> list[Row]:
    """Return the datasets that the shipped configs name; ir_datasets has many more."""
    named: dict[str, list[str]] = {}
    for name in shipped.files():
        content = yaml.safe_load((shipped.SHIPPED / name).read_text(encoding="utf-8"))
        if isinstance(content.get("dataset"), str):
            named.setdefault(content["dataset"], []).append(name)
    return [(dataset, f"in {', '.join(names)}") for dataset, names in sorted(named.items())]


def _configs() -> list[Row]:
    """Return the shipped experiments and grids, each with the first comment of its file that is not for an editor."""
    rows: list[Row] = [(name, _about(shipped.SHIPPED / name)) for name in shipped.names()]
    for many in map(grid.read, shipped.of_kind("grids")):
        source = many.cells[0].source
        axes = " by ".join(f"{axis} ({len(values)})" for axis, values in many.axes.items())
        rows.append((source.name, f"{len(many.cells):,} configs: {axes}. {_about(source.path)}"))
    return rows


def systems() -> Iterator[tuple[str, Loaded, schema.System]]:
    """Yield the shipped rerankers with what their files say of them, loaded for the embedded collection."""
    for name in shipped.of_kind("systems"):
        loaded = grid.cell(name, shipped.SHIPPED).load(["dataset=quickstart"])
        if loaded.config.about is None:
            raise InputError(f"{name}.yaml has no `about`, which says what it is")
        yield name.removeprefix("systems/"), loaded, loaded.config.about


def _systems() -> list[Row]:
    return [
        (
            *(name, about.family, loaded.rankers[0].method.name, about.size, about.licence),
            *(", ".join(about.needs) or "nothing", "yes" if about.verified else "no", _cost(loaded, about.parameters)),
            "; ".join(f"{figure.collection}: {figure.measure} {figure.value:.4g}" for figure in about.expected)
            or "none",
        )
        for name, loaded, about in systems()
    ]


def _cost(loaded: Loaded, parameters: float) -> str:
    """Return the prompts for a query, and the operations of reading their passages, 2 a parameter and token."""
    docs = tuple(Doc(str(number), "") for number in range(CANDIDATES))
    models = [simulation.open_rule("equal", {}, None, 0) for _ in loaded.rankers]
    query = Candidates(Query("q", ""), docs, tuple(map(float, range(CANDIDATES, 0, -1))))
    with Listener().task("", None) as silent:
        [costs] = simulation.ranked(loaded, models, [query], silent).values()
    read = sum(cost.asks * of.params.most_docs for cost, of in zip(costs, loaded.rankers, strict=True)) * PASSAGE_TOKENS
    return f"{sum(cost.asks for cost in costs):,} prompts, {2 * parameters * read / 1e12:,.1f} TFLOP"


def _about(path: Path) -> str:
    lines = (line.strip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    return next((line.rstrip(".") for line in lines if not line.startswith("yaml-language-server")), "")
