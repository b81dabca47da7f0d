"""RankLLM 0.26.0: its templates, how it fits passages into a context, how it reads orders, and its duoT5."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from r2llm.pipeline.configs import load as configs
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.api import open_model
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Answer, Ask, Candidates, Doc, Query, permute

QUERY = "who [1] owns the host\u00e2\u20ac\u2122s \u201cmoon\u201d?"
TEXTS = ["between 70\u00c2\u00b0 and  90\u00c2\u00b0,\nsee [2] {braces} ", "moon " * 350, "short"]

TEMPLATES = {
    "rank_zephyr": "rank_zephyr_template",
    "first": "rank_zephyr_alpha_template",
    "lrl": "rank_lrl_template",
    "insertrank": "insert_rank_template",
    "reasonrank/blank=rank_llm": "reasonrank_template",
    "rank_llm_steps": "qwen_non_thinking_template",
    "rank_llm_steps/switch=none/steps=reasoned": "qwen_thinking_template",
    "rank_llm_steps/indent=three": "nemotron_non_thinking_template",
    "rank_llm_steps/switch=think/steps=reasoned/indent=three": "nemotron_thinking_template",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def rank_llm(authors: Callable[[str, str], Any]) -> Callable[[str], Any]:
    """Import a module of it."""
    return lambda module: authors("rank-llm", f"rank_llm.{module}")


@pytest.fixture
def result(rank_llm: Callable[[str], Any]) -> Callable[..., Any]:
    """A query with passages, in its words."""

    def make(texts: list[str], query: str = QUERY) -> Any:
        data = rank_llm("data")
        candidates = [data.Candidate(f"d{i}", 3.0 - i, {"contents": text}) for i, text in enumerate(texts)]
        return data.Result(data.Query(query, "q"), candidates, [])

    return make


@pytest.fixture
def handler(rank_llm: Callable[[str], Any]) -> Callable[[str], Any]:
    """What writes prompts by one of its templates."""

    def make(template: str) -> Any:
        content = yaml.safe_load((files("rank_llm.rerank.prompt_templates") / f"{template}.yaml").read_text())
        single = rank_llm("rerank.listwise.singleturn_listwise_inference_handler")
        return single.SingleTurnListwiseInferenceHandler(content)

    rank_llm("rerank.prompt_templates")
    return make


def test_lit5s_passages_are_its_template(rank_llm, result) -> None:
    rank_llm("rerank.prompt_templates")
    content = yaml.safe_load((files("rank_llm.rerank.prompt_templates") / "rank_fid_template.yaml").read_text())
    theirs = rank_llm("rerank.listwise.rankfid_inference_handler").RankFIDInferenceHandler(content)
    texts = ["between 70 and 90, see {braces}", "moon", "short"]
    shown = theirs.generate_prompt(result(texts, "which moon?"), rank_start=0, rank_end=3, max_tokens=150)
    ours = prompts.load("lit5_distill").render(permute(["d0", "d1", "d2"]), "which moon?", texts, "encoder_decoder")
    assert [turn.content for turn in ours] == [prompt["text"] for prompt in shown]


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_its_templates(name: str, handler, result) -> None:
    prompt = prompts.load(name)
    theirs = handler(TEMPLATES[name]).generate_prompt(
        result(TEXTS), rank_start=0, rank_end=3, max_length=prompt.words or 10_000, use_alpha=name == "first"
    )
    signals = ("3.000", "2.000", "1.000") if name == "insertrank" else ()
    texts = [prompts.mended(text) for text in TEXTS]
    if prompt.words is None:  # by tokens, with the white space as it is
        texts = [" ".join(text.split()) for text in texts]
    # Its query is mended where the whole prompt is.
    turns = prompt.render(Ask("permute", ("d0", "d1", "d2"), signals=signals), QUERY, texts)
    assert [(turn.role, turn.content) for turn in turns] == [(turn["role"], turn["content"]) for turn in theirs]


@pytest.mark.parametrize("context", [4096, 1200, 700])
def test_passages_are_shrunk_as_it_does(context: int, tiny_llama: Path, rank_llm, handler, result) -> None:
    module = rank_llm("rerank.listwise.rank_listwise_os_llm")
    backend = open_model({"backend": "transformers", "name": str(tiny_llama), "device": "cpu"})
    texts = ["the old moon of the red planet " * 60, "a planet and its passage " * 20, "it is red"] * 2
    theirs = module.RankListwiseOSLLM.__new__(module.RankListwiseOSLLM)
    theirs._inference_handler, theirs._tokenizer = handler("rank_zephyr_template"), backend.tokens.tokenizer
    theirs._max_passage_words, theirs._context_size, theirs._window_size = 300, context, 6
    theirs._use_alpha = theirs._is_thinking = theirs._base_url = theirs._output_token_estimate = None
    theirs._num_few_shot_examples, theirs._examples = 0, []
    text, _ = theirs.create_prompt(result(texts, "red moon"), 0, 6)

    ranker = Ranker.create(
        {"method": "listwise.sliding", "prompt": "rank_zephyr", "context_tokens": context, "passage_tokens": None}
    )
    docs = tuple(Doc(f"d{i}", text) for i, text in enumerate(texts))
    requests = Requests(ranker, backend, Candidates(Query("q", "red moon"), docs, (0.0,) * 6))
    ours, _ = backend.tokens.prompt(requests.request(permute([doc.id for doc in docs])))
    assert re.sub(r"Date: .*?<", "<", ours) == re.sub(r"Date: .*?<", "<", text)  # today's is left out of ours
    assert (text.count("planet") < 124) == (context < 4096)


@pytest.mark.parametrize("system", ["rankzephyr", "rankvicuna", "rankllm-qwen3-8b", "lrl-qwen2.5-7b"])
def test_orders_are_read_as_it_does(system: str, rank_llm, result) -> None:
    module = rank_llm("rerank.listwise.listwise_rankllm")
    [ranker] = configs.load(f"systems/{system}", ["dataset=quickstart"]).rankers
    backend = SimpleNamespace(simulated=False, architecture="decoder_only")
    theirs = SimpleNamespace(_use_alpha=False, _remove_duplicate=lambda found: list(dict.fromkeys(found)))
    ask, chance, agree = permute([f"d{i}" for i in range(5)]), random.Random(0), 0
    pieces = [
        "[1]",
        "[2]",
        "[3] > [5]",
        "4",
        "[9]",
        "[\u00b2]",
        "\u2463",
        "\uff13",
        " > ",
        ", ",
        "PASSAGE3",
        "</think>",
        "x",
    ]
    for _ in range(300):
        text = " ".join(chance.choices(pieces, k=chance.randint(0, 7)))
        theirs_ranked = module.ListwiseRankLLM.receive_permutation(theirs, result(["t"] * 5), text, 0, 5)
        order = tuple(int(candidate.docid[1:]) for candidate in theirs_ranked.candidates)
        answer = ranker.read(ask, Reply(text), backend)  # type: ignore[arg-type]
        assert answer.order == order, text
        agree += order != (0, 1, 2, 3, 4)
    assert agree > 200


def test_duot5_sums_as_it_does(t5: Path, rank_llm, result) -> None:
    module, data = rank_llm("rerank.pairwise.duot5"), rank_llm("data")
    theirs = module.DuoT5(str(t5), device="cpu", batch_size=1)
    texts = ["the red planet", "old moons", "it is red", "a passage"]
    asked = result(texts, "red moon")
    [ranked] = theirs.rerank_batch([data.Request(asked.query, asked.candidates)])
    expected = {candidate.docid: candidate.score for candidate in ranked.candidates}

    settings = ["dataset=quickstart", "ranker.pairs=once", f"model.name={t5}", "model.device=cpu"]
    loaded = configs.load("systems/duot5-base", settings)
    [ranker], [stage] = loaded.rankers, loaded.stages
    backend = open_model(stage.model or {})
    candidates = Candidates(
        Query("q", "red moon"), tuple(Doc(f"d{i}", text) for i, text in enumerate(texts)), (3.0, 2.0, 1.0, 0.0)
    )
    requests, steps = Requests(ranker, backend, candidates), ranker.steps(candidates)
    asks = next(steps)
    backend.submit([requests.request(ask) for ask in asks])
    answers: dict[Ask, Answer] = {}
    while len(answers) < len(asks):
        answers |= {request.ask: ranker.read(request.ask, reply, backend) for request, reply in backend.collect()}
    with pytest.raises(StopIteration) as stopped:
        steps.send([answers[ask] for ask in asks])
    ranking = stopped.value.value
    assert dict(zip(ranking.docs, ranking.scores, strict=True)) == pytest.approx(expected, abs=1e-5)
