"""Time of `r2llm compare` over synthetic TREC runs, with all pairs tested.

python scripts/bench/compare.py [--runs 50] [--queries 200] [--depth 100]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Write the runs, compare them in a process of its own, and print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--depth", type=int, default=100)
    args = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        judged = [f"q{q} 0 d{d} {rng.randrange(4)}\n" for q in range(args.queries) for d in range(30)]
        (home / "qrels.txt").write_text("".join(judged))
        for run in range(args.runs):
            lines = []
            for query in range(args.queries):
                docs = sorted(range(args.depth), key=lambda doc: doc + rng.gauss(0, 5 + run))
                lines += [f"q{query} Q0 d{doc} {rank} {args.depth - rank} x\n" for rank, doc in enumerate(docs, 1)]
            (home / f"run{run:02}.trec").write_text("".join(lines))
        runs = sorted(map(str, home.glob("*.trec")))
        command = "import sys; from r2llm.cli.main import main; sys.argv[0] = 'r2llm'; main()"
        arguments = ["compare", *runs, "--qrels", str(home / "qrels.txt"), "--quiet", "--json"]
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", command, *arguments], check=True, stdout=subprocess.DEVNULL)
        print(f"{args.runs} runs, {args.queries} queries, {args.depth} deep: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
