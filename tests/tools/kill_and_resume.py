"""Kill a reranking with SIGKILL at random moments, resume it, and compare it with a run that nobody interrupted.

    python tests/tools/kill_and_resume.py --config dl19-setwise.yaml --set queries.limit=5 --kills 20 --seed 0

Needs an `r2llm` in the same Python, and a config whose model is slow enough to be caught at work. After each resumed
run: `run.trec` is compared byte by byte, the counts of `costs.jsonl` that describe the experiment are compared, and
the answers that were in the ledger before the resume plus the calls made after it must be the distinct asks of the
experiment, and the calls of all executions: nothing is asked twice, no cost is lost. Exit code 0 where all of that
holds, 1 where it does not.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

SAME = ("query_id", "asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed", "flops")
"""The fields of `costs.jsonl` that an interruption must not change."""

JITTER = 0.05
"""Seconds at most between the answer that a kill waits for and the kill."""

TOO_QUICK = 10
"""How many runs may end before they are killed."""


def arguments() -> argparse.Namespace:
    """What to run, and how often to kill it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kills-a-run", type=int, default=1, help="kills before a run may go on to its end")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


def start(options: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """Start (or resume) the reranking in a process of its own; what it prints goes to a file beside the folder."""
    command = [sys.executable, "-m", "r2llm.cli.main", "rerank", "--config", options.config, "--output", str(folder)]
    for setting in [*options.set, "schedule=throughput"]:
        command += ["--set", setting]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(options: argparse.Namespace, folder: Path) -> float:
    """Run (or resume) to the end; how many seconds that took."""
    begun = time.perf_counter()
    if start(options, folder).wait() != 0:
        raise SystemExit(folder.with_suffix(".log").read_text())
    return time.perf_counter() - begun


def answers(folder: Path) -> int:
    """How many answers the ledger of a run holds."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as ledger:
            return int(ledger.execute("SELECT count(*) FROM replies").fetchone()[0])
    except sqlite3.OperationalError:  # the process is just making the file
        return 0


def kill_at(options: argparse.Namespace, folder: Path, moment: int, chance: random.Random) -> bool:
    """Kill the run soon after so many answers (in its start-up, if they are there); whether it was still at work."""
    process = start(options, folder)
    while process.poll() is None and answers(folder) < moment:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, JITTER))
    process.kill()
    return process.wait() < 0


def costs(folder: Path) -> list[dict[str, Any]]:
    """The costs of a run, query by query."""
    return [json.loads(line) for line in (folder / "costs.jsonl").read_text().splitlines()]


def differences(folder: Path, reference: Path, before: int) -> list[str]:
    """What is wrong with a resumed run; nothing, if all is well."""
    wrong = []
    if (folder / "run.trec").read_bytes() != (reference / "run.trec").read_bytes():
        wrong.append("run.trec differs")
    spent, expected = costs(folder), costs(reference)
    if [[row[name] for name in SAME] for row in spent] != [[row[name] for name in SAME] for row in expected]:
        wrong.append("costs.jsonl differs")
    calls, distinct = sum(row["calls"] for row in spent), answers(reference)
    last = json.loads((folder / "manifest.json").read_text())["executions"][-1]["calls"]
    if not before + last == calls == answers(folder) == distinct:
        wrong.append(f"{before} answers, {last} calls and {calls} in all, but {distinct} distinct asks")
    return wrong


def main() -> int:
    """Run the experiment once undisturbed, then kill and resume it until there were enough kills."""
    options = arguments()
    chance = random.Random(options.seed)
    failures = killed = runs = 0
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as home:
        reference = Path(home, "reference")
        seconds = finish(options, reference)
        distinct = answers(reference)
        print(f"reference: {len(costs(reference))} queries, {distinct} distinct asks, {seconds:.1f} s", flush=True)
        while killed < options.kills:
            runs += 1
            folder = Path(home, f"run-{runs}")
            if runs > options.kills + TOO_QUICK:
                raise SystemExit(f"the runs end before they can be killed: {distinct} asks are too few, or too quick")
            count = min(options.kills_a_run, options.kills - killed, distinct)
            for moment in sorted(chance.sample(range(distinct), count)):
                if not kill_at(options, folder, moment, chance):
                    break
                killed += 1
                print(f"kill {killed}: {answers(folder)} of {distinct} answers on disk", end="", flush=True)
                print(" (run.trec written)" if (folder / "run.trec").exists() else "", flush=True)
            before = answers(folder)
            seconds = finish(options, folder)
            wrong = differences(folder, reference, before)
            failures += bool(wrong)
            outcome = "; ".join(wrong) or f"{distinct - before} asked, {before} kept, run.trec identical"
            print(f"resumed in {seconds:.1f} s: {outcome}", flush=True)
    print(f"verdict: {killed} kills, {runs} resumed runs, {failures or 'none'} of them wrong", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
