"""What there is to choose from, each with a line about it."""

from __future__ import annotations

import yaml

from ..rerankers import catalog
from ..rerankers.prompts import prompts
from . import config

Row = tuple[str, str]


def rows(what: str) -> list[Row]:
    """Names and descriptions of all methods, prompts, models, datasets or configs."""
    return {
        "methods": _methods,
        "prompts": _prompts,
        "models": _models,
        "datasets": _datasets,
        "configs": _configs,
    }[what]()


def _methods() -> list[Row]:
    return [(name, catalog.method(name).summary.rstrip(".")) for name in catalog.methods()]


def _prompts() -> list[Row]:
    found = [prompts.load(name) for name in catalog.prompts()]
    return [(prompt.name, f"{', '.join(prompt.asks)}; {prompt.source}") for prompt in found]


def _models() -> list[Row]:
    return [(name, (catalog.backend(name).__doc__ or "").partition("\n")[0].rstrip(".")) for name in catalog.backends()]


def _datasets() -> list[Row]:
    """Datasets that the shipped configs name; ir_datasets has many more."""
    named: dict[str, list[str]] = {}
    for name in config.names():
        content = yaml.safe_load((config.SHIPPED / name).read_text(encoding="utf-8"))
        if isinstance(content.get("dataset"), str):
            named.setdefault(content["dataset"], []).append(name)
    return [(dataset, f"in {', '.join(names)}") for dataset, names in sorted(named.items())]


def _configs() -> list[Row]:
    """Shipped configs, each with the comment on its first line."""
    found = []
    for name in config.names():
        first = (config.SHIPPED / name).read_text(encoding="utf-8").partition("\n")[0]
        found.append((name, first.removeprefix("#").strip().rstrip(".") if first.startswith("#") else ""))
    return found
