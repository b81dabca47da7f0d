"""Real data: TREC DL 2019 and CACM, tiny models. Skipped where the shared folder is absent.

It is looked for at R2LLM_SHARED, or beside the checkout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections import defaultdict
from html.parser import HTMLParser
from math import log2
from pathlib import Path

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.compare.evaluate import Source, metrics_of
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import runfile
from r2llm.rerankers.errors import InputError

SHARED = Path(os.environ["R2LLM_SHARED"])
DL19 = SHARED / "data" / "dl19"
CACM = SHARED / "data" / "cacm"
MODELS = SHARED / "parity" / "models"
QRELS = DL19 / "qrels.dl19-passage.txt"
QUIET = Listener()

pytestmark = pytest.mark.shared


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_config(text: str) -> str:
    """A config over the DL19 candidates."""
    dataset = f"dataset: {{candidates: {DL19 / 'candidates.json'}, qrels: {QRELS}}}\n"
    Path("dl19.yaml").write_text(dataset + text)
    return "dl19.yaml"


def candidates() -> dict[str, list[str]]:
    items = json.loads((DL19 / "candidates.json").read_text(encoding="utf-8"))
    return {str(item["hits"][0]["qid"]): [str(hit["docid"]) for hit in item["hits"]] for item in items}


def grades() -> dict[str, dict[str, int]]:
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for line in QRELS.read_text().splitlines():
        query, _, doc, grade = line.split()
        found[query][doc] = int(grade)
    return found


def ndcg_at_10(ranking: list[str], judged: dict[str, int]) -> float:
    """Linear gains, as trec_eval has them; worked out here so that nothing is checked against itself."""

    def gain(found: list[int]) -> float:
        return sum(max(grade, 0) / log2(rank + 1) for rank, grade in enumerate(found[:10], 1))

    return gain([judged.get(doc, 0) for doc in ranking]) / gain(sorted(judged.values(), reverse=True))


# Evaluation


def test_bm25_on_dl19_has_its_published_figure() -> None:
    metrics = metrics_of(Source(qrels=QRELS), DL19 / "bm25.trec", ["nDCG@10"], QUIET)
    assert len(metrics.per_query) == 43
    assert metrics.mean["nDCG@10"] == pytest.approx(0.5058, abs=5e-5)
    expected = {query: ndcg_at_10(docs, grades()[query]) for query, docs in candidates().items()}
    assert {q: values["nDCG@10"] for q, values in metrics.per_query.items()} == pytest.approx(expected, abs=1e-9)


def test_the_candidates_file_has_the_same_first_stage() -> None:
    outcome = experiment.retrieve_only(config.load(write_config("")), None, QUIET)
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == pytest.approx(0.5058, abs=5e-5)
    assert outcome.queries == 43
    expected, _ = runfile.read(DL19 / "bm25.trec")
    written, _ = runfile.read(outcome.run_file)
    assert {q: {doc for doc, _ in found} for q, found in written.items()} == {
        q: {doc for doc, _ in found} for q, found in expected.items()
    }


def test_a_recorded_run_has_its_figure() -> None:
    run = SHARED / "data" / "runs" / "dl19_setwise_gpt4omini.trec"
    metrics = metrics_of(Source(qrels=QRELS), run, ["nDCG@10"], QUIET)
    assert metrics.mean["nDCG@10"] == pytest.approx(0.7545, abs=5e-5)


def test_a_run_that_lost_documents_cannot_be_written() -> None:
    lost, _ = runfile.read(SHARED / "data" / "runs" / "dl19_batchwise_lost_documents.trec")
    rankings = {query: [doc for doc, _ in found] for query, found in lost.items()}
    given = {query: docs for query, docs in candidates().items() if query in rankings}
    with pytest.raises(InputError, match=r"query \d+: candidate \d+ is lost from the ranking"):
        runfile.write(Path("run.trec"), rankings, given, "t")
    assert not Path("run.trec").exists()


# Reranking


@pytest.mark.parametrize("method", ["setwise.heapsort", "pointwise.yes_no"])
def test_an_oracle_reaches_what_the_candidates_allow(method: str) -> None:
    text = f"ranker: {{method: {method}}}\nmodel: {{backend: simulated, answers: oracle}}\n"
    outcome = experiment.rerank(config.load(write_config(text)), None, QUIET)
    assert outcome.metrics is not None
    found = {query: values["nDCG@10"] for query, values in outcome.metrics.per_query.items()}
    ideal = {}
    for query, docs in candidates().items():
        judged = grades()[query]
        ideal[query] = ndcg_at_10(sorted(docs, key=lambda doc: -judged.get(doc, 0)), judged)
    assert found == pytest.approx(ideal, abs=1e-9)
    assert outcome.metrics.mean["nDCG@10"] > 0.8


@pytest.mark.parametrize("model", ["tiny-t5", "tiny-llama"])
@pytest.mark.parametrize(
    "ranker",
    [
        "{method: setwise.heapsort, k: 5}",
        "{method: setwise.heapsort, k: 5, scoring: generation, num_child: 4}",
        "{method: setwise.bubblesort, k: 2, num_child: 9}",
        "{method: pointwise.yes_no}",
    ],
)
def test_real_models_permute_the_candidates(model: str, ranker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for models this small, threads only wait for each other
    text = f"queries: {{limit: 5}}\nfirst_stage: {{depth: 30}}\nranker: {ranker}\n"
    text += f"model: {{backend: transformers, name: {MODELS / model}, dtype: float32, device: cpu}}\n"
    try:
        outcome = experiment.rerank(config.load(write_config(text)), None, QUIET)
    finally:
        torch.set_num_threads(threads)
    run, warnings = runfile.read(outcome.run_file)
    assert warnings == []
    given = {query: docs[:30] for query, docs in list(candidates().items())[:5]}
    assert {query: sorted(doc for doc, _ in found) for query, found in run.items()} == {
        query: sorted(docs) for query, docs in given.items()
    }
    assert (outcome.queries, outcome.manifest.simulated) == (5, False)
    assert outcome.costs["prompt_tokens"]["total"]
    assert outcome.costs["seconds"]["mean"] is None or outcome.costs["seconds"]["mean"] > 0


# A whole collection, from documents to figures


class _Page(HTMLParser):
    """The text of a CACM page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.feed(page)
        self.close()

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def test_cacm_from_documents_to_published_figures() -> None:
    """Anserini's BM25 has P@30 0.1942 and AP 0.3123 there."""
    with tarfile.open(CACM / "cacm.tar.gz") as archive, Path("docs.jsonl").open("w") as docs:
        for member in archive.getmembers():
            page = archive.extractfile(member)
            if page is not None:
                text = " ".join(_Page(page.read().decode("utf-8", "replace")).parts)
                docs.write(json.dumps({"_id": Path(member.name).stem, "text": text}) + "\n")
    topics = (CACM / "topics.cacm.txt").read_text(encoding="utf-8")
    found = re.findall(r"<DOCNO>\s*(\d+)\s*</DOCNO>(.*?)</DOC>", topics, re.DOTALL)
    with Path("queries.jsonl").open("w") as queries:
        queries.writelines(json.dumps({"_id": number, "text": text}) + "\n" for number, text in found)
    shutil.copy(CACM / "qrels.cacm.txt", "qrels.txt")
    Path("cacm.yaml").write_text(
        "dataset: {docs: docs.jsonl, queries: queries.jsonl, qrels: qrels.txt}\n"
        "first_stage: {bm25: {index: build}, depth: 1000}\n"
        "evaluate: {measures: [P@30, AP]}\n"
    )
    outcome = experiment.retrieve_only(config.load("cacm.yaml"), None, QUIET)
    assert outcome.metrics is not None
    assert outcome.metrics.mean == pytest.approx({"P@30": 0.1942, "AP": 0.3123}, abs=5e-5)
    again = metrics_of(Source(config="cacm.yaml"), outcome.run_file, ["P@30"], QUIET)
    assert again.mean["P@30"] == outcome.metrics.mean["P@30"]
