"""Runs of one method in several initial orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.compare import runs as loading
from r2llm.pipeline.compare.runs import Run
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener

DOCS, QUERIES = 12, 6

Ordered = Callable[..., list[Run]]


@pytest.fixture
def ordered(write: Callable[[str, str], Path]) -> Ordered:
    """Return the runs of a method in these orders; a number is the seed of a shuffle.

    `grades` are those of d0, d1, …; without any, one document that is no candidate is judged.
    """
    docs = [f"d{number}" for number in range(DOCS)]
    queries = [f"q{number}" for number in range(QUERIES)]
    corpus = [json.dumps({"_id": doc, "text": f"about {doc}"}) for doc in [*docs, "elsewhere"]]
    write("docs.jsonl", "\n".join(corpus))
    write("queries.tsv", "".join(f"{query}\twhat is {query}\n" for query in queries))
    write("bm25.trec", "".join(f"{q} Q0 {d} {i} {99 - i} x\n" for q in queries for i, d in enumerate(docs, 1)))
    write(
        "order.yaml",
        """\
        dataset: {docs: docs.jsonl, queries: queries.tsv, qrels: qrels.txt}
        first_stage: {run: bm25.trec}
        model: {backend: simulated}
        """,
    )

    def ordered(ranker: str, orders: list[str | int], *settings: str, grades: tuple[int, ...] = ()) -> list[Run]:
        judged = dict(zip(docs, grades, strict=False)) or {"elsewhere": 1}
        write("qrels.txt", "".join(f"{query} 0 {doc} {grade}\n" for query in queries for doc, grade in judged.items()))
        folders = []
        for order in orders:
            first_stage = f"{{order: shuffle, seed: {order}}}" if isinstance(order, int) else f"{{order: {order}}}"
            folders.append(Path(f"{ranker.split(',')[0]}-{order}"))
            changes = (f"ranker={{method: {ranker}}}", f"first_stage={first_stage}", *settings)
            experiment.rerank(config.load("order.yaml", changes), folders[-1], Listener())
        return loading.load(folders, loading.Judgements(), (), Listener())

    return ordered
