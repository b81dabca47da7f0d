"""Recorded answers of real models, read: two runs on TREC DL 2019 replayed, and 1,869 answers of bad form.

The data lies beside the repository or where R2LLM_SHARED says; without it, these are skipped.
"""

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.compare.evaluate import Source, metrics_of
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.io.progress import Listener
from r2llm.pipeline.run import runfile
from r2llm.rerankers.answers.orders import read_order
from r2llm.rerankers.answers.reading import Reading, Reply, read
from r2llm.rerankers.prompts.template import mended
from r2llm.rerankers.types import Answer, Candidates, Doc, Query

SHARED = Path(os.environ["R2LLM_SHARED"])
DL19 = SHARED / "data" / "dl19"
RECORDED = SHARED / "data" / "recorded"
LABELS = tuple(str(i) for i in range(1, 21))
WINDOWS = 9
"""Windows of 20 in steps of 10 over 100 documents."""

pytestmark = pytest.mark.shared

RUNS = pytest.mark.parametrize(
    ("run", "figure", "forms"),
    [
        ("rankvicuna_dl19", 0.6682, {"chain": 387}),
        ("vicuna_checkpoint800_dl19", 0.6675, {"chain": 384, "mixed_chain": 3}),
    ],
)


def recorded(run: str) -> list[dict[str, str]]:
    """The prompts and responses of a run, as they came: nine for each query, in the candidates' order."""
    text = (RECORDED / f"{run}.json").read_text(encoding="utf-8")
    items: list[dict[str, str]] = json.loads(f"[{text.strip().rstrip(',')}]")
    return items


def malformed() -> list[dict[str, Any]]:
    lines = (RECORDED / "malformed_responses.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def documents(run: Path) -> dict[str, list[str]]:
    """A run's documents by query, best first."""
    found, _ = runfile.read(run)
    return {query: [doc for doc, _ in docs] for query, docs in found.items()}


@RUNS
@pytest.mark.parametrize("rule", ["digits", "strict"])
def test_replayed_answers_give_the_published_run_and_its_figure(
    run: str, figure: float, forms: dict[str, int], rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    candidates = json.loads((DL19 / "candidates.json").read_text(encoding="utf-8"))
    items = recorded(run)
    assert len(items) == WINDOWS * len(candidates) == 387
    with Path("answers.jsonl").open("w", encoding="utf-8") as answers:
        for number, item in enumerate(items):
            query = candidates[number // WINDOWS]
            assert f"search query: {query['query']}." in item["prompt"]
            answers.write(json.dumps({"query_id": str(query["hits"][0]["qid"]), "text": item["response"]}) + "\n")
    qrels = DL19 / "qrels.dl19-passage.txt"
    Path("replay.yaml").write_text(
        f"dataset: {{candidates: {DL19 / 'candidates.json'}, qrels: {qrels}}}\n"
        f"ranker: {{method: listwise.sliding, window: 20, stride: 10, parse: {rule}}}\n"
        "model: {backend: replay, answers: answers.jsonl}\n"
    )
    outcome = experiment.rerank(config.load("replay.yaml"), None, Listener())
    published = documents(RECORDED / f"{run}.trec")
    assert len(published) == 43
    assert documents(outcome.run_file) == published
    assert outcome.costs["unparsed"]["total"] == 0
    assert outcome.metrics is not None
    assert outcome.metrics.mean["nDCG@10"] == pytest.approx(figure, abs=5e-5)
    of_published = metrics_of(Source(qrels=qrels), RECORDED / f"{run}.trec", ["nDCG@10"], Listener())
    assert of_published.mean["nDCG@10"] == pytest.approx(outcome.metrics.mean["nDCG@10"], abs=1e-12)


def test_our_prompts_of_rankvicuna_are_the_recorded_ones_frame_included() -> None:
    """Window by window. One document, in three windows, has a line separator of bad encoding: a blank in ours."""
    [ranker] = config.load("systems/rankvicuna", ["dataset=quickstart"]).rankers
    reading = Reading(order="digits", pattern=ranker.prompt.answer.pattern)
    items, equal = iter(recorded("rankvicuna_dl19")), 0
    for query in json.loads((DL19 / "candidates.json").read_text(encoding="utf-8")):
        docs = tuple(Doc(hit["docid"], hit["content"]) for hit in query["hits"])
        candidates = Candidates(Query("", query["query"]), docs, tuple(hit["score"] for hit in query["hits"]))
        texts = {doc.id: mended(doc.text) for doc in docs}
        steps, answers = ranker.steps(candidates), list[Answer]()
        for item in itertools.islice(items, WINDOWS):
            [ask] = steps.send(answers) if answers else next(steps)
            passages = [texts[doc] for doc in ask.docs]
            [shown] = ranker.prompt.render(ask, mended(query["query"]), passages, "encoder_decoder")
            assert shown.content.split() == item["prompt"].split()
            equal += shown.content == item["prompt"]
            answers = [read(ask, ranker.prompt, Reply(item["response"]), reading)]
    assert next(items, None) is None
    assert equal == 387 - 3


@RUNS
def test_strict_and_digits_agree_on_every_recorded_answer(run: str, figure: float, forms: dict[str, int]) -> None:
    found = [read_order(item["response"], LABELS) for item in recorded(run)]
    assert Counter(one.form for one in found) == forms
    digits = [read_order(item["response"], LABELS, "digits").value for item in recorded(run)]
    assert [one.value for one in found] == digits


def test_malformed_answers_by_form() -> None:
    """Each is read as an order or left unread, for what it is; by kind as recorded and by form as read."""
    items = malformed()
    distinct: Counter[tuple[str, str]] = Counter()
    times: Counter[tuple[str, str]] = Counter()
    for item in items:
        found = read_order(item["response"], LABELS)
        assert found.value is None or sorted(found.value) == list(range(20))
        assert (found.value is None) == (found.form == "prose")
        distinct[item["kind"], found.form] += 1
        times[item["kind"], found.form] += item["count"]
    assert (len(items), times.total()) == (1869, 3409)
    assert distinct == {
        ("missing", "chain"): 19,
        ("repetition", "chain"): 1041,
        ("wrong_format", "mixed_chain"): 767,
        ("wrong_format", "chain"): 19,
        ("wrong_format", "numbered_list"): 9,
        ("wrong_format", "list"): 1,
        ("wrong_format", "prose"): 13,
    }
    assert times == {
        ("missing", "chain"): 26,
        ("repetition", "chain"): 1055,
        ("wrong_format", "mixed_chain"): 774,
        ("wrong_format", "chain"): 372,
        ("wrong_format", "numbered_list"): 19,
        ("wrong_format", "list"): 1,
        ("wrong_format", "prose"): 1162,
    }


def test_what_digits_makes_of_malformed_answers_that_strict_does_not() -> None:
    """Numbers in prose, such as how many passages there are, and the numbers of a list's lines."""
    differing: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for item in malformed():
        found = read_order(item["response"], LABELS)
        if (found.value or tuple(range(20))) != read_order(item["response"], LABELS, "digits").value:
            differing[found.form] += 1
            times[found.form] += item["count"]
    assert differing == {"prose": 7, "chain": 7, "numbered_list": 7}
    assert times == {"prose": 767, "chain": 13, "numbered_list": 7}


def test_a_text_about_passages_ranks_none() -> None:
    about = [item for item in malformed() if " passages " in item["response"] and "[" not in item["response"]]
    assert (len(about), sum(item["count"] for item in about)) == (6, 766)
    assert {read_order(item["response"], LABELS).form for item in about} == {"prose"}
    assert {read_order(item["response"], LABELS, "digits").value != tuple(range(20)) for item in about} == {True}
