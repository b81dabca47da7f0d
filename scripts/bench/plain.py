"""The plainest use of the library, as older toolkits do it: float32, one prompt at a time, `generate`, a run file.

    python scripts/bench/plain.py --model FOLDER --config C --method NAME --queries N --output RUN.trec

What the benchmarks compare with: the first step's logits of `generate` are read (for query likelihood, those of a
forward pass with the query behind the prompt). The whole command is what `commands.py` times.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.first_stage.retrieve import retrieve
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import runfile
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import transformers
from r2llm.rerankers.backends.base import Answered, Backend, Request, Setting
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, Cost

METHODS = ["setwise.heapsort", "pairwise.heapsort", "pointwise.yes_no", "pointwise.qlm", "listwise.sliding"]


class Plain(Backend):
    """One prompt at a time, as the library's examples do it."""

    def __init__(self, model: transformers.Transformers) -> None:
        super().__init__()
        self.identity = {"backend": "plain"}
        self.architecture = model.architecture
        self.tokens, self.model, self.config = model.tokens, model.passes.model, model.config

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer the next request."""
        with torch.no_grad():
            return [(request, self._reply(request)) for request in self.take(1)]

    def _reply(self, request: Request) -> Reply:
        with torch.device(self.model.device):
            return self._computed(request, *self.tokens.prompt(request))

    def _computed(self, request: Request, text: str, ids: list[int]) -> Reply:
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


def asked(backend: Backend, requests: Sequence[Request]) -> Answered:
    """All the answers of a backend."""
    found: Answered = []
    backend.submit(requests)
    while len(found) < len(requests):
        found += backend.collect()
    return found


def ranked(options: dict[str, Any], backend: Backend, queries: list[Candidates]) -> tuple[float, list[Cost], Any]:
    """Seconds, costs, and each query's ranking."""
    with closing(Ledger(None)) as ledger:
        started = time.perf_counter()
        found = list(Scheduler(Ranker.create(options), backend, ledger).rank(queries))
        seconds = time.perf_counter() - started
    return seconds, [cost for _, cost in found], {cost.query_id: ranking.docs for ranking, cost in found}


def options_of(method: str) -> dict[str, Any]:
    """The ranker that the benchmarks run: label scores, windows of four for listwise."""
    window = {"window": 4, "stride": 2} if method == "listwise.sliding" else {}
    return {"method": method, "scoring": "likelihood"} | window


def candidates(config_file: str, settings: list[str], queries: int) -> list[Candidates]:
    """The first queries' candidates of a config."""
    return list(itertools.islice(iter(retrieve(config.load(config_file, settings), Listener())), queries))


def opened(model: str, dtype: str = "float32", device: str = "cpu", **more: Any) -> transformers.Transformers:
    """The package's own backend, its weights loaded."""
    options: dict[str, Any] = {"name": model, "dtype": dtype, "device": device, **more}
    backend = transformers.Transformers(transformers.Options(**options), Setting().seed)
    _ = backend.passes
    return backend


def hardware(device: str) -> str:
    """What computes: the number of threads, or the GPU's name."""
    return f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name(device)


def parser_of(doc: str | None, queries: int) -> argparse.ArgumentParser:
    """What the benchmarks of an engine are told: the model, the candidates, the methods, and how many queries."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--queries", type=int, default=queries)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return parser


def main() -> None:
    """Rank, and write the run file."""
    parser = parser_of(__doc__, 5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if len(args.method or []) != 1:
        parser.error("--method: name one")
    [method] = args.method
    queries = candidates(args.config, args.set, args.queries)
    _, _, rankings = ranked(options_of(method), Plain(opened(args.model, device=args.device)), queries)
    runfile.write(args.output, rankings, {one.query.id: one.ids for one in queries}, "plain")


if __name__ == "__main__":
    main()
