"""Through real processes: what is imported, the two streams, the lock, and death by SIGKILL."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

R2LLM = ("-m", "r2llm.cli.main")
KILL_AND_RESUME = Path(__file__).parents[2] / "tests" / "tools" / "kill_and_resume.py"
HEAVY = ("torch", "transformers", "pydantic", "ir_datasets", "ir_measures", "pyserini", "jnius", "pandas", "numpy")


def test_help_imports_nothing_heavy(process) -> None:
    program = f"""
import sys
from r2llm.cli.main import main
sys.argv = ["r2llm", "--help"]
try:
    main()
finally:
    print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""
    done = process("-c", program)
    assert (done.code, done.err) == (0, "[]\n")
    assert "rerank" in done.out


def test_the_installed_command_runs(tmp_path: Path) -> None:
    command = shutil.which("r2llm", path=os.fspath(Path(sys.executable).parent))
    if command is None:
        pytest.skip("r2llm is not installed beside this Python")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert re.fullmatch(r"r2llm \S+\n", done.stdout)


def test_stdout_is_data_and_stderr_the_rest(process) -> None:
    """With Java, a simulated model and a note, all of which might print."""
    words = ("rerank", "--config", "quickstart.yaml", "--queries", 3, "--set", "model.dtype=float32", "--json")
    done = process(*R2LLM, *words)
    assert done.code == 0
    found = json.loads(done.out)
    assert found["simulated"] is True
    assert found["metrics"]["nDCG@10"] > 0.5
    assert done.err == "note: model.dtype is not used by simulated\n"
    quiet = process(*R2LLM, *words, "--quiet")
    assert json.loads(quiet.out)["metrics"] == found["metrics"]
    assert quiet.err == ""


def test_a_mistake_prints_no_traceback(process, toy: Path) -> None:
    done = process(*R2LLM, "rerank", "--config", "toy.yaml", "--set", "ranker.method=setwise.heapsrt")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert "setwise.heapsort" in done.err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m r2llm.cli.main list methods | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_process_on_a_run_is_turned_away(process, toy: Path) -> None:
    (toy / "out").mkdir()
    with filelock.FileLock(toy / "out" / ".lock"):
        begun = time.perf_counter()
        done = process(*R2LLM, "rerank", "--config", "toy.yaml", "--output", "out")
        assert time.perf_counter() - begun < 30
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: out: another process is at work on this run; wait for it, or stop it\n"
    assert [path.name for path in (toy / "out").iterdir()] == [".lock"]
    assert process(*R2LLM, "rerank", "--config", "toy.yaml", "--output", "out").code == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(process, tiny_t5: Path) -> None:
    """Four times SIGKILL at random moments, then byte by byte what an undisturbed run gives; nothing is asked twice."""
    settings = (
        "queries.limit=2",
        "first_stage.depth=40",
        "ranker.k=5",
        f"model={{backend: transformers, name: {tiny_t5}, dtype: float32}}",
    )
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--kills", "4", "--kills-a-run", "4", "--seed", "1"]
    done = process(KILL_AND_RESUME, "--config", "quickstart.yaml", *words)
    assert done.code == 0, done.out + done.err
    assert re.search(r"^verdict: 4 kills, \d resumed runs, none of them wrong$", done.out, re.MULTILINE), done.out
    at_kill = [int(count) for count in re.findall(r"^kill \d: (\d+) of \d+ answers", done.out, re.MULTILINE)]
    assert len(at_kill) == 4
    assert max(at_kill) > 0
