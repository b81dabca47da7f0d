"""Packs: finished runs in one zip file, an RO-Crate, that can be verified and ranked again without their models.

A packed run is its folder as it is, and in `replay/` a config whose models are its ledger and whose first stage is its
own. Where the texts may be passed on, queries, judgements and candidates' texts are there too, and the dataset is not
needed either. The crate follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1); `ir-metadata.yml` says what a run is.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...rerankers.catalog import backend
from ...rerankers.errors import InputError
from ...rerankers.hashing import file_digest
from ..configs import load as configs
from ..configs.load import SHIPPED, paths
from ..configs.yaml_files import value_at
from ..first_stage.retrieve import chosen_queries, dataset_with_index
from ..io.archive import CRATE, REPLAY
from ..io.files import replacement
from ..io.progress import Listener
from . import manifest, runfile
from .folder import LEDGER
from .manifest import Manifest

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip, so that equal runs give equal bytes."""

DESCRIPTION = (
    "Rankings of LLM rerankers with all answers of their models: r2llm verify checks them, and r2llm rerank --config "
    "ranks them again without the models."
)

Files = dict[str, Path | str]
"""Files by their names in the zip: where they are, or their text."""


def pack(run_dirs: Sequence[Path], output: Path, texts: bool, listener: Listener, beside: Sequence[Path] = ()) -> int:
    """Write these runs, and files `beside` them, into a zip; return its size in bytes.

    Texts of datasets that come with r2llm are always in it, others with `texts`. Raises `InputError` for what is no
    finished, whole run, and if the file cannot be written.
    """
    files: Files = {path.name: path for path in beside}
    runs = dict[str, Manifest]()
    with listener.task("packing runs", len(run_dirs)) as advance:
        for run_dir in run_dirs:
            name = run_dir.resolve().name
            try:
                runs[name] = about = manifest.intact(run_dir / manifest.NAME)
            except InputError as error:
                raise InputError(f"{run_dir / manifest.NAME}: {error}") from error
            if about.shard or not about.stages:
                what = (
                    f"shard {about.shard}: merge the shards first"
                    if about.shard
                    else "a first stage: nothing to replay"
                )
                raise InputError(f"{run_dir}: holds {what}")
            files |= {f"{name}/{file}": run_dir / file for file in (manifest.NAME, *about.files)}
            files |= {f"{name}/{REPLAY}/{file}": content for file, content in _replay(run_dir, about, texts, listener)}
            advance(len(runs))
    files[CRATE] = manifest.json_text(_crate(runs, files))
    try:
        with replacement(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                content, entry = files[name], zipfile.ZipInfo(name, EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, content if isinstance(content, str) else content.read_bytes())
    except OSError as error:
        raise InputError(f"{error.filename or output}: {error.strerror}") from error
    return output.stat().st_size


def _replay(run_dir: Path, about: Manifest, texts: bool, listener: Listener) -> Iterator[tuple[str, Path | str]]:
    """Yield the files that rank a run again, by name."""
    loaded = configs.of_run(run_dir)
    content = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    content.pop("shared_ledger", None)
    stage = {key: content["first_stage"][key] for key in ("depth", "order") if key in content["first_stage"]}
    content["first_stage"] = stage | {"seed": loaded.config.shuffle_seed, "exclude_same_id": False}
    sections, models = content.get("stages") or [content], [one.model for one in about.stages]
    for section in sections:
        if not backend(section["model"]["backend"]).Options.recorded or LEDGER in about.files:
            section["model"] = {}
    with_texts = texts or (SHIPPED / str(content["dataset"])).is_dir()
    for key in paths(content):
        value = value_at(content, key)
        path = Path(os.path.normpath(run_dir / value)) if isinstance(value, str) else None
        if path and path.is_file() and key[0] != "dataset":
            yield path.name, path
            value_at(content, key[:-1])[key[-1]] = path.name
        elif path and path.exists():
            value_at(content, key[:-1])[key[-1]] = os.path.join(os.pardir, value)  # noqa: PTH118 - as it is written
    content["first_stage"]["run"] = "../first_stage.trec"
    for section, model in zip(sections, models, strict=True):
        of = {} if models.count(model) == len(models) else {"of": model}
        section["model"] = section["model"] or {"backend": "replay", "answers": f"../{LEDGER}", **of}
    if with_texts:
        content.pop("queries", None)
        content["dataset"] = {}
        for kind, name, text in _texts(loaded, run_dir, listener):
            yield name, text
            content["dataset"][kind] = name
    else:
        remedy = (
            "where its licence allows to pass them on, --texts puts them in; else whoever replays needs the dataset"
        )
        listener.note(f"{about.name}: the texts of {about.config.dataset} are left out: {remedy}")
    yield "config.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _texts(loaded: configs.Loaded, run_dir: Path, listener: Listener) -> Iterator[tuple[str, str, str]]:
    """Yield what of a dataset a run needs: the key, a file name, and the text in it."""
    dataset = dataset_with_index(loaded, listener)
    queries = chosen_queries(dataset.queries(), loaded.config.queries)
    hits, qrels = runfile.read(run_dir / "first_stage.trec")[0], dataset.qrels() or {}
    ids = list(dict.fromkeys(doc for query in hits for doc, _ in hits[query]))
    passages = dataset.docs().texts(ids)
    yield "docs", "docs.jsonl", _json_lines({"_id": doc, "text": passages[doc]} for doc in ids)
    yield "queries", "queries.jsonl", _json_lines({"_id": query.id, "text": query.text} for query in queries.values())
    if grades := [(query, doc, grade) for query in queries for doc, grade in qrels.get(query, {}).items()]:
        yield "qrels", "qrels.txt", "".join(f"{query} 0 {doc} {grade}\n" for query, doc, grade in grades)


def _json_lines(rows: Iterator[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _crate(runs: Mapping[str, Manifest], files: Files) -> dict[str, Any]:
    """Return the content of `ro-crate-metadata.json`."""
    described = [
        {"@id": name, "@type": "File", "name": name.rpartition("/")[2]}
        | (
            {"contentSize": str(path.stat().st_size), "sha256": file_digest(path)}
            if isinstance(path, Path)
            else {"contentSize": str(len(path.encode()))}
        )
        for name, path in sorted(files.items())
    ]
    parts = {run: [{"@id": one["@id"]} for one in described if one["@id"].startswith(f"{run}/")] for run in runs}
    folders = [
        {
            "@id": f"{run}/",
            "@type": "Dataset",
            "additionalType": "run",
            "name": about.name,
            "identifier": about.fingerprint,
            "description": f"{', '.join(stage.ranker.method for stage in about.stages)}: a run of r2llm",
            "hasPart": parts[run],
        }
        for run, about in runs.items()
    ]
    actions = [
        {
            "@id": f"#{run}",
            "@type": "CreateAction",
            "name": "r2llm rerank",
            "startTime": about.started,
            "endTime": about.finished,
            "instrument": {"@id": "#r2llm"},
            "object": {"@id": f"{run}/config.yaml"},
            "result": {"@id": f"{run}/run.trec"},
        }
        for run, about in runs.items()
    ]
    versions = {about.environment.packages.get("r2llm") for about in runs.values()} - {None}
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": CRATE,
                "@type": "CreativeWork",
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
                "about": {"@id": "./"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": ", ".join(about.name for about in runs.values()),
                "description": DESCRIPTION,
                "datePublished": max(about.finished or "" for about in runs.values()),
                "hasPart": [{"@id": f"{run}/"} for run in runs],
                "mentions": [{"@id": action["@id"]} for action in actions],
            },
            {
                "@id": "#r2llm",
                "@type": "SoftwareApplication",
                "name": "r2llm",
                "softwareVersion": ", ".join(sorted(map(str, versions))),
            },
            *folders,
            *actions,
            *described,
        ],
    }
