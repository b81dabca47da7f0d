"""vLLM itself, in process and behind a server: it ranks as transformers does, and counts the same tokens.

Where R2LLM_VLLM_PYTHON names a Python that has vLLM (and ir-measures and platformdirs); skipped elsewhere.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

VLLM_PYTHON = os.environ.get("R2LLM_VLLM_PYTHON")
ROOT = Path(__file__).parents[3]
AGREE = ROOT / "scripts" / "engines_agree.py"
START_SECONDS = 600

pytestmark = pytest.mark.skipif(not VLLM_PYTHON, reason="R2LLM_VLLM_PYTHON names no Python with vLLM")

WORDS = ["red", "moon", "planet", "water", "stone", "river", "light", "dark", "green", "house", "the", "of", "is", "by"]


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with heads of 32 dimensions, the smallest that vLLM computes on a CPU."""
    import torch
    import transformers

    path = Path(shutil.copytree(tiny_llama, tmp_path_factory.mktemp("wider") / "model"))
    config = transformers.AutoConfig.from_pretrained(path)
    config.update({"hidden_size": 128, "intermediate_size": 256, "head_dim": 32})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose dataset is three queries with ten candidates each."""
    dice = random.Random(3)
    path = tmp_path_factory.mktemp("candidates")

    def text(least: int, most: int) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(least, most)))

    docs = [[{"docid": f"d{i}{j}", "text": text(5, 60)} for j in range(10)] for i in range(3)]
    rows = [{"qid": f"q{i}", "query": text(3, 5), "docs": some} for i, some in enumerate(docs)]
    (path / "candidates.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (path / "config.yaml").write_text("dataset: {candidates: candidates.jsonl}\nfirst_stage: {depth: 10}\n")
    return path / "config.yaml"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for a process of vLLM's Python: it finds this checkout under the package's name."""
    home = tmp_path_factory.mktemp("home")
    (home / "r2llm").symlink_to(ROOT)
    quick = {"VLLM_NO_USAGE_STATS": "1", "TORCH_COMPILE_DISABLE": "1"}
    return os.environ | {"PYTHONPATH": str(home), "VLLM_CPU_KVCACHE_SPACE": "1"} | quick


@dataclass(frozen=True)
class Launched:
    """A server that has been started and may not answer yet."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path


@pytest.fixture(scope="module")
def launched(folder: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A vLLM server that is to serve the model as `tiny`: it takes a minute to start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "2048", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            yield Launched(process, f"http://127.0.0.1:{port}", log)
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(scope="module")
def server(launched: Launched) -> str:
    """The base URL of the server, which answers."""
    until = time.monotonic() + START_SECONDS
    while launched.process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{launched.address}/health", timeout=5):
                return f"{launched.address}/v1"
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"no vLLM server: {launched.log.read_text()[-3000:]}")


def answers(file: Path, config: Path, model: dict, python: str, environment: dict[str, str], *more: str) -> Path:
    """The file with what an engine answers to each method's asks."""
    command = [python, str(AGREE), "answer", str(file), "--config", str(config), "--model", json.dumps(model), *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return file


def agree(one: Path, other: Path) -> str:
    done = subprocess.run([sys.executable, str(AGREE), "compare", str(one), str(other)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


WRITTEN = ["--ranker", "{scoring: generation, max_new_tokens: 12}", "--method", "setwise.heapsort"]


@pytest.fixture(scope="module")
def expected(folder: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the backend transformers answers, by label scores and in texts."""
    path, model = tmp_path_factory.mktemp("expected"), {"backend": "transformers", "name": str(folder), "device": "cpu"}
    files = {name: path / f"{name}.json" for name in ("scores", "texts")}
    answers(files["scores"], config, model, sys.executable, dict(os.environ))
    answers(files["texts"], config, model, sys.executable, dict(os.environ), *WRITTEN)
    return files


@pytest.mark.usefixtures("launched")  # the server starts meanwhile
def test_vllm_in_process_ranks_as_transformers_does(
    folder: Path, config: Path, expected: dict[str, Path], environment: dict[str, str], tmp_path: Path
) -> None:
    model = {"backend": "vllm", "name": str(folder), "dtype": "float32", "max_model_len": 2048, "enforce_eager": True}
    found = answers(tmp_path / "scores.json", config, model, str(VLLM_PYTHON), environment)
    assert agree(expected["scores"], found).count("3 of 3 rankings equal") == 4


def test_a_vllm_server_ranks_as_transformers_does(
    folder: Path, config: Path, expected: dict[str, Path], server: str, tmp_path: Path
) -> None:
    model = {"backend": "openai", "name": "tiny", "base_url": server, "tokenizer": str(folder)}
    found = answers(tmp_path / "scores.json", config, model, sys.executable, dict(os.environ))
    assert agree(expected["scores"], found).count("3 of 3 rankings equal") == 4
    found = answers(tmp_path / "texts.json", config, model, sys.executable, dict(os.environ), *WRITTEN)
    assert "3 of 3 rankings equal" in agree(expected["texts"], found)
