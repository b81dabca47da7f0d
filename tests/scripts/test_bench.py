"""Benchmarks run: they reach into rooms that no type checker holds them to."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts/bench"


@pytest.mark.slow
def test_an_engine_is_timed_against_the_plain_loop(tiny_t5: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "engine.py"), "--model", str(tiny_t5), "--config", "quickstart.yaml"]
    command += ["--queries", "1", "--set", "first_stage.depth=4", "--method", "setwise.heapsort", "--dtype", "float32"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "top 10 equal 1/1" in done.stdout, done.stderr
