"""How fast whole rankings are, against ielab/llm-rankers itself, in turn on the same queries.

    python scripts/bench/llm_rankers.py --llm-rankers FOLDER --python PYTHON --model FOLDER --config C [--queries 8]

FOLDER is a clone of ielab/llm-rankers, PYTHON an interpreter that can import it (it needs transformers 4), where it
runs in a process of its own. Both have the same threads or GPU, number format and first stage, cut passages to 128
tokens, and read labels' log-probabilities where llm-rankers does (T5); of Llama, for which llm-rankers has setwise and
pairwise alone, both read the one token that it generates. Some queries are ranked by one and then by the other. Share
is the work that the prompts' tokens mean for the model's matrices, by the second, of the rate for a product of large
matrices.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any, cast

TOGETHER = {"cpu": 4, "cuda": 64}
"""So many queries are ranked by one and then by the other unless told, by device."""

CLASSES = {
    "setwise": ("SetwiseLlmRanker", {"num_child": 2, "k": 10}),
    "pairwise": ("PairwiseLlmRanker", {"k": 10}),
    "pointwise": ("PointwiseLlmRanker", {"batch_size": 1}),
    "listwise": ("ListwiseLlmRanker", {"window_size": 4, "step_size": 2, "num_repeat": 1}),
}
"""llm-rankers' class of a family, and what it is told; `plain.options_of` tells ours the same."""


def serve(folder: str, model: str, method: str, dtype: str, device: str) -> None:
    """Rank what comes in, a line of JSON a query, by llm-rankers. It is run by an interpreter without r2llm."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # it prints, and bars go to stderr
    sys.path.insert(0, folder)
    import importlib

    import torch

    family, _, name = method.partition(".")
    kind, more = CLASSES[family]
    given: dict[str, Any] = {"model_name_or_path": model, "tokenizer_name_or_path": None, "device": device, **more}
    if family in ("setwise", "listwise"):
        given["scoring"] = "likelihood" if "T5" in (Path(model) / "config.json").read_text() else "generation"
    if family != "listwise":
        given["method"] = name
    ranker = getattr(importlib.import_module(f"llmrankers.{family}"), kind)(**given)
    ranker.llm.to(getattr(torch, dtype))
    result = importlib.import_module("llmrankers.rankers").SearchResult
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        query, docs = json.loads(line)
        texts = [result(docid=doc, score=0.0, text=ranker.truncate(text, 128)) for doc, text in docs]
        with torch.no_grad():
            begun = time.perf_counter()
            ranking = ranker.rerank(ranker.truncate(query, 128), texts)
            seconds = time.perf_counter() - begun
        print(json.dumps([seconds, [doc.docid for doc in ranking]]), file=answers, flush=True)


class LlmRankers:
    """llm-rankers with a model and a method, in a process of its own."""

    def __init__(self, python: str, folder: str, model: str, method: str, dtype: str, device: str) -> None:
        command = [python, __file__, "--serve", folder, model, method, dtype, device]
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True)
        self._asks, self._answers = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        self._line()

    def _line(self) -> Any:
        line = self._answers.readline()
        if not line:
            raise SystemExit("llm-rankers failed; run it by itself to see why")
        return json.loads(line)

    def ranked(self, queries: Sequence[Any]) -> tuple[float, dict[str, list[str]]]:
        """Return the seconds that it took to rank, and each query's documents."""
        seconds, rankings = 0.0, {}
        for one in queries:
            row = [one.query.text, [[doc.id, doc.text] for doc in one.docs]]
            print(json.dumps(row), file=self._asks, flush=True)
            took, rankings[one.query.id] = self._line()
            seconds += took
        return seconds, rankings

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Print a line a method and number format."""
    from engine import matrix_rate, weights
    from plain import METHODS, candidates, hardware, opened, options_of, parser_of, ranked

    parser = parser_of(__doc__, 8)
    parser.add_argument("--llm-rankers", required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"])
    parser.add_argument("--together", type=int, help="so many queries are ranked by one and then by the other")
    args = parser.parse_args()
    together = args.together or TOGETHER[args.device]
    queries = candidates(args.config, args.set, args.queries)
    print(f"{args.model}: {hardware(args.device)}, {len(queries)} queries of {len(queries[0].docs)} documents")
    for dtype in args.dtype or ["float32"]:
        rate = matrix_rate(dtype, args.device)
        print(f"{dtype}: matrix rate {rate / 1e9:,.0f} GFLOP/s")
        backend = opened(args.model, dtype, args.device)
        decoder_only = backend.architecture == "decoder_only"
        for method in args.method or METHODS:
            if decoder_only and method.partition(".")[0] not in ("setwise", "pairwise"):
                print(f"{method:18} llm-rankers has it for T5 alone")
                continue
            options = options_of(method) | {"compat": "llm-rankers", "passage_tokens": 128}
            options |= {"scoring": "generation"} if decoder_only or method.startswith("pairwise") else {}
            theirs = LlmRankers(args.python, args.llm_rankers, args.model, method, dtype, args.device)
            their_s, our_s, tokens, calls, same = 0.0, 0.0, 0, 0, 0
            for turn, start in enumerate(range(0, len(queries), together)):
                some = queries[start : start + together]
                for them in (turn % 2 == 0, turn % 2 == 1):
                    if them:
                        seconds, their = theirs.ranked(some)
                        their_s += seconds
                    else:
                        seconds, costs, our = ranked(options, backend, some)
                        our_s += seconds
                        tokens += sum(cost.prompt_tokens or 0 for cost in costs)
                        calls += sum(cost.calls for cost in costs)
                same += sum(their[query][:10] == list(our[query][:10]) for query in our)
            theirs.close()
            share = tokens * 2 * weights(backend.passes.model) / rate
            print(
                f"{method:18} llm-rankers {their_s:7.1f} s {share / their_s:4.0%}  r2llm {our_s:7.1f} s "
                f"{share / our_s:4.0%}  {their_s / our_s:5.2f} x  {calls} calls, top 10 equal {same}/{len(queries)}",
                flush=True,
            )
        backend.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
