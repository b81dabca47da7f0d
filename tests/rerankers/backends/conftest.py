"""Tiny models' folders; servers that speak OpenAI's protocol, on this machine: the stub of the scripts and a proxy."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(params=["tiny_t5", "tiny_llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    """The folder of a tiny model: an encoder-decoder, then a decoder-only one."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


class Process:
    """A server in a process of its own."""

    def __init__(self, script: str, *arguments: str) -> None:
        command = [sys.executable, str(TOOLS / script), *arguments]
        self.popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        self.url = self.popen.stdout.readline().strip()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


@pytest.fixture(scope="session")
def stub_module() -> ModuleType:
    """The stub's code, to know what it answers."""
    spec = importlib.util.spec_from_file_location("stub_server", TOOLS / "stub_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_stub() -> Iterator[str]:
    """The URL of a stub that can do everything, for all tests."""
    process = Process("stub_server.py")
    yield process.url
    process.kill()


@pytest.fixture
def serve() -> Iterator[Callable[..., Process]]:
    """Start a server of the tools, for this test: `serve("stub_server.py", "--delay", "0.01")`."""
    started: list[Process] = []

    def start(script: str, *arguments: str) -> Process:
        started.append(Process(script, *arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
