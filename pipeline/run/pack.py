"""Packs: finished runs in one zip file, an RO-Crate, that can be verified and ranked again without their models.

A packed run is its folder as it is, and in `replay/` a config whose models are its ledger and whose first stage is its
own. Where the texts may be passed on, queries, judgements and candidates' texts are there too, and the dataset is not
needed either. The crate follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1); `ir-metadata.yml` says what a run is.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...rerankers.catalog import backend
from ...rerankers.errors import InputError
from ..configs import load as configs
from ..configs.load import SHIPPED, paths
from ..configs.yaml_files import value_at
from ..first_stage.retrieve import chosen_queries, dataset_with_index
from ..io.archive import REPLAY
from ..io.files import replacement
from ..io.progress import Listener
from . import manifest, runfile
from .folder import LEDGER
from .manifest import Manifest

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the zip, so that equal runs give equal bytes."""

CRATE = "ro-crate-metadata.json"
"""The file that says what is in a pack."""

PROFILE = "https://w3id.org/ro/crate/1.1"
ABOUT = (
    "Rankings by LLMs with all their answers: r2llm verify checks them, r2llm rerank --config ranks again, without LLM."
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
            if name in runs:
                raise InputError(f"{run_dir}: another run to be packed is in a folder of this name; rename one")
            try:
                runs[name] = about = manifest.intact(run_dir / manifest.NAME)
            except InputError as error:
                raise InputError(f"{run_dir / manifest.NAME}: {error}") from error
            if about.shard or not about.stages:
                raise InputError(f"{run_dir}: is no whole run: merge shards first; a first stage has nothing to replay")
            files |= {f"{name}/{file}": run_dir / file for file in (manifest.NAME, *about.files)}
            files |= {f"{name}/{REPLAY}/{file}": content for file, content in _replay(run_dir, about, texts, listener)}
            advance(len(runs))
    files[CRATE] = manifest.json_text(_crate(runs, files))
    try:
        with replacement(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, _bytes(files[name]))
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

    def entity(name: str, kind: str, /, **more: object) -> dict[str, object]:
        return {"@id": name, "@type": kind, **more}

    versions = {about.environment.packages.get("r2llm", "") for about in runs.values()}
    published = max(about.finished or "" for about in runs.values())
    parts = [{"@id": f"{run}/"} for run in runs]
    graph = [
        entity(CRATE, "CreativeWork", conformsTo={"@id": PROFILE}, about={"@id": "./"}),
        entity("./", "Dataset", name=", ".join(runs), description=ABOUT, datePublished=published, hasPart=parts),
        entity("#r2llm", "SoftwareApplication", name="r2llm", softwareVersion=", ".join(sorted(versions))),
    ]
    for run, about in runs.items():
        times, source = {"startTime": about.started, "endTime": about.finished}, {"@id": f"{run}/config.yaml"}
        made = {"instrument": {"@id": "#r2llm"}, "object": source, "result": {"@id": f"{run}/"}}
        inside = [{"@id": name} for name in sorted(files) if name.startswith(f"{run}/")]
        graph.append(entity(f"{run}/", "Dataset", additionalType="run", identifier=about.fingerprint, hasPart=inside))
        graph.append(entity(f"#{run}", "CreateAction", name="r2llm rerank", **times, **made))
    for name in sorted(files):
        content = _bytes(files[name])
        digest = hashlib.sha256(content).hexdigest()
        graph.append(entity(name, "File", contentSize=str(len(content)), sha256=digest))
    return {"@context": f"{PROFILE}/context", "@graph": graph}


def _bytes(content: Path | str) -> bytes:
    return content.encode() if isinstance(content, str) else content.read_bytes()
