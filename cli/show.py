"""`r2llm show`: what a run was, with what it was done, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import heading, options
from .heading import SHORT

if TYPE_CHECKING:
    from ..pipeline.run.read import Record

GIB = 2**30

HARDLY_NEWS = ("files", "tokenizer", "name", "backend")
"""What a backend tells of itself that the first line about the model says already, or that is for machines."""


def show(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run's folder.")],
    as_json: options.Json = False,
) -> None:
    """Show a run: what was run, with what, when, at what cost, and how it measured. `verify` checks it."""
    from ..pipeline.run import read as record
    from . import console

    found = record.read(run_dir)
    if as_json:
        content = {"run_dir": str(found.path), "manifest": found.manifest, "metrics": found.metrics}
        stages = {"stages": list(found.stages)} if found.stages else {}
        console.as_json(content | {"costs": found.costs} | stages)
        return
    with record.shown(run_dir):
        _show(found)


def _show(found: Record) -> None:
    from . import console, results

    for text in _title(found):
        console.line(text)
    console.table("which", heading.COLUMNS, list(heading.rows(found.manifest, found.metrics)))
    if found.metrics:
        results.show_means(found.metrics)
    if found.costs:
        results.show_costs(found.costs, found.manifest.get("schedule", ""))
    results.show_efficiency(found.metrics.get("efficiency"))
    if found.stages:
        results.show_stages(found.stages, found.manifest.get("schedule", ""))
    console.table("how", heading.COLUMNS, list(_facts(found.manifest)))


def _title(found: Record) -> Iterator[str]:
    manifest = found.manifest
    yield f"{manifest.get('name')} in {found.path}"
    if manifest.get("simulated"):
        yield "SIMULATED ANSWERS: these figures are no model's result"
    if not found.finished:
        yield "NOT FINISHED: r2llm rerank with the same config and settings goes on where it stopped"
    yield from (f"WARNING: {warning}" for warning in manifest.get("warnings", ()))


def _facts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The manifest, as names and values; what an unfinished run does not know yet is left out."""
    yield "fingerprint", str(manifest.get("fingerprint"))[:SHORT]
    if shard := manifest.get("shard"):
        yield "shard", f"{shard['number']}/{shard['of']}"
    if merged := manifest.get("merged"):
        yield "merged from", f"{len(merged['shards'])} shards, {merged['differing_answers']} answers differing"
    if shared := manifest.get("shared_ledger"):
        yield "shared ledger", heading.words(shared)
    yield from _ranking(manifest)
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


def _ranking(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from ..pipeline.run.manifest import stages

    found = stages(manifest.get("experiment", {}))
    for number, stage in enumerate(found, 1):
        yield f"{heading.stage(number, found)}ranker options", heading.words(stage["ranker"]["options"])
    for name, prompt in manifest.get("prompts", {}).items():
        yield f"source of prompt {name}", prompt["source"]
    yield "seeds", heading.words(manifest.get("seeds", {}))


def _model(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from ..pipeline.run.manifest import models

    config = manifest.get("config", {})
    stages = config.get("stages") or [config]
    found = models(manifest)
    for number, stage in enumerate(stages):
        which = heading.stage(number + 1, stages)
        if section := stage.get("model") or config.get("model"):
            yield f"{which}model settings", heading.words(section)
        model = found[number] if number < len(found) else {}
        if details := {name: value for name, value in model.items() if name not in HARDLY_NEWS}:
            yield f"{which}computed with", heading.words(details)
        if digest := model.get("tokenizer"):
            yield f"{which}tokenizer sha256", digest[:SHORT]
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
        yield "texts read as", heading.words(forms)
    if by_kind := manifest.get("unparsed_by_kind"):
        yield "unparsed answers", heading.words(by_kind)
    yield from (("note", note) for note in manifest.get("notes", ()))


def _environment(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    machine, git = environment.get("hardware", {}), environment.get("git")
    if machine:
        memory = f", {machine['memory'] / GIB:.0f} GiB" if machine["memory"] else ""
        yield "machine", f"{machine['cpu']}, {machine['cores']} cores{memory}"
        for gpu in machine["gpus"]:
            yield "GPU", heading.words(gpu)
    if "platform" in environment:
        yield "system", f"{environment['platform']}, Python {environment['python']}"
        yield "packages", ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    if git:
        yield "checkout", git["commit"] + (", with uncommitted changes" if git["dirty"] else "")
