"""The device a model runs on, and its number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import InputError

if TYPE_CHECKING:
    import torch


def device_of(name: str) -> torch.device:
    """Return the device of that name, `auto`: the GPU if there is one. Raises `InputError` if it is not there."""
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
    """Return the number format of that name, `auto`: bfloat16 on a GPU, else float32."""
    import torch

    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def gpu_details(device: torch.device) -> dict[str, object]:
    """Return the GPU's name and the version of CUDA for the manifest; empty for a CPU."""
    import torch

    if device.type != "cuda":
        return {}
    return {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is full; a CPU's has no type of its own."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def slow_in_software(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the CPU is known to have no arithmetic for a half-precision format."""
    import torch

    if device.type != "cpu" or dtype == torch.float32 or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    names = ("avx512_bf16", "amx_bf16") if dtype == torch.bfloat16 else ("avx512_fp16", "amx_fp16")
    return bool(has.get("architecture") == "x86_64" and not any(map(has.get, names)))
