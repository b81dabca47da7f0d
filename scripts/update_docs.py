"""Write the generated parts of docs/methods.md: each method's parameters with their defaults, out of the code.

    python scripts/update_docs.py [--check]

A part stands between `<!-- parameters: NAME -->` and `<!-- end -->`, NAME being a method or a config's section of
`SECTIONS`. With `--check` nothing is written, and the exit code is 1 where a part is out of date or one is missing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from r2llm.pipeline import listing
from r2llm.pipeline.configs.load import Fuse, Stage
from r2llm.rerankers import catalog, compat
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.passages import Passages
from r2llm.rerankers.ranker import Ranker, RankerOptions

DOCS = Path(__file__).parent.parent / "docs" / "methods.md"
PART = re.compile(r"(<!-- parameters: (?P<name>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)

SECTIONS: Mapping[str, type[BaseModel]] = {
    "every method": RankerOptions,
    "passages": Passages,
    "stages": Stage,
    "fuse": Fuse,
}
"""The sections of a config that have a part."""


def table(model: type[BaseModel]) -> str:
    """A Markdown table of a model's fields."""
    if not model.model_fields:
        return "No parameters of its own.\n"
    rows = [
        f"| `{field.alias or name}` | {written(listing.default(field))} | {meaning(field)} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| parameter | default | meaning |", "|---|---|---|", *rows]) + "\n"


def written(default: str) -> str:
    """A default as code, unless it is none."""
    return default if default in ("required", "none") else f"`{default}`"


def meaning(field: FieldInfo) -> str:
    """A field's description, and its values where there are only some."""
    values = ", ".join(f"`{value}`" for value in dict.fromkeys(choices(field.annotation)))
    return " ".join(text for text in (field.description, f"({values})" if values else "") if text)


def choices(annotation: Any) -> Iterator[object]:
    """The values that an annotation names."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for inner in get_args(annotation):
            yield from choices(inner)


def part(name: str) -> str:
    """The generated text for a method or a section."""
    if name in SECTIONS:
        return table(SECTIONS[name])
    method = catalog.method(name)
    ranker = Ranker.create({"method": name})
    said = [f"Scoring: {ranker.scoring}. Prompts: {prompts_of(ranker)}."]
    other = "generation" if ranker.scoring == "likelihood" else "likelihood"
    try:
        otherwise = f"With `scoring: {other}`: {prompts_of(Ranker.create({'method': name, 'scoring': other}))}."
    except InputError:
        otherwise = f"Not for `scoring: {other}`."
    said += [] if otherwise.endswith(f": {prompts_of(ranker)}.") else [otherwise]
    changed = compat.parameters("llm-rankers", method.params)
    said += [f"Under `compat: llm-rankers`: {', '.join(f'`{k}: {v}`' for k, v in changed.items())}."] if changed else []
    return " ".join(said) + "\n\n" + table(method.params)


def prompts_of(ranker: Ranker) -> str:
    """The names of a ranker's prompts."""
    return ", ".join(f"`{prompt.name}`" for prompt in ranker.prompts)


def updated(text: str) -> str:
    """The page with its generated parts made anew."""
    return PART.sub(lambda match: f"{match[1]}\n{part(match['name'])}\n{match[3]}", text)


def main() -> int:
    """Write the parts, or check them."""
    text = DOCS.read_text(encoding="utf-8")
    named = {match["name"] for match in PART.finditer(text)}
    missing = [name for name in [*SECTIONS, *catalog.methods()] if name not in named]
    for name in missing:
        print(f"docs/methods.md has no part for {name}", file=sys.stderr)
    new = updated(text)
    if "--check" not in sys.argv:
        DOCS.write_text(new, encoding="utf-8")
    elif new != text:
        print("docs/methods.md is out of date: python scripts/update_docs.py writes it", file=sys.stderr)
        return 1
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
