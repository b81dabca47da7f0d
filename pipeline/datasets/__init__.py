"""Datasets: `load` opens the one that a config names; `base` is their interface."""

from collections.abc import Callable, Mapping
from pathlib import Path

from ...rerankers.errors import InputError
from ..configs import shipped
from .base import Dataset, Docs
from .candidates import CandidatesFile
from .irds import IrDataset
from .local import BeirFolder, Files, is_beir_folder
from .records import Qrels, read_qrels

__all__ = ["Dataset", "Docs", "Qrels", "load", "read_qrels"]

LOOKED = "looked for beside the config and in the current folder"


def load(spec: str | Mapping[str, str], docs_from_index: Callable[[], Docs] | None = None) -> Dataset:
    """Return the dataset that a config's `dataset` names; nothing large is read before it is needed.

    `spec` is an ir_datasets identifier, a BEIR folder, or one of {beir, split}, {candidates, qrels} and
    {docs, queries, qrels, field}. `docs_from_index` opens the documents where `docs` is `index`. Raise InputError for
    what is not there.
    """
    if isinstance(spec, str):
        return _named(spec)
    name, indexed = ", ".join(f"{key}: {value}" for key, value in spec.items()), spec.get("docs") == "index"
    if not spec.keys() & {"beir", "candidates", "queries"}:
        raise InputError(f"dataset {name}: `queries` is missing; {{docs, queries, qrels}} are expected")
    kinds = ("beir", "candidates", "qrels", "queries", *(() if indexed else ("docs",)))
    files = {kind: _existing(spec[kind]) for kind in kinds if kind in spec}
    if "beir" in files:
        return BeirFolder(name, files["beir"], spec.get("split"))
    if "candidates" in files:
        return CandidatesFile(name, files)
    if indexed and docs_from_index is None:
        raise InputError(f"dataset {name}: `docs: index` needs a first stage with an index (first_stage.bm25.index)")
    return Files(name, files, docs_from_index if indexed else None, spec.get("field"))


def _named(name: str) -> Dataset:
    path = Path(name).expanduser()
    if not path.exists() and name in shipped.datasets():
        path = shipped.SHIPPED / name
    if is_beir_folder(path):
        return BeirFolder(name, path, None)
    if not name.startswith((".", "/", "~")) and not name.endswith("/"):
        return IrDataset(name)
    if path.is_dir():
        raise InputError(f"dataset {name}: it is no BEIR folder: it has no corpus.jsonl or corpus.jsonl.gz")
    raise InputError(f"dataset {name}: no such folder; {LOOKED}")


def _existing(name: str) -> Path:
    if (path := Path(name).expanduser()).exists():
        return path
    raise InputError(f"dataset: no {name}; {LOOKED}")
