"""Finding and loading models: a folder, or a commit of the hub out of its cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hashing import file_digest
from .devices import out_of_memory

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.py")
"""The files of a model folder that decide what the model answers."""

TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("*.model", "vocab*", "merges.txt"),
)
"""Those of them that decide how text becomes tokens."""

ONE_AT_A_TIME = threading.Lock()
"""Held while something is loaded: transformers swaps functions of its own meanwhile, and of two threads that do so at
once the later one would leave them swapped, so that no tied weights were found from then on."""

ADAPTER_CONFIG = "adapter_config.json"
"""The file by which an adapter is known."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is loaded from, and what identifies its content."""

    name: str
    identity: str
    arguments: dict[str, Any]
    folder: Path
    is_folder: bool
    """Whether the user named the folder; else it is the hub's cache of a commit."""


def load(kind: Any, source: Source, *, key: str = "model.name", **more: Any) -> Any:
    """One part of a model: its config, its tokenizer or its weights. `key` is that of the config which is to blame.

    Raises `InputError` for whatever transformers, and the libraries that read the files for it, raise.
    """
    try:
        with ONE_AT_A_TIME:
            try:
                # What the cache holds is used as it is; asking the hub for optional files takes minutes without a
                # network.
                return kind.from_pretrained(source.name, **source.arguments, **more, local_files_only=True)
            except OSError:
                if source.is_folder:
                    raise
                return kind.from_pretrained(source.name, **source.arguments, **more)
    except Exception as error:
        if out_of_memory(error):
            raise
        told = isinstance(error, (OSError, ValueError, ImportError, RuntimeError)) and str(error)
        said = one_line(error) if told else f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{key}: {source.name} cannot be loaded: {said}") from error


def locate(
    name: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    key: str = "model.name",
    files: Sequence[str] = ("config.json",),
) -> Source:
    """The model's folder, or its commit on the hub: what is in the cache is used without asking the hub.

    A model is where one of `files` is. `key` is that of the config which names it.
    """
    remote_code = {"trust_remote_code": trust_remote_code}
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not any((folder / file).is_file() for file in files):
            what = "adapter" if files[0] == ADAPTER_CONFIG else "model"
            raise InputError(f"{key}: folder {name} holds no {what} (no {files[0]})")
        digest = combined({path.name: file_digest(path) for path in model_files(folder)})
        return Source(str(folder), digest, remote_code, folder, is_folder=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{key}: no folder {name}")
    snapshot = _snapshot(name, revision, key, files)
    commit = snapshot.name
    arguments = remote_code | {"revision": commit}
    return Source(name, f"{name}@{commit}", arguments, snapshot, is_folder=False)


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that decide what it answers, in order of their names."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def digests(source: Source) -> dict[str, str]:
    """The hash of each file that decides what a model answers."""
    return {path.name: file_digest(path) for path in model_files(source.folder)}


def described(source: Source, tokenizer: Source) -> dict[str, object]:
    """What the manifest tells of a model's files, and of those that its texts are tokenised by."""
    tokenised = {name: digest for name, digest in digests(tokenizer).items() if _is_of_tokenizer(name)}
    return {**named(source), "files": digests(source), "tokenizer": combined(tokenised)}


def named(source: Source) -> dict[str, object]:
    """The name, of a folder without the way to it, and the commit."""
    name = source.folder.name if source.is_folder else source.name
    return {"name": name, "revision": source.arguments.get("revision")}


def _is_of_tokenizer(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in TOKENIZER_FILES)


def combined(files: Mapping[str, str]) -> str:
    """One hash of files by name and hash."""
    return hashlib.sha256("".join(f"{name}:{digest};" for name, digest in files.items()).encode()).hexdigest()


def _snapshot(name: str, revision: str | None, key: str, files: Sequence[str]) -> Path:
    """The folder of the hub's cache that holds one of the commit's files; it has the commit's name."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    failure: Exception | None = None
    for cached, file in ((cached, file) for cached in (True, False) for file in files):
        try:
            found = huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=cached)
            return Path(found).parent
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            failure = failure if cached or failure else error
    raise InputError(
        f"{key}: {name} is neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
        f"did not give it ({one_line(failure or OSError())}); download it elsewhere with `hf download {name}` and copy "
        "the cache, or name a folder"
    ) from failure


def one_line(error: BaseException) -> str:
    """The beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:300]
