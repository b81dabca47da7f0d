"""Processes that a launcher runs leave what one execution leaves, on Ray and submitit too, and with a node killed."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from r2llm.pipeline import launchers
from r2llm.pipeline.io.progress import Jobs, Listener
from r2llm.pipeline.launchers import Launch, Task
from r2llm.rerankers.errors import InputError

STUB = Path(__file__).parents[2] / "tools" / "stub_server.py"
AT_ONCE, PROBES = 4, 3
"""Asks in flight at most, and the prompts that a process tries a server with first."""


def ran(folder: Path, *words: object, code: int = 0) -> str:
    """The stdout of a command in a folder."""
    done = subprocess.run(command(*words), capture_output=True, text=True, cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stdout


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "r2llm.cli.main", *map(str, words)]


def test_ends_and_errors(tmp_path: Path) -> None:
    told: list[str] = []
    jobs = Jobs(Listener(), lambda done, detail="", total=None: told.append(detail))
    tasks = [
        Task("good", ["--version"], tmp_path / "good.log"),
        Task("bad", ["rerank", "--config", "nowhere.yaml"], tmp_path / "bad.log", tmp_path),
    ]
    ended = dict(launchers.run(Launch("local", 2), tasks, jobs))
    assert (ended[0].code, ended[0].out.split()[0], ended[0].error) == (0, "r2llm", None)
    assert (ended[1].code, ended[1].out) == (2, "")
    assert "nowhere.yaml" in (ended[1].error or "")
    assert [text.partition(": ")[0] for text in told] == ["bad"]


def test_a_launcher_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'slurm'"):
        list(launchers.run(Launch("slrm"), [], Jobs(Listener(), lambda done, detail="", total=None: None)))


@pytest.mark.slow
def test_a_sweep_has_the_same_table_by_every_launcher(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("submitit")
    grid = [
        "--config",
        "quickstart.yaml",
        "--queries",
        6,
        "--quiet",
        "--axis",
        "ranker.method=setwise.heapsort,pointwise.yes_no",
    ]
    ways = {
        "here": [],
        "local": ["--launcher", "local", "--jobs", 2],
        "ray": ["--launcher", "ray"],
        "slurm": ["--launcher", "slurm", "--resources", "cluster=local"],
    }
    tables = []
    for name, words in ways.items():
        ran(tmp_path, "sweep", *grid, "--output", name, *words)
        with (tmp_path / name / "table.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        # What an equal ask of two cells costs depends on which is first.
        tables.append([{key: row[key] for key in row.keys() - {"calls", "shared", "seconds"}} for row in rows])
    assert len(tables[0]) == 2
    assert all(row["status"] == "done" for row in tables[0])
    assert all(table == tables[0] for table in tables)


@pytest.fixture
def experiment(tmp_path: Path) -> Iterator[Path]:
    """A folder with `slow.yaml`, whose model is a server that takes its time."""
    words = [sys.executable, STUB, "--port", "0", "--delay", "0.05"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = server.stdout.readline().split()[-1]
        (tmp_path / "url").write_text(url)
        model = {"backend": "openai", "name": "stub", "base_url": url, "max_concurrency": AT_ONCE}
        slow = {"extends": "quickstart.yaml", "model": model, "queries": {"limit": 12}}
        (tmp_path / "slow.yaml").write_text(json.dumps(slow))
        yield tmp_path
        server.terminate()


def asked(folder: Path) -> list[int]:
    """How often each prompt was answered so far, without those that every process tries the server with."""
    url = (folder / "url").read_text().removesuffix("/v1")
    with urllib.request.urlopen(f"{url}/stats/counts") as reply:
        return list(json.load(reply)["counts"].values())[PROBES:]


def answers(ledger: Path) -> int:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as file:
        return int(file.execute("SELECT count(*) FROM replies").fetchone()[0])
    return 0


def check_same(folder: Path, merged: str) -> None:
    ran(folder, "rerank", "--config", "slow.yaml", "--output", "whole", "--quiet")
    for name in ("run.trec", "first_stage.trec", "metrics.json", "config.yaml"):
        assert (folder / merged / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    about = [json.loads((folder / run / "manifest.json").read_text()) for run in (merged, "whole")]
    assert about[0]["ledger"] == about[1]["ledger"]


@pytest.mark.slow
def test_shards_on_a_ray_cluster_of_which_a_node_is_killed(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        mortal = cluster.add_node(num_cpus=1)
        words = ["rerank", "--config", "slow.yaml", "--output", "run", "--launcher", "ray", "--shards", 2, "--quiet"]
        with subprocess.Popen(command(*words, "--ray-address", cluster.address), cwd=experiment) as launched:
            ledgers = [experiment / "run" / f"shard-{number}-of-2" / "ledger.sqlite" for number in (1, 2)]
            while launched.poll() is None and not all(answers(ledger) > 20 for ledger in ledgers):
                time.sleep(0.05)
            assert launched.poll() is None
            cluster.remove_node(mortal, allow_graceful=False)
        assert launched.returncode == 0
    finally:
        cluster.shutdown()
    counts = asked(experiment)
    assert sum(counts) - len(counts) <= AT_ONCE
    manifests = [json.loads((ledger.parent / "manifest.json").read_text()) for ledger in ledgers]
    assert sorted(len(manifest["executions"]) for manifest in manifests) == [1, 2]
    check_same(experiment, "run")


@pytest.mark.slow
def test_shards_by_submitit(experiment: Path) -> None:
    pytest.importorskip("submitit")
    words = ["--launcher", "slurm", "--resources", "cluster=local", "--shards", 2]
    table = ran(experiment, "rerank", "--config", "slow.yaml", "--output", "run", *words)
    assert [line.split("\t")[:3] for line in table.splitlines()[1:3]] == [["1/2", "done", "6"], ["2/2", "done", "6"]]
    assert set(asked(experiment)) == {1}
    check_same(experiment, "run")


@pytest.mark.slow
def test_a_shard_that_is_killed_fails_alone_and_the_same_command_goes_on(experiment: Path) -> None:
    words = ["rerank", "--config", "slow.yaml", "--output", "run", "--launcher", "local", "--shards", 2]
    with subprocess.Popen(command(*words), cwd=experiment, text=True, stderr=subprocess.PIPE) as launched:
        ledger = experiment / "run" / "shard-2-of-2" / "ledger.sqlite"
        while launched.poll() is None and answers(ledger) < 20:
            time.sleep(0.05)
        killed = subprocess.run(["pgrep", "-P", str(launched.pid), "-f", "2/2"], capture_output=True, text=True)
        os.kill(int(killed.stdout.split()[0]), 9)
        assert launched.stderr
        said = launched.stderr.read()
    assert launched.returncode == 1
    assert "shard 2/2: its process was killed by signal 9" in said
    assert "1 of 2 shards failed" in said
    ran(experiment, *words)
    counts = asked(experiment)
    assert sum(counts) - len(counts) <= AT_ONCE
    check_same(experiment, "run")
