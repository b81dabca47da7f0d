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
    for name in config.files():
        content = yaml.safe_load((config.SHIPPED / name).read_text(encoding="utf-8"))
        if isinstance(content.get("dataset"), str):
            named.setdefault(content["dataset"], []).append(name)
    return [(dataset, f"in {', '.join(names)}") for dataset, names in sorted(named.items())]


def _configs() -> list[Row]:
    """Shipped experiments, each with the comment its file begins with."""
    return [(name, _about((config.SHIPPED / name).read_text(encoding="utf-8"))) for name in config.names()]


def _about(text: str) -> str:
    """The first comment line that is not for an editor."""
    comments = (line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    return next((comment.rstrip(".") for comment in comments if not comment.startswith("yaml-language-server")), "")
