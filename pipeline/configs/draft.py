"""A first config out of a few answers, with a comment beside every key."""

from pathlib import Path
from typing import Any

import yaml

from ...rerankers.errors import InputError
from . import listing
from . import load as configs
from .schema import BACKEND, METHOD, Key, walk

HEAD = """\
# `r2llm rerank --config {name}` runs this experiment; `r2llm estimate --config {name}` says what it costs.
# `r2llm list keys` says what else can stand here; `--set KEY=VALUE` changes a key for one run.
# With `grid: {{ranker.k: [10, 20]}}` it is a config for each of these values: `r2llm sweep {name}` runs them all.
"""


def index(dataset: str) -> str:
    """Return the index that a shipped config searches for the dataset, or `build`."""
    for name in configs.files():
        content = yaml.safe_load((configs.SHIPPED / name).read_text(encoding="utf-8"))
        if content.get("dataset") == dataset and (bm25 := (content.get("first_stage") or {}).get("bm25")):
            return str(bm25.get("index", "build"))
    return "build"


def model_key(backend: str) -> str | None:
    """Return the key by which a backend needs to be told its model or recording, or None. Raises `InputError`."""
    [options] = BACKEND.takers(backend)
    required = [name for name, field in options.model_fields.items() if field.is_required()]
    return next(iter(required), "name" if "name" in options.model_fields else None)


def text(name: str, dataset: str, first_stage: str, method: str, backend: str, model: str | None) -> str:
    """Return the config file of that name. Raises `InputError` for an unknown method or backend."""
    key = model_key(backend)
    if model and not key:
        raise InputError(f"backend {backend} takes no model; leave --model out, or name another --backend")
    parameters = {key: field for key, field in METHOD.takers(method)[1].model_fields.items() if key != "seed"}
    values: dict[str, Any] = {
        "dataset": dataset,
        "first_stage": {"run": first_stage} if Path(first_stage).is_file() else {"bm25": {"index": first_stage}},
        "ranker": {"method": method} | {key: yaml.safe_load(listing.default(f)) for key, f in parameters.items()},
        "model": {"backend": backend} | ({key: model} if key else {}),
        "evaluate": {"measures": ["nDCG@10"]},
    }
    values["first_stage"]["depth"] = 100
    lines: list[str] = []
    sections: set[Key] = {()}
    for entry in walk(values):
        if entry.value not in (None, "none", "required") and entry.key[:-1] in sections:
            sections |= {entry.key} if isinstance(entry.value, dict) else set()
            value = "" if isinstance(entry.value, dict) else f" {listing.written(entry.value)}"
            comment = "".join(f"  # {listing.meaning(field)}" for field in entry.fields[:1])
            lines.append(f"{'  ' * (len(entry.key) - 1)}{entry.key[-1]}:{value}{comment}\n")
    return HEAD.format(name=name) + "".join(lines)
