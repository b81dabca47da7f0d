"""How far answers move with precision and with batch composition, and how often a top 10 moves with them.

    python scripts/bench/precision.py --model FOLDER --config C [--queries 10] [--method NAME] [--against SETTINGS ...]

Each query is ranked with float32, every prompt alone, and with each of the others (YAML of the config's `model` keys).
Scores are compared ask by ask: the other model is put the very asks of the first. Rankings are those that each model
comes to by itself.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

import yaml
from plain import METHODS, asked, candidates, opened, options_of, parser_of
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates

AGAINST = ["{exact: false, batch_size: 2}", "{exact: false, batch_size: 32}", "{dtype: bfloat16}", "{dtype: float16}"]


class Kept:
    """A backend that keeps what it was asked and answered."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.answers: dict[bytes, tuple[Any, tuple[float, ...]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def collect(self) -> list[Any]:
        """Answer, and remember."""
        replies = self._backend.collect()
        self.answers |= {request.key: (request, reply.scores or ()) for request, reply in replies}
        return replies


def rankings(options: dict[str, Any], backend: Any, queries: list[Candidates]) -> dict[str, tuple[str, ...]]:
    """Each query's ranking."""
    with closing(Ledger(None)) as ledger:
        found = Scheduler(Ranker.create(options), backend, ledger).rank(queries)
        return {cost.query_id: ranking.docs for ranking, cost in found}


def main() -> None:
    """Print a line a method and setting."""
    parser = parser_of(__doc__, 10)
    parser.add_argument("--against", action="append", metavar="YAML")
    args = parser.parse_args()
    queries = candidates(args.config, args.set, args.queries)
    for method in args.method or METHODS[:3]:
        options = options_of(method)
        alone = Kept(opened(args.model, device=args.device))
        expected = rankings(options, alone, queries)
        for text in args.against or AGAINST:
            other = opened(args.model, **{"device": args.device} | yaml.safe_load(text))
            found = rankings(options, other, queries)
            moved, flipped = 0.0, 0
            for request, reply in asked(other, [request for request, _ in alone.answers.values()]):
                scores = alone.answers[request.key][1]
                moved = max([moved, *(abs(a - b) for a, b in zip(scores, reply.scores, strict=True))])
                flipped += scores.index(max(scores)) != reply.scores.index(max(reply.scores))
            top = sum(found[query][:10] != expected[query][:10] for query in expected)
            whole = sum(found[query] != expected[query] for query in expected)
            print(
                f"{method:18} {text:32} {len(alone.answers):6} asks  scores move {moved:.1e}  choices flip {flipped}  "
                f"top 10 moves {top}/{len(queries)}  ranking moves {whole}/{len(queries)}",
                flush=True,
            )
            other.close()


if __name__ == "__main__":
    main()
