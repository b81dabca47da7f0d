"""Whole commands: `r2llm rerank` against the plainest use of the library, start-up included, each a process of its own.

    python scripts/bench/commands.py --model FOLDER --config C [--method NAME] [--queries 5] [--times 1]

The two take turns. Prints seconds, their ratio, on how many queries the top 10 are equal, and the peak memory of
`r2llm rerank` above the size of the model's weights.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import yaml
from plain import METHODS, options_of, parser_of
from r2llm.pipeline.run import runfile

GIB = 2**30


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command that must not fail."""
    started = time.perf_counter()
    process = os.posix_spawn(sys.executable, [sys.executable, *command], os.environ)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def main() -> None:
    """Print a line a method."""
    parser = parser_of(__doc__, 5)
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    weights = sum(file.stat().st_size for file in Path(args.model).glob("*.safetensors"))
    for method in args.method or METHODS:
        plain_seconds, our_seconds, peaks = [], [], []
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = {"backend": "transformers", "name": args.model, "device": args.device}
            settings = [f"ranker={yaml.safe_dump(options_of(method), default_flow_style=True).strip()}"]
            settings += [f"model={yaml.safe_dump(model, default_flow_style=True, width=999).strip()}", *args.set]
            for turn in range(args.times):
                plain = ["--model", args.model, "--config", args.config, "--method", method, "--device", args.device]
                plain += ["--queries", str(args.queries), "--output", str(folder / "plain.trec")]
                plain += [part for setting in args.set for part in ("--set", setting)]
                plain_seconds.append(timed([str(Path(__file__).with_name("plain.py")), *plain])[0])
                ours = ["rerank", "--config", args.config, "--queries", str(args.queries), "--quiet", "--json"]
                ours += [part for setting in settings for part in ("--set", setting)]
                # One line of JSON is not what is looked at here.
                command = "import os, sys; sys.stdout = open(os.devnull, 'w'); from r2llm.cli.main import main; main()"
                seconds, peak = timed(["-c", command, *ours, "--output", str(folder / f"run{turn}")])
                our_seconds.append(seconds)
                peaks.append(peak)
            one, other = (runfile.read(folder / name)[0] for name in ("plain.trec", "run0/run.trec"))
        same = sum([doc for doc, _ in one[q][:10]] == [doc for doc, _ in other[q][:10]] for q in one)
        seconds, plain_s = statistics.median(our_seconds), statistics.median(plain_seconds)
        print(
            f"{method:18} plain {plain_s:7.1f} s  r2llm {seconds:7.1f} s  {plain_s / seconds:5.2f} x  "
            f"top 10 equal {same}/{len(one)}  peak {(max(peaks) - weights) / GIB:.2f} GiB above the model's "
            f"{weights / GIB:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
