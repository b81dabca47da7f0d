"""PyTerrier's own experiment over two rerankers has the means that `compare` has."""

import json
from pathlib import Path

import pytest
import r2llm
from r2llm.pipeline.configs.load import SHIPPED
from r2llm.pipeline.datasets import read_qrels

pytestmark = pytest.mark.slow

RANKERS = [{"method": "setwise.heapsort", "k": 10}, {"method": "pointwise.yes_no"}]
MODEL = {"backend": "simulated", "answers": "noisy", "noise": 0.1}


def test_an_experiment_of_pyterrier_has_the_means_of_compare(tmp_path: Path) -> None:
    pt = pytest.importorskip("pyterrier")
    import pandas as pd
    from ir_measures import AP, nDCG
    from r2llm.pyterrier import Reranker

    runs = [
        r2llm.run(
            "quickstart.yaml",
            [f"ranker={json.dumps(ranker)}", f"name={ranker['method']}", "evaluate.measures=[nDCG@10, AP]"],
            output=tmp_path / ranker["method"],
            quiet=True,
        )
        for ranker in RANKERS
    ]
    compared = r2llm.compare(runs)

    passages = map(json.loads, (SHIPPED / "quickstart" / "corpus.jsonl").read_text(encoding="utf-8").splitlines())
    texts = pd.DataFrame([{"docno": one["_id"], "text": f"{one['title']} {one['text']}"} for one in passages])
    queries = map(json.loads, (SHIPPED / "quickstart" / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    topics = pd.DataFrame([{"qid": one["_id"], "query": one["text"]} for one in queries])
    grades = read_qrels(SHIPPED / "quickstart" / "qrels" / "test.tsv")
    judged = [(qid, doc, grade) for qid, docs in grades.items() for doc, grade in docs.items()]
    qrels = pd.DataFrame(judged, columns=["qid", "docno", "label"])

    first_stage = pd.read_csv(
        runs[0].run_dir / "first_stage.trec", sep=" ", header=None, names=["qid", "Q0", "docno", "rank", "score", "tag"]
    )[["qid", "docno", "score", "rank"]]
    model = r2llm.open_model(MODEL, grades=grades)
    rerankers = [Reranker(ranker, model, ledger=tmp_path / f"{n}.sqlite") for n, ranker in enumerate(RANKERS)]
    candidates = first_stage.merge(topics, on="qid").merge(texts, on="docno")
    bm25 = pt.Transformer.from_df(candidates)
    found = pt.Experiment([bm25 >> one for one in rerankers], topics, qrels, [nDCG @ 10, AP], filter_by_qrels=True)
    assert found[["nDCG@10", "AP"]].to_numpy() == pytest.approx(compared.means[["nDCG@10", "AP"]].to_numpy(), abs=1e-12)

    for one, run in zip(rerankers, runs, strict=True):
        assert one.costs["asks"].to_dict() == run.query_costs()["asks"].to_dict()
    again = Reranker(RANKERS[0], model, ledger=tmp_path / "0.sqlite")
    assert (bm25 >> again)(topics).equals((bm25 >> rerankers[0])(topics))
    assert again.costs["calls"].sum() == 0


def test_a_frame_without_texts_is_refused() -> None:
    pt = pytest.importorskip("pyterrier")
    import pandas as pd
    from r2llm.pyterrier import Reranker

    frame = pd.DataFrame([{"qid": "1", "query": "q", "docno": "d", "score": 1.0, "rank": 0}])
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        Reranker(RANKERS[0], MODEL)(frame)
