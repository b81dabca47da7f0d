"""What several tests of the shipped configs use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from r2llm.pipeline.configs import shipped as names


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what ships, to which a test may add."""
    copy = Path(shutil.copytree(names.SHIPPED, tmp_path / "configs", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(names, "SHIPPED", copy)
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return copy
