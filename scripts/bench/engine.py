"""How fast the transformers backend answers, against the plainest use of the library, on the same work.

    python scripts/bench/engine.py --model FOLDER --config C [--set KEY=VALUE] [--method NAME] [--queries 2]

The alternative is what older toolkits do: float32, one prompt at a time, `generate`, its first step's logits read (for
query likelihood a forward pass with the query behind the prompt), in a process of its own, since ours changes how a
process keeps memory. It ranks the candidates, and the same asks are put to the others, some at a time and in turn, so
that what else the machine does falls on all of them. Then each of the others ranks by itself, with what it has
answered; rankings are compared. Share is the work that the prompts' tokens mean for the model's matrices, by the
second, of the machine's own rate for a product of two matrices of 2,048 rows and columns in that number format,
measured in the same run; where beginnings of prompts are read once, it is more than the work done.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
import yaml
from plain import METHODS, Plain, asked, candidates, hardware, opened, options_of, parser_of, ranked
from r2llm.rerankers.backends.base import Answered, Backend
from r2llm.rerankers.prompts.template import Prompt

TOGETHER = {"cpu": 64, "cuda": 1024}
"""So many asks are put to one after the other, by device."""


def answer(connection: Connection, model: str, device: str) -> None:
    """Answer lists of requests by the plain engine, for as long as the asking process lives."""
    plain = Plain(opened(model, device=device))
    connection.send((plain.identity, plain.architecture, 2 * weights(plain.model)))
    with suppress(EOFError):  # the asking process has ended
        while True:
            connection.send([reply for _, reply in asked(plain, connection.recv())])


class Apart(Backend):
    """The plain engine in a process of its own. `per_token`: operations that a token of a prompt means."""

    def __init__(self, model: str, device: str) -> None:
        super().__init__()
        self._ours, its = multiprocessing.Pipe()
        # What a prompt has computed of itself is no data.
        ForkingPickler.register(Prompt, lambda prompt: (Prompt.model_validate, (prompt.model_dump(),)))
        # Not a fork: a forked process cannot start threads of its own for matrix products.
        context = multiprocessing.get_context("spawn")
        context.Process(target=answer, args=(its, model, device), daemon=True).start()
        its.close()  # else nothing would tell that the process has failed
        self.identity, self.architecture, self.per_token = self._ours.recv()

    def collect(self) -> Answered:
        """All that waits, answered one by one."""
        some = self.take()
        self._ours.send(some)
        return list(zip(some, self._ours.recv(), strict=True))


class InTurn(Backend):
    """Backends that are asked the same, each in its turn; the answers are those of the first."""

    def __init__(self, backends: Mapping[str, Backend], together: int) -> None:
        super().__init__()
        self.backends, self.together = backends, together
        self.seconds = dict.fromkeys(backends, 0.0)
        self.answers: dict[str, dict[bytes, Any]] = {name: {} for name in backends}
        self._first, *_ = backends.values()
        self.identity, self.architecture = self._first.identity, self._first.architecture
        self._turns = list(backends)

    def collect(self) -> Answered:
        """Ask each of them."""
        some = self.take(self.together)
        for name in self._turns:
            started = time.perf_counter()
            self.answers[name] |= {request.key: reply for request, reply in asked(self.backends[name], some)}
            self.seconds[name] += time.perf_counter() - started
        self._turns = [*self._turns[1:], self._turns[0]]
        first, *_ = self.answers.values()
        return [(request, first[request.key]) for request in some]


class Known(Backend):
    """A backend whose answers are partly known."""

    def __init__(self, backend: Backend, answers: Mapping[bytes, Any], of: Backend) -> None:
        super().__init__()
        self.backend, self.answers = backend, answers
        self.identity, self.architecture = of.identity, of.architecture  # by which the answers are known

    def collect(self) -> Answered:
        """What is known of all that waits, and what is not."""
        waiting = self.take()
        unknown = asked(self.backend, [request for request in waiting if request.key not in self.answers])
        return unknown + [(each, self.answers[each.key]) for each in waiting if each.key in self.answers]


def matrix_rate(dtype: str, device: str) -> float:
    """Floating-point operations a second of a large matrix product, in a process of its own.

    Threads that OpenMP keeps for a process's first products would slow down those of its other threads.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured_rate, [getattr(torch, dtype), device])


def measured_rate(dtype: torch.dtype, device: str) -> float:
    """Measure it in this process."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(8):
        started = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for a GPU
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def weights(model: Any) -> int:
    """The model's weights that each token of a prompt meets: no embeddings, no output head, no decoder of T5's."""
    part = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    embeddings = part.get_input_embeddings().weight.numel()
    return sum(p.numel() for p in part.parameters()) - embeddings


def main() -> None:
    """Print one line a method and engine."""
    parser = parser_of(__doc__, 2)
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16"])
    parser.add_argument("--compile", action="store_true", help="with `compile: true`")
    parser.add_argument("--engine", default="{}", help="more keys of `model`, as YAML")
    args = parser.parse_args()
    queries = candidates(args.config, args.set, args.queries)
    plain = Apart(args.model, args.device)
    more = {"compile": args.compile, **yaml.safe_load(args.engine)}
    dtypes = args.dtype or ["float32", "bfloat16"]
    ours = {dtype: opened(args.model, dtype, args.device, **more) for dtype in dtypes}
    if args.compile:  # what compiling takes is said by itself
        for dtype, backend in ours.items():
            seconds, _, _ = ranked(options_of("pointwise.yes_no"), backend, queries[:1])
            print(f"compiling, {dtype}: {seconds:.0f} s with the first query")
    rates = {dtype: matrix_rate(dtype, args.device) for dtype in ours}
    rates_text = ", ".join(f"{d} {rate / 1e9:,.0f} GFLOP/s" for d, rate in rates.items())
    print(f"{args.model}: {hardware(args.device)}; matrix rate {rates_text}")
    for method in args.method or METHODS:
        options = options_of(method)
        engines = InTurn({"plain": plain} | ours, TOGETHER[args.device])
        _, costs, rankings = ranked(options, engines, queries)
        calls = sum(cost.calls for cost in costs)
        seconds = engines.seconds["plain"]
        print(f"{method:18} plain float32     {calls:6} calls {calls / seconds:7.2f}/s", flush=True)
        for dtype, backend in ours.items():
            _, _, found = ranked(options, Known(backend, engines.answers[dtype], engines), queries)
            took = engines.seconds[dtype]
            tokens = sum(cost.prompt_tokens or 0 for cost in costs) if method != "pointwise.qlm" else None
            share = f"{tokens * plain.per_token / took / rates[dtype]:5.0%}" if tokens else "    -"
            same = sum(found[query][:10] == rankings[query][:10] for query in found)
            print(f"{'':18} r2llm {dtype:9}   {calls:6} calls {calls / took:7.2f}/s {seconds / took:5.2f} x", end="  ")
            print(f"share {share}  top 10 equal {same}/{len(found)}", flush=True)


if __name__ == "__main__":
    main()
