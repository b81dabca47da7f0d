"""Shell completion, through what the shell itself calls: the command, with the typed words in the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.cli.listing import What
from r2llm.pipeline.configs import shipped

COMMAND = "import sys; sys.argv[0] = 'r2llm'; from r2llm.cli.main import main; main()"
"""What the installed command does."""

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(r2llm, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """What bash would offer for the last of the words. The working folder is a temporary one."""
    monkeypatch.setenv("_R2LLM_COMPLETE", "complete_bash")
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)  # else pytest's is taken for the command's name

    def completed(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(["r2llm", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        done = r2llm()
        assert done.err == ""
        return done.out.split()

    return completed


def test_commands(complete: Complete) -> None:
    assert "retrieve" in complete("re")
    assert "rerank" in complete("re")


@pytest.mark.parametrize("command", ["rerank", "retrieve", "evaluate", "check", "prompt"])
def test_shipped_configs(complete: Complete, command: str) -> None:
    assert complete(command, "--config", "quick") == ["quickstart-smollm2.yaml", "quickstart.yaml"]


def test_each_of_several_configs(complete: Complete) -> None:
    assert complete("check", "--config", "mine.yaml", "--config", "quick") == [
        "quickstart-smollm2.yaml",
        "quickstart.yaml",
    ]


def test_all_shipped_experiments_and_systems_and_no_parts(complete: Complete) -> None:
    kinds = [*shipped.of_kind("grids"), *shipped.of_kind("systems")]
    assert complete("rerank", "--config", "") == [*shipped.names(), *kinds]


def test_yaml_files_in_the_folder_and_one_below(complete: Complete, tmp_path: Path) -> None:
    for name in ("mine.yaml", "mine/deep.yml", "mine/notes.txt", "mine.txt", ".mine.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert complete("rerank", "--config", "mi") == ["mine.yaml", "mine/deep.yml"]
    assert complete("rerank", "--config", "mine/") == ["mine/deep.yml"]
    assert complete("rerank", "--config", f"{tmp_path}/mine/d") == [f"{tmp_path}/mine/deep.yml"]
    assert complete("rerank", "--config", "nowhere/x") == []


def test_kinds_of_lists(complete: Complete) -> None:
    assert complete("list", "") == [what.value for what in What]
    assert complete("list", "me") == ["methods"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes_with_the_script_that_is_shown(tmp_path: Path) -> None:
    command = tmp_path / "r2llm"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{COMMAND}" "$@"\n')
    command.chmod(0o755)
    script = """
        eval "$(r2llm --show-completion bash)"
        COMP_WORDS=(r2llm rerank --config quick)
        COMP_CWORD=3
        $(complete -p r2llm | sed 's/.*-F \\([^ ]*\\) .*/\\1/') r2llm
        echo "${COMPREPLY[@]}"
    """
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("quickstart-smollm2.yaml quickstart.yaml\n", "")
