"""Which run it is, before how it went: dataset, first stage, method, prompt, model, queries, what reranking changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

COLUMNS = ("what", "value")

SHORT = 12
"""How many digits of a hash are shown: enough to tell runs apart by eye."""

CHOICES = ("limit", "sample", "first")
"""The keys of `queries` that say how many."""

UNSAID = ("backend", "name", "answers")
"""The keys of a `model` section that its name is made of."""


def rows(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values out of a manifest and a `metrics.json`; what they do not know is left out."""
    from ..pipeline.run.manifest import stages

    config, experiment = manifest.get("config", {}), manifest.get("experiment", {})
    for name in ("dataset", "first_stage"):
        if config.get(name):
            yield name.replace("_", " "), words(config[name])
    ranked = stages(experiment)
    settings = config.get("stages") or [config]
    for number, (found, section) in enumerate(zip(ranked, settings, strict=False), 1):
        which, ranker = stage(number, ranked), found["ranker"]
        depth = f", the first {found['depth']}" if found.get("depth") else ""
        said = "; ".join(filter(None, [words(ranker["params"]), str(ranker["scoring"])]))
        yield f"{which}method", f"{ranker['method']} ({said}){depth}"
        yield f"{which}model", model(section.get("model") or config.get("model") or {})
    for name, prompt in manifest.get("prompts", {}).items():
        yield "prompt", f"{name}, {prompt['digest'][:SHORT]}"
    if "fuse" in experiment:
        yield "fused", words(experiment["fuse"])
    chosen = words({key: value for key, value in config.get("queries", {}).items() if key in CHOICES})
    if count := manifest.get("queries") or len(metrics.get("per_query", ())):
        yield "queries", f"{count:,}" + (f" ({chosen})" if chosen else "")
    yield from changes(metrics)


def changes(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each measure before and after reranking, with the change."""
    for name, before in metrics.get("first_stage", {}).get("all", {}).items():
        yield name, change(before, metrics["all"][name])


def change(before: float, after: float) -> str:
    """Return a measure before and after, and the difference with its sign."""
    return f"{before:.4f} → {after:.4f} ({after - before:+.4f})"


def stage(number: int, stages: Sequence[object]) -> str:
    """Return what a stage's rows begin with; nothing where there is but one."""
    return f"stage {number}, " if len(stages) > 1 else ""


def model(section: Mapping[str, Any]) -> str:
    """Return a model's name, its backend, and what else its section says."""
    name = section.get("name") or section.get("answers")
    rest = words({key: value for key, value in section.items() if key not in UNSAID})
    return f"{name} ({section.get('backend')}{f'; {rest}' if rest else ''})"


def words(value: Any) -> str:
    """A JSON value in a line: what is null is not worth a word."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({words(each)})" if isinstance(each, Mapping) else f"{name} {words(each)}"
            for name, each in value.items()
            if each is not None
        )
    if isinstance(value, list):
        return " ".join(map(words, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
