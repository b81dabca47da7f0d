"""Finding and loading models: a folder, or a commit of the hub out of its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..digests import file_digest
from ..errors import InputError
from ..prompts.prompts import Architecture

if TYPE_CHECKING:
    import torch

MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.bin", "*.py")
"""The files of a model folder that decide what the model answers."""

TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("*.model", "vocab*", "merges.txt"),
)
"""Those of them that decide how text becomes tokens."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model is loaded from, and what identifies its content."""

    name: str
    identity: str
    arguments: dict[str, Any]
    folder: Path
    is_folder: bool
    """Whether the user named the folder; else it is the hub's cache of a commit."""


def load(kind: Any, source: Source, **more: Any) -> Any:
    """One part of a model: its config, its tokenizer or its weights."""
    import safetensors

    try:
        try:
            # What the cache holds is used as it is; asking the hub for optional files takes minutes without a network.
            return kind.from_pretrained(source.name, **source.arguments, **more, local_files_only=True)
        except OSError:
            if source.is_folder:
                raise
            return kind.from_pretrained(source.name, **source.arguments, **more)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise InputError(f"model.name: {source.name} cannot be loaded: {one_line(error)}") from error


def language_model(source: Source, architecture: Architecture, dtype: torch.dtype, device: torch.device) -> Any:
    """The model that writes text, on its device, ready to answer.

    Raises `InputError` where it cannot be loaded, or lacks weights that transformers would fill with random numbers.
    """
    import transformers

    encoder_decoder = architecture == "encoder_decoder"
    kind = transformers.AutoModelForSeq2SeqLM if encoder_decoder else transformers.AutoModelForCausalLM
    model, report = load(kind, source, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"model.name: {source.name} cannot be loaded: its weights lack {len(missing)} of the parts that "
            f"its architecture needs, {missing[0]} for one; name a language model, or download it anew"
        )
    return model.to(device).eval()


def locate(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Source:
    """The model's folder, or its commit on the hub: what is in the cache is used without asking the hub."""
    remote_code = {"trust_remote_code": trust_remote_code}
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"model.name: folder {name} holds no model (no config.json)")
        digest = combined({path.name: file_digest(path) for path in model_files(folder)})
        return Source(str(folder), digest, remote_code, folder, is_folder=True)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model.name: no folder {name}")
    snapshot = _snapshot(name, revision)
    commit = snapshot.name
    arguments = remote_code | {"revision": commit}
    return Source(name, f"{name}@{commit}", arguments, snapshot, is_folder=False)


def model_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def combined(files: Mapping[str, str]) -> str:
    """One hash of files by name and hash."""
    return hashlib.sha256("".join(f"{name}:{digest};" for name, digest in files.items()).encode()).hexdigest()


def _snapshot(name: str, revision: str | None) -> Path:
    """The folder of the hub's cache that holds the commit; it has the commit's name."""
    import huggingface_hub
    from huggingface_hub import constants, errors

    try:
        try:
            path = huggingface_hub.hf_hub_download(name, "config.json", revision=revision, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            path = huggingface_hub.hf_hub_download(name, "config.json", revision=revision)
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise InputError(
            f"model.name: {name} is neither a folder nor in the hub's cache ({constants.HF_HUB_CACHE}), and the hub "
            f"did not give it ({one_line(error)}); download it elsewhere with `hf download {name}` and copy the "
            "cache, or name a folder"
        ) from error
    return Path(path).parent


def device_of(name: str) -> torch.device:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"model.device: {name} is no device; use auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"model.device: {name} asked for, but this machine offers no CUDA device; use auto or cpu")
    return device


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory is full; on a CPU it has no type of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
