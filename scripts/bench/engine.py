"""How fast the transformers backend answers, against the plainest use of the library, on the same work.

    python scripts/bench/engine.py --model FOLDER --config C [--set KEY=VALUE] [--method NAME] [--queries 2]

The alternative is what older toolkits do: float32, one prompt at a time, `generate`, its first step's logits read (for
query likelihood a forward pass with the query behind the prompt). Both rank the same candidates with the same method;
rankings are compared. Share is the work that the prompts' tokens mean for the model's matrices, by the second, of the
machine's own rate for a product of two matrices of 2,048 rows and columns in that number format, measured in the same
run; where beginnings of prompts are read once, it is more than the work done.
"""

from __future__ import annotations

import argparse
import itertools
import time
from contextlib import closing
from typing import Any

import torch
from r2llm.pipeline import config
from r2llm.pipeline.progress import Listener
from r2llm.pipeline.retrieve import retrieve
from r2llm.rerankers.backends import Backend, Queue, Request, Setting, transformers
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.prompts.answers import Reply
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, Cost

METHODS = ["setwise.heapsort", "pairwise.heapsort", "pointwise.yes_no", "pointwise.qlm", "listwise.sliding"]


class Plain(Queue):
    """One prompt at a time, as the library's examples do it."""

    simulated = False
    remembers = True

    def __init__(self, model: transformers.Transformers) -> None:
        super().__init__()
        self.identity = {"backend": "plain"}
        self.architecture = model.architecture
        self.tokens, self.model, self.config = model.tokens, model.model, model.config

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer the next request."""
        with torch.no_grad():
            return [(request, self._reply(request)) for request in self.take(1)]

    def close(self) -> None:
        """Nothing is held."""

    def _reply(self, request: Request) -> Reply:
        text, ids = self.tokens.prompt(request)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids)).long()}
        seq2seq = self.architecture == "encoder_decoder"
        start = [self.config.decoder_start_token_id] if seq2seq else []
        if request.prompt.target:
            target = self.tokens.target(request)
            if seq2seq:
                logits = self.model(**inputs, decoder_input_ids=torch.tensor([[*start, *target[:-1]]])).logits[0]
            else:
                logits = self.model(input_ids=torch.tensor([ids + target])).logits[0, -len(target) - 1 : -1]
            wanted = torch.tensor(target).unsqueeze(1)
            return Reply(scores=(float(logits.double().log_softmax(-1).gather(1, wanted).sum()),))
        if seq2seq:
            inputs["decoder_input_ids"] = torch.tensor([[*start, *self.tokens.decoder_prefix(request)]])
        answer = self.model.generate(
            **inputs,
            max_new_tokens=self.tokens.answer_tokens(request),
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        labels = [first for (first,) in self.tokens.label_ids(request, text)]
        scores = answer.logits[0][0].double().log_softmax(-1)[labels].tolist()
        return Reply(scores=tuple(scores), prompt_tokens=len(ids), completion_tokens=0)


def ranked(options: dict[str, Any], backend: Backend, queries: list[Candidates]) -> tuple[float, list[Cost], Any]:
    """Seconds, costs, and each query's ranking."""
    with closing(Ledger(None)) as ledger:
        started = time.perf_counter()
        found = list(Scheduler(Ranker.create(options), backend, ledger).rank(queries))
        seconds = time.perf_counter() - started
    return seconds, [cost for _, cost in found], {cost.query_id: ranking.docs for ranking, cost in found}


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times)


def weights(model: Any) -> int:
    """The model's weights that each token of a prompt meets: no embeddings, no output head, no decoder of T5's."""
    part = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    embeddings = part.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in part.parameters()) - embeddings


def main() -> None:
    """Print one line a method and engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    parser.add_argument("--method", action="append")
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    queries = list(itertools.islice(iter(retrieve(config.load(args.config, args.set), Listener())), args.queries))

    def engine(dtype: str, **more: Any) -> transformers.Transformers:
        options = transformers.Options(name=args.model, dtype=dtype, device="cpu", **more)
        return transformers.Transformers(options, Setting().seed)

    plain = Plain(engine("float32"))
    per_token = 2 * weights(plain.model)
    ours = {dtype: engine(dtype) for dtype in args.dtype or ["float32", "bfloat16"]}
    for backend in ours.values():
        _ = backend.model  # weights are loaded before the clock runs, as the plain engine's are
    rates = {dtype: matrix_rate(getattr(torch, dtype)) for dtype in ours}
    rates_text = ", ".join(f"{d} {rate / 1e9:,.0f} GFLOP/s" for d, rate in rates.items())
    print(f"{args.model}: {torch.get_num_threads()} threads; matrix rate {rates_text}")
    for method in args.method or METHODS:
        options = {"method": method, "scoring": "likelihood"}
        if method == "listwise.sliding":
            options |= {"window": 4, "stride": 2}
        seconds, costs, rankings = ranked(options, plain, queries)
        calls = sum(cost.calls for cost in costs)
        print(f"{method:18} plain float32     {calls:6} calls {calls / seconds:7.2f}/s", flush=True)
        for dtype, backend in ours.items():
            took, spent, found = ranked(options, backend, queries)
            mine = sum(cost.calls for cost in spent)
            tokens = sum(cost.prompt_tokens or 0 for cost in spent) if method != "pointwise.qlm" else None
            share = f"{tokens * per_token / took / rates[dtype]:5.0%}" if tokens else "    -"
            same = sum(found[query][:10] == rankings[query][:10] for query in found)
            faster = (mine / took) / (calls / seconds)
            print(f"{'':18} r2llm {dtype:9}   {mine:6} calls {mine / took:7.2f}/s {faster:5.2f} x", end="  ")
            print(f"share {share}  top 10 equal {same}/{len(found)}", flush=True)


if __name__ == "__main__":
    main()
