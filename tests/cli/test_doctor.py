"""`r2llm doctor`: a line a check, a remedy for each fault, and the exit code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from r2llm.pipeline import doctor

LINE = re.compile(r"(ok   |warn |fault) [A-Za-z][\w ]*: .+|      remedy: .+")


def test_a_healthy_machine_is_told_so(r2llm) -> None:
    done = r2llm("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert all(LINE.fullmatch(line) for line in lines)
    for name in ("python", "packages", "java", "lucene", "runs", "cache of r2llm", "hub"):
        assert any(line[6:].startswith(f"{name}: ") for line in lines), name


def test_a_fault_is_exit_2_with_its_remedy(r2llm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delitem(doctor.PROBES, "lucene")  # which takes long, and is tried above
    done = r2llm("doctor", "--json")
    assert (done.code, done.json["healthy"]) == (2, False)
    checks = done.json["checks"]
    assert isinstance(checks, list)
    [fault] = [check for check in checks if check["status"] == "fault"]
    assert fault["name"] == "cache of r2llm"
    assert "R2LLM_CACHE" in fault["remedy"]
