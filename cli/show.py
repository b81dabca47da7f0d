"""`r2llm show`: what a run was, with what it was done, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..pipeline.runs.record import Record

SHORT = 12
"""How many digits of a hash are shown: enough to tell runs apart by eye."""

GIB = 2**30

HARDLY_NEWS = ("files", "tokenizer", "name", "backend")
"""What a backend tells of itself that the first line about the model says already, or that is for machines."""


def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")],
    as_json: options.Json = False,
) -> None:
    """Show a run: what was run, with what, when, at what cost, and how it measured. `verify` checks it."""
    from ..pipeline.runs import record
    from . import console, results

    found = record.read(run_dir)
    if as_json:
        content = {"run_dir": str(found.path), "manifest": found.manifest, "metrics": found.metrics}
        stages = {"stages": list(found.stages)} if found.stages else {}
        console.as_json(content | {"costs": found.costs} | stages)
        return
    for text in _title(found):
        console.line(text)
    console.table("run", ["what", "value"], [[name, value] for name, value in _facts(found.manifest)])
    if found.metrics:
        results.show_means(found.metrics)
    if found.costs:
        results.show_costs(found.costs, found.manifest.get("schedule", ""))
    results.show_efficiency(found.metrics.get("efficiency"))
    if found.stages:
        results.show_stages(found.stages, found.manifest.get("schedule", ""))


def _title(found: Record) -> Iterator[str]:
    manifest = found.manifest
    yield f"{manifest.get('name')} in {found.path}"
    if manifest.get("simulated"):
        yield "SIMULATED ANSWERS: these figures are no model's result"
    if not found.finished:
        yield "NOT FINISHED: r2llm rerank with the same config and settings goes on where it stopped"


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The manifest, as names and values; what an unfinished run does not know yet is left out."""
    yield "fingerprint", str(manifest.get("fingerprint"))[:SHORT]
    if shard := manifest.get("shard"):
        yield "shard", f"{shard['number']}/{shard['of']}"
    if merged := manifest.get("merged"):
        yield "merged from", f"{len(merged['shards'])} shards, {merged['differing_answers']} answers differing"
    if shared := manifest.get("shared_ledger"):
        yield "shared ledger", _words(shared)
    yield from _experiment(manifest)
    yield from _model(manifest)
    yield from _executions(manifest)
    yield from _environment(manifest.get("environment", {}))
    for name, digest in manifest.get("data", {}).items():
        if digest:
            yield f"{name} sha256", digest[:SHORT]
    if "ledger" in manifest:
        yield "ledger", f"{manifest['ledger']['answers']:,} answers, {manifest['ledger']['content'][:SHORT]}"
    for name, digest in manifest.get("files", {}).items():
        yield f"{name} sha256", digest[:SHORT]


def _experiment(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from ..pipeline.runs.manifest import stages

    config, experiment = manifest.get("config", {}), manifest.get("experiment", {})
    cascade = stages(experiment)
    for name in ("dataset", "queries", "first_stage"):
        if config.get(name):
            yield name.replace("_", " "), _words(config[name])
    for number, stage in enumerate(cascade, 1):
        which, ranker = f"stage {number}, " if len(cascade) > 1 else "", stage["ranker"]
        depth = f", the first {stage['depth']}" if stage.get("depth") else ""
        said = "; ".join(filter(None, [_words(ranker["params"]), str(ranker["scoring"])]))
        yield f"{which}method", f"{ranker['method']} ({said}){depth}"
        yield f"{which}ranker options", _words(ranker["options"])
    if "fuse" in experiment:
        yield "fused", _words(experiment["fuse"])
    for name, prompt in manifest.get("prompts", {}).items():
        yield "prompt", f"{name}, {prompt['digest'][:SHORT]} ({prompt['source']})"
    yield "seeds", _words(manifest.get("seeds", {}))


def _model(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from ..pipeline.runs.manifest import models

    config = manifest.get("config", {})
    stages = config.get("stages") or [config]
    found = models(manifest)
    for number, stage in enumerate(stages):
        which = f"stage {number + 1}, " if len(stages) > 1 else ""
        if section := stage.get("model") or config.get("model"):
            yield f"{which}model", _words(section)
        model = found[number] if number < len(found) else {}
        if details := {name: value for name, value in model.items() if name not in HARDLY_NEWS}:
            yield f"{which}computed with", _words(details)
        if "tokenizer" in model:
            yield f"{which}tokenizer sha256", model["tokenizer"][:SHORT]
        for name, digest in model.get("files", {}).items():
            yield f"{which}model file {name} sha256", digest[:SHORT]


def _executions(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    executions = manifest.get("executions", [])
    for number, execution in enumerate(executions, 1):
        which = f"execution {number} of {len(executions)}" if len(executions) > 1 else "execution"
        calls = "?" if execution["calls"] is None else f"{execution['calls']:,}"
        ended = execution["ended"] or "?"
        yield which, f"{execution['status']}, {execution['started']} to {ended}, {calls} calls"
    if not executions:
        yield "execution", f"{manifest.get('started')} to {manifest.get('finished')}"
    if manifest.get("wall_seconds") is not None:
        yield "ranking took", f"{manifest['wall_seconds']:.1f} s, schedule {manifest['schedule']}"
    if forms := manifest.get("answer_forms"):
        yield "texts read as", _words(forms)
    if by_kind := manifest.get("unparsed_by_kind"):
        yield "unparsed answers", _words(by_kind)


def _environment(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine, git = environment.get("hardware", {}), environment.get("git")
    if machine:
        memory = f", {machine['memory'] / GIB:.0f} GiB" if machine["memory"] else ""
        yield "machine", f"{machine['cpu']}, {machine['cores']} cores{memory}"
        for gpu in machine["gpus"]:
            yield "GPU", _words(gpu)
    if "platform" in environment:
        yield "system", f"{environment['platform']}, Python {environment['python']}"
        yield "packages", ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    if git:
        yield "checkout", git["commit"] + (", with uncommitted changes" if git["dirty"] else "")


def _words(value: Any) -> str:
    """A JSON value in a line: what is null is not worth a word."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{name} ({_words(each)})" if isinstance(each, Mapping) else f"{name} {_words(each)}"
            for name, each in value.items()
            if each is not None
        )
    if isinstance(value, list):
        return " ".join(map(_words, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
