"""What the toolkit costs beside the model: scheduler and ledger with simulated answers, and a large ledger's opening.

    python scripts/bench/overhead.py [--queries 2000] [--candidates 100] [--ledger-rows 1000000] [--profile]

Prints asks a second with the ledger on disk, with one in memory, and for the method's control flow alone (its
generator answered by a bare loop, the least that any driver could do); peak memory at a quarter of the queries and at
all of them; and the seconds to open a ledger of a million answers and look one up.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import simulated
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Answer, Candidates, Doc, Query

PASSAGE = "a passage of some sixty words about nothing in particular " * 6
RANKER = {"method": "setwise.heapsort", "k": 10, "num_child": 2}


def candidates(queries: int, depth: int) -> Iterator[Candidates]:
    """Made-up candidates, one query at a time."""
    for number in range(queries):
        docs = tuple(Doc(f"q{number}d{i}", f"{PASSAGE} {number} {i}") for i in range(depth))
        yield Candidates(Query(f"q{number}", f"query {number}"), docs, tuple(float(-i) for i in range(depth)))


def control_flow(queries: int, depth: int) -> tuple[int, float]:
    """Asks and seconds of the generators alone."""
    ranker = Ranker.create(RANKER)
    found = list(candidates(queries, depth))
    asks, started = 0, time.perf_counter()
    for one in found:
        steps = ranker.steps(one)
        try:
            round_ = next(steps)
            while True:
                asks += len(round_)
                round_ = steps.send([Answer(choice=hash(ask.docs) % len(ask.docs)) for ask in round_])
        except StopIteration:
            pass
    return asks, time.perf_counter() - started


def scheduled(queries: int, depth: int, ledger: Path | None) -> tuple[int, float]:
    """Asks and seconds through scheduler and ledger."""
    backend = simulated.open(simulated.Options(answers="rel"), Setting())
    book = Ledger(ledger)
    started = time.perf_counter()
    scheduler = Scheduler(Ranker.create(RANKER), backend, book)
    asks = sum(cost.asks for _, cost in scheduler.rank(candidates(queries, depth)))
    seconds = time.perf_counter() - started
    book.close()
    return asks, seconds


def peak(queries: int, depth: int) -> float:
    """Peak memory, in MiB, of a process that ranks so many queries."""
    code = f"import overhead; overhead.memory({queries}, {depth})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def memory(queries: int, depth: int) -> None:
    """Rank, and print this process's peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        scheduled(queries, depth, Path(folder) / "ledger.sqlite")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--ledger-rows", type=int, default=1_000_000)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, alone_seconds = control_flow(args.queries, args.candidates)
        print(f"control flow alone     {alone / alone_seconds:10,.0f} asks/s ({alone:,} asks)")
        for label, path in (("ledger in memory", None), ("ledger on disk", folder / "ledger.sqlite")):
            profiler = cProfile.Profile()
            if args.profile and path:
                profiler.enable()
            asks, seconds = scheduled(args.queries, args.candidates, path)
            profiler.disable()
            print(f"{label:22} {asks / seconds:10,.0f} asks/s ({asks:,} asks, {os.cpu_count()} cores)")
            if args.profile and path:
                pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
        few, many = peak(args.queries // 4, args.candidates), peak(args.queries, args.candidates)
        print(f"peak memory            {few:10,.0f} MiB for a quarter of the queries, {many:,.0f} for all")
        large = Ledger(folder / "large.sqlite")
        for start in range(0, args.ledger_rows, 10_000):
            rows = range(start, min(start + 10_000, args.ledger_rows))
            large.add((row.to_bytes(32), "q", Reply(scores=(-0.1, -2.5, -3.25), prompt_tokens=400)) for row in rows)
        large.close()
        started = time.perf_counter()
        opened = Ledger(folder / "large.sqlite")
        assert opened.get((args.ledger_rows // 2).to_bytes(32)) is not None
        seconds = time.perf_counter() - started
        print(f"opening a ledger of {args.ledger_rows:,} answers and looking one up: {seconds:.3f} s")
        opened.close()


if __name__ == "__main__":
    main()
