"""What every ranking method's control flow costs and stands, without a model: a table in Markdown.

    python scripts/oracle_table.py --config C [--set KEY=VALUE] [--method NAME] [--k 10]

Every method ranks the config's candidates with its published defaults, answered by the judgements (oracle), by an
oracle that is wrong 10 % and 30 % of the time, and by a judge to whom the first stage is upside down (inverse). Asks,
comparisons and rounds are means a query with an oracle's answers, asks also with the inverse judge's; nDCG@10 is that
of each judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from statistics import fmean

from r2llm.pipeline.configs import load as config
from r2llm.pipeline.first_stage.retrieve import FirstStage, retrieve
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import measures as evaluation
from r2llm.rerankers import api, catalog
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Cost

JUDGES: Mapping[str, Mapping[str, object]] = {
    "oracle": {"answers": "oracle"},
    "noisy 10 %": {"answers": "noisy", "noise": 0.1},
    "noisy 30 %": {"answers": "noisy", "noise": 0.3},
    "inverse": {"answers": "inverse"},
}
MEASURE = "nDCG@10"


def ranked(method: str, k: int, first_stage: FirstStage, judge: Mapping[str, object]) -> tuple[float, list[Cost]]:
    """The mean nDCG@10 of a method with a judge's answers, and what it cost."""
    qrels = first_stage.dataset.qrels() or {}
    takes_k = "k" in catalog.method(method).params.model_fields
    ranker = Ranker.create({"method": method} | ({"k": k} if takes_k else {}))
    backend = api.open_model({"backend": "simulated", **judge}, grades=qrels)
    with closing(Ledger(None)) as ledger:
        found = list(Scheduler(ranker, backend, ledger).rank(first_stage))
    rankings = {cost.query_id: ranking.docs for ranking, cost in found}
    metrics = evaluation.measure([MEASURE], qrels, rankings, first_stage.queries)
    return metrics.mean[MEASURE], [cost for _, cost in found]


def row(method: str, k: int, first_stage: FirstStage) -> Sequence[str]:
    """One method's line of the table."""
    told = {name: ranked(method, k, first_stage, judge) for name, judge in JUDGES.items()}
    costs = told["oracle"][1]
    counts = [fmean(getattr(cost, field) for cost in costs) for field in ("asks", "comparisons", "rounds")]
    counts.append(fmean(cost.asks for cost in told["inverse"][1]))
    return [method, *(f"{count:,.1f}".removesuffix(".0") for count in counts), *(f"{told[j][0]:.4f}" for j in JUDGES)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a YAML file, or the name of a shipped config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as `r2llm rerank` takes it")
    parser.add_argument("--method", action="append", help="these methods only")
    parser.add_argument("--k", type=int, default=10)
    args = parser.parse_args()
    first_stage = retrieve(config.load(args.config, args.set), Listener())
    head = ["method", "asks", "comparisons", "rounds", "asks, inverse", *(f"nDCG@10 {judge}" for judge in JUDGES)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for method in args.method or catalog.names("method"):
        print(f"| {' | '.join(row(method, args.k, first_stage))} |", flush=True)


if __name__ == "__main__":
    main()
