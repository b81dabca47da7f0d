"""Do two engines rank alike? Lists every difference between them, with the gap that decided it.

    python scripts/engines_agree.py answer A.json --config C --model '{backend: transformers, name: DIR}'
    vllm-env/bin/python scripts/engines_agree.py answer B.json --config C --model '{backend: vllm, name: DIR}'
    python scripts/engines_agree.py compare A.json B.json

`answer` ranks the config's candidates with each method and writes rankings and answers, in the engine's own Python
environment: by label scores and query likelihood, or by texts with `--ranker '{scoring: generation}'`. `compare` needs
no engine. A ranking that differs is explained where an ask is found that both engines were asked and decided otherwise,
by how little: the difference of the two best log-probabilities, or of two documents' scores. It exits 1 where a gap is
larger than `--gap`, where a difference is not explained, or where the engines count different prompt tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import yaml

METHODS = ["setwise.heapsort", "pairwise.heapsort", "pointwise.yes_no", "pointwise.qlm"]


def answer(args: argparse.Namespace) -> None:
    """Rank with each method, and write what was asked, answered and ranked."""
    from r2llm.pipeline.configs import load as config
    from r2llm.pipeline.first_stage.retrieve import retrieve
    from r2llm.pipeline.io.progress import Listener
    from r2llm.rerankers import api
    from r2llm.rerankers.ledger import Ledger
    from r2llm.rerankers.ranker import Ranker
    from r2llm.rerankers.scheduler import Scheduler

    class Recorder:
        """A backend that remembers what it was asked and what it said."""

        def __init__(self, backend: Any, ranker: Ranker) -> None:
            self.backend, self.ranker, self.said = backend, ranker, {}

        def __getattr__(self, name: str) -> Any:
            return getattr(self.backend, name)

        def collect(self) -> list[Any]:
            replies = self.backend.collect()
            for request, reply in replies:
                read = self.ranker.read(request.ask, reply, self.backend)
                self.said[json.dumps([request.query.id, request.ask.kind, *request.ask.docs])] = {
                    "scores": reply.scores,
                    "text": reply.text,
                    "choice": read.choice if len(request.ask.docs) > 1 else None,
                    "value": read.scores[0] if len(request.ask.docs) == 1 else None,
                    "prompt_tokens": reply.prompt_tokens,
                }
            return replies

    loaded = config.load(args.config, args.set)
    queries = list(islice(iter(retrieve(loaded, Listener())), args.queries))
    backend = api.open_model(yaml.safe_load(args.model))
    methods: dict[str, Any] = {}
    for method in args.method or METHODS:
        ranker = Ranker.create({"method": method, "scoring": "likelihood"} | yaml.safe_load(args.ranker))
        recorder, ledger = Recorder(backend, ranker), Ledger(None)
        started = time.perf_counter()
        ranked = {cost.query_id: list(found.docs) for found, cost in Scheduler(ranker, recorder, ledger).rank(queries)}
        ledger.close()
        methods[method] = {"rankings": ranked, "answers": recorder.said}
        print(
            f"{method}: {len(recorder.said)} asks, {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True
        )
    args.file.write_text(json.dumps({"engine": backend.identity | {"details": backend.details}, "methods": methods}))
    backend.close()


def compare(args: argparse.Namespace) -> int:
    """Print one line a method, and one for each difference; 1 where they do not agree."""
    one, other = (json.loads(path.read_text()) for path in args.files)
    faults = 0
    for method in [name for name in one["methods"] if name in other["methods"]]:
        a, b = one["methods"][method], other["methods"][method]
        common = [ask for ask in a["answers"] if ask in b["answers"]]
        off = _apart([(a["answers"][ask], b["answers"][ask]) for ask in common])
        tokens = [ask for ask in common if a["answers"][ask]["prompt_tokens"] != b["answers"][ask]["prompt_tokens"]]
        total = sum(a["answers"][ask]["prompt_tokens"] for ask in common)
        differing = [query for query, docs in a["rankings"].items() if docs != b["rankings"][query]]
        print(
            f"{method}: {len(a['rankings']) - len(differing)} of {len(a['rankings'])} rankings equal; "
            f"{len(common)} asks in common ({len(a['answers'])} and {len(b['answers'])}), {off}; "
            f"{total} prompt tokens, {len(tokens)} asks counted differently"
        )
        faults += len(tokens)
        for query in differing:
            found = list(_differences(query, a, b))
            for gaps, what in found:
                print(f"  query {query}: {what}, {' and '.join(f'{gap:.2g}' for gap in gaps)} apart")
                faults += max(gaps) > args.gap
            if not found:
                print(f"  query {query}: no ask explains the difference")
                faults += 1
    print("the engines agree" if not faults else f"the engines do not agree: {faults} faults")
    return int(faults > 0)


def _apart(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    """By how much the answers to the same asks differ, in words."""
    texts = [(a["text"], b["text"]) for a, b in pairs if a["scores"] is None]
    if texts:
        return f"{sum(a == b for a, b in texts)} texts equal"
    most = max(abs(x - y) for a, b in pairs for x, y in zip(a["scores"], b["scores"], strict=True))
    return f"log-probabilities at most {most:.2g} apart"


def _differences(query: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[Sequence[float], str]]:
    """Each decision about a query that two engines took differently: its gap with either, and what was decided."""
    values: list[dict[str, float]] = [{}, {}]
    for ask, said in a["answers"].items():
        of, _, *docs = json.loads(ask)
        answered = b["answers"].get(ask)
        if of != query or answered is None:
            continue
        if said["choice"] is None:
            values[0][docs[0]], values[1][docs[0]] = said["value"], answered["value"]
        elif said["choice"] != answered["choice"]:
            best = [said["choice"], answered["choice"]]
            gaps = [_gap(each["scores"], best) for each in (said, answered)]
            yield gaps, f"of {', '.join(docs)} {docs[best[0]]} was chosen, and {docs[best[1]]}"
    place = {doc: rank for rank, doc in enumerate(b["rankings"][query])}
    for first, second in combinations([doc for doc in a["rankings"][query] if doc in values[0]], 2):
        if place[first] > place[second]:
            gaps = [abs(each[first] - each[second]) for each in values]
            yield gaps, f"{first} before {second}, and after it"


def _gap(scores: Sequence[float] | None, labels: Sequence[int]) -> float:
    """How far apart two labels are; infinitely where texts were written."""
    return abs(scores[labels[0]] - scores[labels[1]]) if scores else math.inf


def main() -> int:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    ranks = steps.add_parser("answer", help="rank with an engine")
    ranks.add_argument("file", type=Path)
    ranks.add_argument("--config", required=True, help="whose candidates are ranked")
    ranks.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    ranks.add_argument("--model", required=True, help="the keys of a config's `model` section, as YAML")
    ranks.add_argument("--ranker", default="{}", help="more keys of its `ranker` section, as YAML")
    ranks.add_argument("--method", action="append")
    ranks.add_argument("--queries", type=int, default=10)
    ranks.set_defaults(run=answer)
    compares = steps.add_parser("compare", help="compare what two engines answered")
    compares.add_argument("files", type=Path, nargs=2)
    compares.add_argument("--gap", type=float, default=1e-3, help="gaps up to this are ties (default %(default)s)")
    compares.set_defaults(run=compare)
    args = parser.parse_args()
    return args.run(args) or 0


if __name__ == "__main__":
    sys.exit(main())
