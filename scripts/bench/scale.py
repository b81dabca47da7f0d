"""How time and memory grow with the number of queries, whole experiments through the command line, simulated answers.

    python scripts/bench/scale.py [--queries 10000] [--candidates 100] [--shards 16] [--shard-queries 500]

Makes a collection up, then prints: wall seconds and peak memory of `r2llm rerank` with a tenth of the queries and with
all of them, and the ratio; the size of the ledger, and the seconds to open it and look an answer up; the seconds of a
second execution, all of whose answers are in the ledger; and whether `--shard-queries` queries in `--shards` shards,
merged, are byte for byte what one execution leaves, with the seconds of the merge. Exit code 1 where they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from r2llm.rerankers.ledger import Ledger

PASSAGE = "a passage of some sixty words about nothing in particular " * 6

DOCUMENTS = 50_000
"""Size of the made-up collection; queries share its documents, as they do in a real one."""

JUDGED = 3
"""Judged documents a query."""

SAME = ("config.yaml", "first_stage.trec", "run.trec", "metrics.json")
"""Files that merged shards and one execution must have in common, byte for byte."""

EXPERIMENT = ("query_id", "asks", "rounds", "comparisons", "prompt_tokens", "completion_tokens", "unparsed", "flops")
"""The fields of `costs.jsonl` that describe the experiment and not an execution of it."""

CONFIG = """\
dataset: {{docs: ../docs.jsonl, queries: queries.tsv, qrels: qrels.txt}}
first_stage: {{run: first.trec, depth: {depth}}}
ranker: {{method: setwise.heapsort, k: 10, num_child: 2}}
model: {{backend: simulated, answers: rel}}
"""


@dataclass(frozen=True)
class Done:
    """What a command took."""

    seconds: float
    processor: float
    """Seconds of processor time, which other work on the machine moves less."""

    mib: float
    """Peak memory of its process."""

    out: str


def command(*words: str | Path) -> Done:
    """Type an r2llm command in a process of its own. Raises `SystemExit` where it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "r2llm.cli.main", *map(str, words)], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"r2llm {' '.join(map(str, words))}: exit code {process.returncode}")
        out.seek(0)
        return Done(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read())


def write_documents(folder: Path) -> None:
    """The collection."""
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(DOCUMENTS):
            stream.write(json.dumps({"_id": f"doc{number}", "text": f"{PASSAGE}{number}"}) + "\n")


def write_experiment(folder: Path, queries: int, depth: int) -> Path:
    """Queries, judgements, a first stage and a config; the path of the config."""
    folder.mkdir()
    with (
        (folder / "queries.tsv").open("w", encoding="utf-8") as topics,
        (folder / "first.trec").open("w", encoding="utf-8") as run,
        (folder / "qrels.txt").open("w", encoding="utf-8") as qrels,
    ):
        for number in range(queries):
            topics.write(f"q{number}\tquery number {number} about something\n")
            found = random.Random(number).sample(range(DOCUMENTS), depth)
            for rank, doc in enumerate(found, 1):
                run.write(f"q{number} Q0 doc{doc} {rank} {1000 - rank / 10} made\n")
            for doc in found[:: max(1, depth // JUDGED)][:JUDGED]:
                qrels.write(f"q{number} 0 doc{doc} 1\n")
    config = folder / "scale.yaml"
    config.write_text(CONFIG.format(depth=depth), encoding="utf-8")
    return config


def measure_growth(home: Path, queries: int, depth: int) -> None:
    """Print time and memory of a tenth of the queries and of all of them, and what the ledger takes."""
    took: list[Done] = []
    for count in (queries // 10, queries):
        config, output = write_experiment(home / f"grow-{count}", count, depth), home / f"run-{count}"
        done = command("rerank", "--config", config, "--output", output, "--quiet", "--json")
        asks = json.loads(done.out)["costs"]["asks"]["total"]
        took.append(done)
        print(
            f"{count:7,} queries x {depth}: {done.seconds:8.1f} s ({done.processor:.1f} of processor time), "
            f"{done.mib:6,.0f} MiB at most, {asks:,} asks",
            flush=True,
        )
    few, many = took
    print(
        f"ten times the queries take {many.seconds / few.seconds:.2f} times as long, "
        f"{many.processor / few.processor:.2f} times the processor time ({os.cpu_count()} cores)"
    )
    ledger = output / "ledger.sqlite"
    begun = time.perf_counter()
    with closing(Ledger(ledger)) as opened:
        assert opened.get(bytes(16)) is None
        seconds = time.perf_counter() - begun
        answers = len(opened)
    size = ledger.stat().st_size
    each = f"{size / 2**20:,.0f} MiB, {size / answers:.0f} bytes an answer"
    print(f"ledger of {answers:,} answers: {each}; opened and one looked up in {seconds:.3f} s", flush=True)
    calls = json.loads(done.out)["costs"]["calls"]
    again = command("rerank", "--config", config, "--output", output, "--quiet", "--json")
    assert json.loads(again.out)["costs"]["calls"] == calls
    print(f"run again, nothing asked: {again.seconds:.1f} s, {again.mib:,.0f} MiB at most", flush=True)


def differences(whole: Path, merged: Path) -> Iterator[str]:
    """In what a merged run is not what one execution left."""
    for name in SAME:
        if (whole / name).read_bytes() != (merged / name).read_bytes():
            yield name
    costs = [
        [[row[name] for name in EXPERIMENT] for row in map(json.loads, (folder / "costs.jsonl").open())]
        for folder in (whole, merged)
    ]
    if costs[0] != costs[1]:
        yield "costs.jsonl"
    manifests = [json.loads((folder / "manifest.json").read_text(encoding="utf-8")) for folder in (whole, merged)]
    for name in ("fingerprint", "ledger"):
        if manifests[0][name] != manifests[1][name]:
            yield f"the manifest's {name}"


def compare_shards(home: Path, queries: int, depth: int, shards: int) -> bool:
    """Print whether merged shards are what one execution leaves; whether they are."""
    config = write_experiment(home / "sharded", queries, depth)
    whole, merged = home / "whole", home / "merged"
    command("rerank", "--config", config, "--output", whole, "--quiet")
    begun = time.perf_counter()
    most = 0.0
    for number in range(1, shards + 1):
        done = command("rerank", "--config", config, "--output", merged, "--shard", f"{number}/{shards}", "--quiet")
        most = max(most, done.mib)
    took = time.perf_counter() - begun
    done = command("merge", merged, "--quiet")
    wrong = list(differences(whole, merged))
    print(f"{queries:,} queries in {shards} shards: {took:.1f} s one after the other, {most:,.0f} MiB at most;")
    print(f"merged in {done.seconds:.1f} s, {done.mib:,.0f} MiB at most: {', '.join(wrong) or 'nothing'} differs")
    return not wrong


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000, help="0: compare shards only")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--shards", type=int, default=16, help="0: measure growth only")
    parser.add_argument("--shard-queries", type=int, default=500, help="queries of the run that is sharded")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        home = Path(name)
        write_documents(home)
        if args.queries:
            measure_growth(home, args.queries, args.candidates)
        same = not args.shards or compare_shards(home, args.shard_queries, args.candidates, args.shards)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
