"""Write the generated parts of docs/methods.md: each method's parameters with their defaults, out of the code.

    python scripts/update_docs.py [--check]

A part stands between `<!-- parameters: NAME -->` and `<!-- end -->`, NAME being a method or `every method`. With
`--check` nothing is written, and the exit code is 1 where a part is out of date or a method has none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from r2llm.rerankers import catalog
from r2llm.rerankers.ranker import Ranker, RankerOptions

DOCS = Path(__file__).parent.parent / "docs" / "methods.md"
PART = re.compile(r"(<!-- parameters: (?P<name>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)
EVERY = "every method"


def table(model: type[BaseModel], without: set[str]) -> str:
    """A Markdown table of a model's fields."""
    fields = {name: field for name, field in model.model_fields.items() if name not in without}
    if not fields:
        return "No parameters of its own.\n"
    rows = [f"| `{name}` | {default(field)} | {field.description or ''} |" for name, field in fields.items()]
    return "\n".join(["| parameter | default | meaning |", "|---|---|---|", *rows]) + "\n"


def default(field: FieldInfo) -> str:
    """A field's default, as YAML would write it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "none" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def part(name: str) -> str:
    """The generated text for a method, or for the options that every method takes."""
    if name == EVERY:
        return table(RankerOptions, without={"method"})
    method = catalog.method(name)
    ranker = Ranker.create({"method": name})
    prompts = ", ".join(f"`{prompt.name}`" for prompt in ranker.prompts)
    compat = method.params.compat_defaults
    said = [f"Prompts: {prompts}. Scoring: {ranker.scoring}."]
    said += [f"Under `compat: llm-rankers`: {', '.join(f'`{k}: {v}`' for k, v in compat.items())}."] if compat else []
    return " ".join(said) + "\n\n" + table(method.params, without=set())


def updated(text: str) -> str:
    """The page with its generated parts made anew."""
    return PART.sub(lambda match: f"{match[1]}\n{part(match['name'])}\n{match[3]}", text)


def main() -> int:
    """Write the parts, or check them."""
    text = DOCS.read_text(encoding="utf-8")
    named = {match["name"] for match in PART.finditer(text)}
    missing = [name for name in [EVERY, *catalog.methods()] if name not in named]
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
