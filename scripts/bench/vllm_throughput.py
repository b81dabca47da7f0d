"""Asks a second through r2llm and vLLM, against vLLM's own offline generation on the same prompts, in one run.

    vllm-env/bin/python scripts/bench/vllm_throughput.py --model DIR --config C --queries 4 --rounds 3
        [--base-url http://127.0.0.1:8000/v1 --served NAME]

Runs in the Python that has vLLM. Each round takes the config's next queries, so that no prompt comes twice, and ranks
them by label scores: `offline` hands all prompts, ready as token ids, to `LLM.generate` at once, as vLLM's own
benchmark does; `in process` is the backend vllm on the same engine, its cache of beginnings emptied before; `server` is
the backend openai with a vLLM server, which should serve the same model with the same number of threads. Rendering,
tokenising and the ledger are in r2llm's time. The ratio is that of the medians over all rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import yaml
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.first_stage.retrieve import retrieve
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.backends import openai, vllm
from r2llm.rerankers.backends._tokens.tokens import Prepared
from r2llm.rerankers.backends.base import Backend, Request, Setting
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, score


def ranked(ranker: Ranker, backend: Backend, queries: list[Candidates]) -> float:
    """Seconds that ranking the queries takes."""
    with closing(Ledger(None)) as ledger:
        begun = time.perf_counter()
        for _ in Scheduler(ranker, backend, ledger).rank(queries):
            pass
        return time.perf_counter() - begun


def offline(ranker: Ranker, backend: vllm.Vllm, queries: list[Candidates]) -> float:
    """Seconds that vLLM takes for the same prompts, once they are there."""
    prompts = [Prepared(request, *backend.tokens.prompt(request)) for request in asked(ranker, backend, queries)]
    ready = [{"prompt_token_ids": prompt.ids} for prompt in prompts]
    params = [backend._params(prompt, continued=False) for prompt in prompts]
    begun = time.perf_counter()
    backend.engine.llm.generate(ready, params, use_tqdm=False)
    return time.perf_counter() - begun


def asked(ranker: Ranker, backend: Backend, queries: list[Candidates]) -> Iterator[Request]:
    """What a pointwise method asks about the queries' candidates."""
    for candidates in queries:
        requests = Requests(ranker, backend, candidates)
        yield from (requests.request(score(doc)) for doc in candidates.ids)


def main() -> None:
    """Print each round's asks a second, and the medians with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--config", required=True, help="whose candidates are ranked")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    parser.add_argument("--engine", default="{dtype: float32, max_model_len: 2048}", help="keys of `model`, as YAML")
    parser.add_argument("--queries", type=int, default=4, help="queries a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base-url", help="a vLLM server of the same model")
    parser.add_argument("--served", default="tiny", help="the model's name there")
    parser.add_argument("--max-concurrency", type=int, default=256)
    args = parser.parse_args()
    queries = iter(retrieve(config.load(args.config, args.set), Listener()))
    ranker = Ranker.create({"method": "pointwise.yes_no", "scoring": "likelihood"})
    engine = vllm.Vllm(vllm.Options(name=args.model, **yaml.safe_load(args.engine)), Setting().seed)
    opened: list[Backend] = [engine]
    runs: dict[str, Callable[[list[Candidates]], float]] = {
        "offline": lambda some: offline(ranker, engine, some),
        "in process": lambda some: ranked(ranker, engine, some),
    }
    if args.base_url:
        keys: dict[str, Any] = {"base_url": args.base_url, "tokenizer": args.model}
        server = openai.open(openai.Options(name=args.served, max_concurrency=args.max_concurrency, **keys), Setting())
        opened.append(server)
        runs["server"] = lambda some: ranked(ranker, server, some)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    warm = list(islice(queries, 1))
    for run in runs.values():
        run(warm)
    for number in range(args.rounds):
        some = list(islice(queries, args.queries))
        asks = sum(len(candidates.ids) for candidates in some)
        for name, run in runs.items():
            engine.engine.llm.reset_prefix_cache()
            rates[name].append(asks / run(some))
        told = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        print(f"round {number + 1}: {asks} asks; asks a second: {told}", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in medians.items():
        print(f"{name:10} median {rate:7.1f} asks/s, {rate / medians['offline']:.2f} x offline")
    for backend in opened:
        backend.close()


if __name__ == "__main__":
    main()
