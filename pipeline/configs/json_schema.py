"""A JSON Schema of the YAML files, made from the classes that check them: editors complete and check with it.

A file may be a part that others extend, so nothing is required here: the loader says what is missing. Keys of every
method and backend are known, as they are to the loader; those of the method or backend that a file names are checked
by its own rules.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ...rerankers import catalog
from ...rerankers.ranker import RankerOptions
from .. import listing
from . import schema as sections
from .load import SHIPPED

FILE = SHIPPED / "schema.json"
"""Where the package has it: the configs' first lines lead there."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

EXTENDS = {
    "description": "configs to start from, by path or shipped name; later ones win, and this file wins over all",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
}

WHOLE = "An experiment, or a part of one for others to extend."

Schema = dict[str, Any]


def text() -> str:
    """The schema as the shipped file has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """The schema of a config file."""
    whole = _schema_of(sections.Config)
    definitions: Schema = whole.pop("$defs", {})
    common = _properties(RankerOptions, "ranker", definitions)
    common["prompt"]["examples"] = catalog.prompts()
    methods = {name: catalog.method(name).params for name in catalog.methods()}
    backends = {name: catalog.backend(name).Options for name in catalog.backends()}
    about = {row[0]: row[1] for row in listing.rows("methods") + listing.rows("backends")}
    for name, keys in (methods | backends).items():
        definitions[name] = {"description": about[name], "properties": _properties(keys, name, definitions)}
    whole["properties"] = {"extends": EXTENDS} | whole["properties"]
    for name, selector, keys_of, shared in (("ranker", "method", methods, common), ("model", "backend", backends, {})):
        section = _section(selector, shared, {taker: definitions[taker] for taker in keys_of})
        whole["properties"][name] = {"description": whole["properties"][name]["description"]} | section
        definitions["Stage"]["properties"][name] = {"$ref": f"#/properties/{name}"}
    return {"$schema": DIALECT} | whole | {"title": "r2llm config", "description": WHOLE, "$defs": definitions}


class _Generator(GenerateJsonSchema):
    """Pydantic's, for files that are written by hand and of which several may make one config."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Never: the title would be the key once more."""
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ARG002
        """Never: another file may give it."""
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Any of the forms: where nothing is required, a mapping can be of several."""
        found = super().tagged_union_schema(schema)
        return {"anyOf": found.pop("oneOf")} | found

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """A scalar of any type: text is what was typed."""
        return super().str_schema(schema) | {"type": ["string", "number", "boolean"]}

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """What a list of texts may be written as: a text alone, or a list of them."""
        found = super().function_before_schema(schema)
        alone = schema["function"]["function"] is typing.get_args(sections.Texts)[1].func
        return {"anyOf": [found["items"], found]} if alone else found


def _schema_of(model: type[BaseModel], owner: str = "") -> Schema:
    return model.model_json_schema(schema_generator=_Generator, ref_template=f"#/$defs/{owner}{{model}}")


def _properties(model: type[BaseModel], owner: str, definitions: Schema) -> Schema:
    """A class's keys; what their schemas refer to is added to the definitions, under names that tell whose it is."""
    found = _schema_of(model, f"{owner}.")
    definitions |= {f"{owner}.{name}": each for name, each in found.get("$defs", {}).items()}
    return dict(found.get("properties", {}))


def _section(selector: str, common: Schema, own: Mapping[str, Schema]) -> Schema:
    """A mapping in which one key, the selector, names whose own keys it holds; all others' are known too."""
    keys = dict.fromkeys(key for taker in own.values() for key in taker["properties"])
    every = {
        key: _any_of(taker["properties"][key] for taker in own.values() if key in taker["properties"]) for key in keys
    }
    names = {"description": f"r2llm list {selector}s says more", "type": "string", "enum": list(own)}
    return {
        "type": ["object", "null"],
        "properties": common | {selector: names} | every,
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {selector: {"const": name}}, "required": [selector]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for name in own
        ],
    }


def _any_of(variants: Iterable[Schema]) -> Schema:
    """A schema for a key that several methods or backends know, each in its own way."""
    different: list[Schema] = []
    for variant in variants:
        if variant not in different:
            different.append(variant)
    return different[0] if len(different) == 1 else {"anyOf": different}
