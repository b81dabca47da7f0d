"""Finding and loading models, from a folder or a commit in the hub's cache, and the device and format they run in."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.util
import io
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ...errors import InputError
from ...hashing import file_digest
from .._tokens.chat_templates import TemplateOptions

if TYPE_CHECKING:
    import torch

MODEL_FILES = (
    *("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.py"),
    *("[0-9]*_*/*.json", "[0-9]*_*/*.safetensors"),
)
"""The files of a model's folder that decide its answers, those of sentence-transformers' modules included."""

TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("*.model", "vocab*", "merges.txt"),
)
"""Those of them that decide how text becomes tokens."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "config.json")
"""The files of which a tokenizer has at least one."""

ADAPTER_CONFIG = "adapter_config.json"
KINDS = {"bfloat16": "bf16", "float16": "fp16"}  # as a CPU's capabilities are named
# Held while loading: transformers replaces functions of its own meanwhile, and two threads would leave them so.
ONE_AT_A_TIME = threading.Lock()


class CheckpointOptions(TemplateOptions):
    """Keys of the `model` section that say which model is loaded into this process."""

    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: bfloat16 on CUDA, else float32"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


@dataclass(frozen=True, slots=True)
class Source:
    """A model's folder, its commit on the hub, or a GGUF file; its identity is a hash of its files, or that commit."""

    name: str
    identity: str
    arguments: dict[str, Any]
    folder: Path
    is_folder: bool  # whether the user named the folder; else it is in the hub's cache
    patterns: Sequence[str] = MODEL_FILES

    @property
    def words(self) -> str:
        """Return its name for messages."""
        return str(self.arguments.get("gguf_file", self.name))

    @property
    def details(self) -> dict[str, object]:
        """Return name (of a folder or file without its path), commit, and each file's hash, for the manifest."""
        name = self.arguments.get("gguf_file", self.folder.name if self.is_folder else self.name)
        return {"name": name, "revision": self.arguments.get("revision"), "files": self.digests}

    @property
    def digests(self) -> dict[str, str]:
        """Return the hash of each of its files by name."""
        return _digests(self.folder, self.patterns)


def load(kind: Any, source: Source, *, key: str = "model.name", **more: Any) -> Any:
    """Load a config, tokenizer or weights. Raises `InputError`, which blames the config's `key`, for any error."""
    try:
        # GGUF files are read under a bar that cannot be turned off.
        quiet = (
            contextlib.redirect_stderr(io.StringIO()) if "gguf_file" in source.arguments else contextlib.nullcontext()
        )
        with ONE_AT_A_TIME, quiet:
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
        if isinstance(error, ModuleNotFoundError):
            problem += f": pip install {error.name}"
        if "trust_remote_code" in str(error):
            problem = "it comes with code of its own; read that, and set model.trust_remote_code: true to run it"
        raise InputError(f"{key}: {source.words} cannot be loaded: {problem}") from error


def locate(
    name: str,
    revision: str | None = None,
    *,
    trust_remote_code: bool = False,
    key: str = "model.name",
    files: Sequence[str] = ("config.json",),
    identity: Sequence[str] = MODEL_FILES,
) -> Source:
    """Return the folder or the hub's commit that has one of `files`; the hub is not asked for what its cache holds.

    A folder's identity is a hash of its files that match `identity`. Raises `InputError`, which names the config's
    `key`, if it is not there.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    arguments: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    folder = Path(name).expanduser()
    if folder.is_dir():
        digests = _digests(folder, identity)
        if not (digests if identity is TOKENIZER_FILES else any((folder / file).is_file() for file in files)):
            kind = {ADAPTER_CONFIG: "adapter", "tokenizer.json": "tokenizer"}.get(files[0], "model")
            raise InputError(f"{key}: folder {name} holds no {kind} (no {files[0]})")
        return Source(str(folder), _combined(digests), arguments, folder, is_folder=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{key}: no folder {name}")
    failures: list[Exception] = []
    for cached, file in product((True, False), files):
        try:
            path = huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=cached)
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            failures.append(error)
            continue
        folder = Path(path).parent
        return Source(name, f"{name}@{folder.name}", arguments | {"revision": folder.name}, folder, is_folder=False)
    failure = failures[len(files)]  # the hub's own about the first file
    raise InputError(
        f"{key}: {name} is neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
        f"did not give it ({one_line(failure)}); download it elsewhere with `hf download {name}` and copy "
        "the cache, or name a folder"
    ) from failure


def file_of(source: Source, name: str) -> Path | None:
    """Return a file of a folder or of a commit, which the hub is asked for; None if there is none."""
    import huggingface_hub
    from huggingface_hub import errors

    path = source.folder / name
    if not path.is_file() and not source.is_folder:
        with contextlib.suppress(errors.HfHubHTTPError, OSError):
            path = Path(huggingface_hub.hf_hub_download(source.name, name, revision=source.arguments["revision"]))
    return path if path.is_file() else None


def read_json(source: Source, name: str) -> Any:
    """Return the content of a JSON file of a folder or of a commit, empty if there is none."""
    path = file_of(source, name)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {path} cannot be read: {one_line(error)}") from error


def gguf_source(name: str) -> Source:
    """Return the source that a GGUF file is. Raises `InputError` if there is none, or no package that reads it."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"model.gguf: no file {name}")
    need("gguf", "model.gguf")
    patterns = (glob.escape(path.name),)
    identity = _combined(_digests(path.parent, patterns))
    return Source(str(path.parent), identity, {"gguf_file": path.name}, path.parent, is_folder=True, patterns=patterns)


def need(package: str, user: str) -> None:
    """Raise `InputError`, with what to install, if a package is not there."""
    if importlib.util.find_spec(package) is None:
        name = f"'r2llm[{package}]'" if package in ("accelerate", "gguf", "peft") else package
        raise InputError(f"{user} needs the package {package}: pip install {name}")


def tokenizer_digest(source: Source) -> str:
    """Return one hash of the files that decide how text becomes tokens."""
    digests, forms = source.digests.items(), (*TOKENIZER_FILES, "*.gguf")
    return _combined({name: digest for name, digest in digests if any(fnmatch(name, form) for form in forms)})


def _combined(files: Mapping[str, str]) -> str:
    """Return one hash of files by name and hash."""
    return hashlib.sha256("".join(f"{name}:{digest};" for name, digest in files.items()).encode()).hexdigest()


def _digests(folder: Path, patterns: Sequence[str] = MODEL_FILES) -> dict[str, str]:
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def one_line(error: BaseException) -> str:
    """Return the beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:300]


def device_of(name: str) -> torch.device:
    """Return the device of that name, `auto`: the GPU if there is one. Raises `InputError` if it is not there."""
    import torch

    cuda = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if cuda else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(f"model.device: {name} is no device; use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not cuda:
        raise InputError(f"model.device: {name} asked for, but this machine offers no CUDA device; use auto or cpu")
    return device


def gpu_details(device: torch.device) -> dict[str, object]:
    """Return the GPU's name and the version of CUDA for the manifest; empty for a CPU."""
    import torch

    return {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda} if device.type == "cuda" else {}


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full; a CPU's has no type of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def multiplies_tiles(dtype: str) -> bool:
    """Return whether the CPU has units for products of matrices in a half-precision format (AMX)."""
    import torch

    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return dtype != "float32" and bool(has.get(f"amx_{KINDS[dtype]}"))
