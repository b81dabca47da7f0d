"""How much of what a server could answer `backend: openai` gets out of it, and what it does when requests fail.

    python scripts/bench/server.py [--asks 20000] [--api completions|chat] [--together 32] [--open 512] [--profile]
    python scripts/bench/server.py --faults 0.2 [--asks 10000]

A stub in a process of its own (tests/tools/stub_server.py) answers 256 prompts at once in 50 ms each: 5,120 asks a
second are possible. Prints asks a second, the share of the possible, and the CPU time that an ask costs here;
`--profile` shows where it goes. With `--faults` the requests pass a proxy that breaks that share of them
(tests/tools/fault_proxy.py); the rankings must be those of a run without, and every ask must be in the ledger once.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from r2llm.rerankers.backends import openai
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, Doc, Query

TOOLS = Path(__file__).parents[2] / "tests" / "tools"
SLOTS, DELAY = 256, 0.05
PASSAGE = "a passage of some sixty words about nothing in particular " * 6


def candidates(queries: int, depth: int) -> Iterator[Candidates]:
    """Made-up candidates, one query at a time."""
    for number in range(queries):
        docs = tuple(Doc(f"q{number}d{i}", f"{PASSAGE} {number} {i}") for i in range(depth))
        yield Candidates(Query(f"q{number}", f"query {number}"), docs, tuple(float(-i) for i in range(depth)))


@contextlib.contextmanager
def serving(script: str, *arguments: str) -> Iterator[str]:
    """A server in a process of its own; its base URL."""
    command = [sys.executable, str(TOOLS / script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def rank(
    options: openai.Options, asks: int, method: str, ledger: Path | None
) -> tuple[dict[str, tuple[str, ...]], int]:
    """Rank so many queries that about so many asks are asked; the rankings, and how many answers the ledger holds."""
    backend, book = openai.open(options, Setting()), Ledger(ledger)
    found = {
        cost.query_id: ranking.docs
        for ranking, cost in Scheduler(Ranker.create({"method": method}), backend, book).rank(
            candidates(asks // 100, 100)
        )
    }
    backend.close()
    kept = len(book)
    book.close()
    return found, kept


def measure(args: argparse.Namespace, url: str) -> None:
    """Print asks a second."""
    options = openai.Options(
        name="stub", base_url=url, api=args.api, max_concurrency=args.open, prompts_per_request=args.together
    )
    rank(options, 100, args.method, None)  # what is imported and opened once is no part of it
    profiler = cProfile.Profile(time.process_time)
    with tempfile.TemporaryDirectory() as folder:
        cpu, started = time.process_time(), time.perf_counter()
        work = profiler.runcall if args.profile else lambda function, *values: function(*values)
        _, asks = work(rank, options, args.asks, args.method, Path(folder) / "ledger.sqlite")
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    possible = SLOTS / DELAY
    print(
        f"{args.api}, {args.together or 'default'} prompts a request, {args.open} asks open: "
        f"{asks / seconds:,.0f} asks/s, {asks / seconds / possible:.1%} of {possible:,.0f}; "
        f"{1000 * cpu / asks:.3f} ms of CPU an ask here"
    )
    if args.profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(20)


def compare(args: argparse.Namespace, url: str) -> None:
    """Print whether faults change anything."""
    results = []
    with serving("fault_proxy.py", "--target", url, "--rate", str(args.faults)) as broken:
        for name, address in (("without faults", url), ("with faults", broken)):
            options = openai.Options(
                name="stub",
                base_url=address,
                api=args.api,
                max_concurrency=args.open,
                prompts_per_request=args.together,
            )
            started = time.perf_counter()
            results.append(rank(options, args.asks, args.method, None))
            print(f"{name}: {results[-1][1]:,} answers in the ledger after {time.perf_counter() - started:.1f} s")
        with urllib.request.urlopen(broken.replace("/v1", "/faults")) as reply:
            print("faults:", ", ".join(f"{name} {count}" for name, count in sorted(json.load(reply).items())))
    same = results[0] == results[1]
    print("the same rankings, each ask answered once" if same else "DIFFERENT")
    sys.exit(not same)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asks", type=int, default=20_000)
    parser.add_argument("--api", default="completions")
    parser.add_argument("--together", type=int, help="prompts a request; the backend's choice unless given")
    parser.add_argument("--open", type=int, default=512)
    parser.add_argument("--method", default="pointwise.yes_no")
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    with serving("stub_server.py", "--slots", str(SLOTS), "--delay", str(DELAY)) as url:
        (compare if args.faults else measure)(args, url)


if __name__ == "__main__":
    main()
