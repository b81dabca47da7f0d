"""Finding and loading models: a folder, or a commit in the hub's cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ...errors import InputError
from ...hashing import file_digest
from ...marks import PathMark
from .._tokens.chat_templates import TemplateOptions
from .devices import out_of_memory

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.py")
"""The files of a model's folder that decide its answers."""

TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("*.model", "vocab*", "merges.txt"),
)
"""Those of them that decide how text becomes tokens."""

ADAPTER_CONFIG = "adapter_config.json"

ONE_AT_A_TIME = threading.Lock()
"""Held while loading: transformers replaces functions of its own meanwhile, and two threads would leave them so."""


class CheckpointOptions(TemplateOptions):
    """Keys of the `model` section that say which model is loaded into this process."""

    name: Annotated[str, PathMark("folder")] = Field(
        description="a hub id such as google/flan-t5-large, or a folder; transformers: also of an adapter"
    )
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: bfloat16 on CUDA, else float32"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is loaded from; its identity is a hash of its files, or its commit on the hub."""

    name: str
    identity: str
    arguments: dict[str, Any]
    folder: Path
    is_folder: bool
    """Whether the user named the folder; else it is in the hub's cache."""

    @property
    def details(self) -> dict[str, object]:
        """Return name (of a folder without its path), commit, and the hash of each file, for the manifest."""
        name = self.folder.name if self.is_folder else self.name
        return {"name": name, "revision": self.arguments.get("revision"), "files": _digests(self.folder)}


def load(kind: Any, source: Source, *, key: str = "model.name", **more: Any) -> Any:
    """Load one part of a model: its config, tokenizer or weights. `key` is the config's key to blame.

    Raises `InputError` for whatever transformers, and the libraries that read the files for it, raise.
    """
    try:
        with ONE_AT_A_TIME:
            try:
                # Without a network, asking the hub for optional files takes minutes.
                return kind.from_pretrained(source.name, **source.arguments, **more, local_files_only=True)
            except OSError:
                if source.is_folder:
                    raise
                return kind.from_pretrained(source.name, **source.arguments, **more)
    except Exception as error:
        if out_of_memory(error):
            raise
        clear = isinstance(error, (OSError, ValueError, ImportError, RuntimeError)) and str(error)
        problem = one_line(error) if clear else f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{key}: {source.name} cannot be loaded: {problem}") from error


def locate(
    name: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    key: str = "model.name",
    files: Sequence[str] = ("config.json",),
) -> Source:
    """Return the model's folder, or its commit on the hub, which is not asked for what is in its cache.

    A model is where one of `files` is. Raises `InputError`, which names the config's `key`, if it is not there.
    """
    remote_code = {"trust_remote_code": trust_remote_code}
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in files):
            kind = "adapter" if files[0] == ADAPTER_CONFIG else "model"
            raise InputError(f"{key}: folder {name} holds no {kind} (no {files[0]})")
        return Source(str(folder), combined(_digests(folder)), remote_code, folder, is_folder=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{key}: no folder {name}")
    snapshot = _snapshot(name, revision, key, files)
    commit = snapshot.name
    return Source(name, f"{name}@{commit}", remote_code | {"revision": commit}, snapshot, is_folder=False)


def tokenizer_digest(source: Source) -> str:
    """Return one hash of the files that decide how text becomes tokens."""
    digests = _digests(source.folder)
    return combined({name: digests[name] for name in digests if any(fnmatch(name, form) for form in TOKENIZER_FILES)})


def combined(files: Mapping[str, str]) -> str:
    """Return one hash of files by name and hash."""
    return hashlib.sha256("".join(f"{name}:{digest};" for name, digest in files.items()).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    return {path.name: file_digest(path) for path in files}


def _snapshot(name: str, revision: str | None, key: str, files: Sequence[str]) -> Path:
    """Return the folder of the hub's cache that holds one of a commit's files; its name is the commit's."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    failure: Exception = OSError()
    for cached in (True, False):
        failures: list[Exception] = []
        for file in files:
            try:
                path = huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=cached)
                return Path(path).parent
            except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
                failures.append(error)
        failure = failures[0]
    raise InputError(
        f"{key}: {name} is neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
        f"did not give it ({one_line(failure)}); download it elsewhere with `hf download {name}` and copy "
        "the cache, or name a folder"
    ) from failure


def one_line(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:300]
