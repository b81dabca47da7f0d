"""The JSON Schema of config files, made from the classes that check them, for editors.

A file may be a part that others extend, so nothing is required here: the loader says what is missing. Keys of every
method and backend are known, as they are to the loader; those of the method or backend that a file names are checked
by its own rules.
"""

import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ...rerankers import catalog
from ...rerankers.marks import marks
from . import listing
from . import schema as sections
from .load import SHIPPED

FILE = SHIPPED / "schema.json"  # to which the first lines of configs lead

Schema = dict[str, Any]


def text() -> str:
    """Return the schema as the shipped file has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """Return the schema of a config file."""
    whole = _schema_of(sections.Config)
    definitions: Schema = whole.pop("$defs", {})
    whole["properties"] = _properties(sections.FileKeys, "", definitions) | whole["properties"]
    whole["properties"]["expected"]["type"] = ["object", "string"]
    for key, section in marks(sections.Config, sections.Open).items():
        about = {row[0]: row[1] for row in listing.rows(f"{section.selector}s")}
        own: dict[str, Schema] = {}
        common: Schema = {}
        for name in catalog.names(section.selector):
            *shared, keys = section.takers(name)
            common = common or {each: one for of in shared for each, one in _properties(of, key, definitions).items()}
            own[name] = {"description": about[name], "properties": _properties(keys, name, definitions)}
        if "prompt" in common:
            common["prompt"]["examples"] = catalog.names("prompt")
        description = {"description": whole["properties"][key]["description"]}
        whole["properties"][key] = description | _section(section.selector, common, own)
        definitions |= own
        definitions["Stage"]["properties"][key] = {"$ref": f"#/properties/{key}"}
    heading = {"title": "r2llm config", "description": "An experiment, or a part of one for others to extend."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | whole | heading | {"$defs": definitions}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, for files that are written by hand and of which several may make one config."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        """Return False: the title would repeat the key."""
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:  # noqa: ARG002
        """Return False: another file may have it."""
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        """Return any of the forms: where nothing is required, a mapping can be of several."""
        union = super().tagged_union_schema(schema)
        return {"anyOf": union.pop("oneOf")} | union

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        """Return a scalar of any type: text is what was typed."""
        return super().str_schema(schema) | {"type": ["string", "number", "boolean"]}

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """Return a text alone or a list of them, if the validator takes both."""
        listed = super().function_before_schema(schema)
        alone = schema["function"]["function"] is typing.get_args(sections.Texts)[-1].func
        return {"anyOf": [listed["items"], listed]} if alone else listed


def _schema_of(model: type[BaseModel], owner: str = "") -> Schema:
    return model.model_json_schema(schema_generator=_Generator, ref_template=f"#/$defs/{owner}{{model}}")


def _properties(model: type[BaseModel], owner: str, definitions: Schema) -> Schema:
    """Return the keys of a class; schemas they refer to are added to the definitions, under names with the owner's."""
    content = _schema_of(model, f"{owner}.")
    definitions |= {f"{owner}.{name}": each for name, each in content.get("$defs", {}).items()}
    return dict(content.get("properties", {}))


def _section(selector: str, common: Schema, own: Mapping[str, Schema]) -> Schema:
    """Return a mapping whose selector names the taker that checks its keys; the keys of all others are known too."""
    variants: dict[str, list[Schema]] = {}
    for taker in own.values():
        for key, variant in taker["properties"].items():
            if variant not in variants.setdefault(key, []):
                variants[key].append(variant)
    every = {key: of[0] if len(of) == 1 else {"anyOf": of} for key, of in variants.items()}
    names = {"description": f"r2llm list {selector}s says more", "type": "string", "enum": list(own)}
    chosen = {name: {"properties": {selector: {"const": name}}, "required": [selector]} for name in own}
    return {
        "type": ["object", "null"],
        "properties": common | {selector: names} | every,
        "additionalProperties": False,
        "allOf": [{"if": rule, "then": {"$ref": f"#/$defs/{name}"}} for name, rule in chosen.items()],
    }
