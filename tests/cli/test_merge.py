"""`r2llm rerank --shard` and `r2llm merge`: shards are found without a name, and mistakes are told in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_array.sh"


@pytest.fixture
def sharded(r2llm, toy: Path) -> Path:
    """The folder of a run, relative, with both of its shards."""
    for number in (1, 2):
        assert r2llm("rerank", "--config", "toy.yaml", "--shard", f"{number}/2", "--quiet").code == 0
    [run_dir] = Path("runs").iterdir()
    return run_dir


def test_the_config_is_enough_to_find_the_shards(r2llm, sharded: Path) -> None:
    done = r2llm("merge", "--config", "toy.yaml", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["run_dir"] == str(sharded)
    whole = r2llm("rerank", "--config", "toy.yaml", "--output", "whole", "--json")
    assert done.json["metrics"] == whole.json["metrics"]
    assert done.json["queries"] == 2
    assert (sharded / "run.trec").read_bytes() == Path("whole/run.trec").read_bytes()
    assert r2llm("merge", sharded).code == 0


def test_a_merged_run_is_looked_at_like_any_other(r2llm, sharded: Path) -> None:
    shown = r2llm("merge", sharded)
    assert "nDCG@10" in shown.out
    assert f"run file: {sharded / 'run.trec'}" in shown.out
    for words in (("verify", sharded), ("show", sharded), ("inspect", sharded, "--query", "q1")):
        assert r2llm(*words).code == 0, words
    assert r2llm("evaluate", "--config", "toy.yaml").code == 0
    for words in (("verify", sharded / "shard-1-of-2"), ("show", sharded / "shard-1-of-2")):
        assert r2llm(*words).code == 0, words
    assert r2llm("inspect", sharded / "shard-1-of-2", "--query", "q1").code == 0


def test_what_a_shard_prints(r2llm, toy: Path) -> None:
    done = r2llm("rerank", "--config", "toy.yaml", "--shard", "2/2")
    assert done.out.startswith("toy, shard 2/2 (simulated answers")
    found = r2llm("rerank", "--config", "toy.yaml", "--shard", "2/2", "--json").json
    assert (found["shard"], found["queries"]) == ("2/2", 1)
    empty = r2llm("rerank", "--config", "toy.yaml", "--shard", "4/5")
    assert (empty.code, empty.out.splitlines()[1][:36]) == (0, "no query of this shard has candidate")
    assert r2llm("rerank", "--config", "toy.yaml", "--shard", "4/5", "--json").json["queries"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("rerank", "--config", "toy.yaml", "--shard", "3/2"), "--shard 3/2: shards are counted from 1"),
        (("rerank", "--config", "toy.yaml", "--shard", "2"), "--shard 2: expected NUMBER/COUNT"),
        (("merge",), "name the run's folder, or give --config"),
        (("merge", "runs", "--set", "seed=1"), "--set and --queries go with --config"),
        (("merge", "nowhere"), "nowhere: there are no shards in it"),
        (
            ("merge", "--config", "toy.yaml"),
            "config toy: 0 folders hold shards of it with these settings; r2llm rerank --shard 1/16 makes one",
        ),
    ],
)
def test_mistakes_are_one_line(r2llm, toy: Path, words: tuple[str, ...], told: str) -> None:
    done = r2llm(*words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert told in done.err


def test_shards_of_other_settings_are_not_taken_for_these(r2llm, sharded: Path) -> None:
    done = r2llm("merge", "--config", "toy.yaml", "--set", "ranker.k=2")
    assert done.code == 2
    assert f"name their folder: {sharded}" in done.err
    shutil.copytree(sharded, sharded.with_name("toy-00000000"))
    done = r2llm("merge", "--config", "toy.yaml")
    assert done.code == 2
    assert "2 folders hold shards of it" in done.err


def test_shards_that_were_moved_are_merged_with_their_config(r2llm, sharded: Path, tmp_path_factory) -> None:
    """Their own config says where the dataset is from where they were, or lies in a folder around them."""
    shutil.copytree(sharded, "scratch/of/some/node")
    assert r2llm("merge", "scratch/of/some/node").code == 0
    moved = tmp_path_factory.mktemp("elsewhere") / "node"
    shutil.copytree(sharded, moved)
    lost = r2llm("merge", moved)
    assert (lost.code, lost.err.count("\n")) == (2, 1)
    assert "give --config" in lost.err
    assert r2llm("merge", moved, "--config", "toy.yaml", "--output", "merged").code == 0
    assert r2llm("merge", "--config", "toy.yaml").code == 0
    assert Path("merged/run.trec").read_bytes() == (sharded / "run.trec").read_bytes()
    other = r2llm("merge", moved, "--config", "toy.yaml", "--set", "ranker.k=2")
    assert other.code == 2
    assert "they differ in ranker.params.k:" in other.err


def test_a_missing_shard_is_named_with_what_to_do(r2llm, sharded: Path) -> None:
    shutil.rmtree(sharded / "shard-2-of-2")
    done = r2llm("merge", "--config", "toy.yaml")
    assert done.code == 2
    assert "missing: 2/2; run r2llm rerank --shard 2/2" in done.err


def test_the_array_script_runs_a_shard_a_task(r2llm, toy: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("r2llm", path=path) is None:
        pytest.skip("r2llm is not installed beside this Python")
    for task in ("1", "2"):
        environment = os.environ | {"SLURM_ARRAY_TASK_ID": task, "PATH": path}
        command = ["bash", str(SCRIPT), "2", "--config", "toy.yaml", "--quiet", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["shard"] == f"{task}/2"
    assert r2llm("merge", "--config", "toy.yaml").code == 0
