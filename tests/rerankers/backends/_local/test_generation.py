"""Generated text: what a prompt gets depends on it and the seed, not on the batch; stop texts end it."""

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
import transformers as library
from r2llm.rerankers.answers.reading import Reading, Reply, read
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends._local.generation import drawn
from r2llm.rerankers.backends.base import Request, Setting
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import permute, score

PASSAGES = [f"{'the red moon ' * (i % 4)}is planet number {i}" for i in range(8)]


def opened(folder: Path, *, seed: int = 0, **options):
    return backend_module.open(backend_module.Options(name=str(folder), device="cpu", **options), Setting(seed))


PROMPT = """
source: here
asks: [permute]
labels: numbers
messages: [{role: user, content: "{query} {passages}"}]
passage: "[{label}] {text}"
answer:
  prefix: {encoder_decoder: "Passage"}
  max_new_tokens: {encoder_decoder: ideal, decoder_only: ideal}
"""


@pytest.fixture
def posed(make_candidates, tmp_path: Path):
    """Requests for orders of 1 to 8 passages, written with as many tokens as told, or as they need."""

    def pose(backend, **options) -> list[Request]:
        candidates = make_candidates(PASSAGES, query="moons of a red planet")
        prompt = tmp_path / "order.yaml"
        prompt.write_text(PROMPT)
        ranker = Ranker.create({"method": "listwise.full", "prompt": str(prompt), "scoring": "generation"} | options)
        requests = Requests(ranker, backend, candidates)
        return [requests.request(permute(candidates.ids[:size])) for size in range(1, 9)]

    return pose


def answered(backend, requests: list[Request]) -> list[Reply]:
    backend.submit(requests)
    replies: dict[bytes, Reply] = {}
    while len(replies) < len(requests):
        replies |= {request.key: reply for request, reply in backend.collect()}
    backend.close()
    return [replies[request.key] for request in requests]


def calls(backend, monkeypatch) -> list[int]:
    """How many rows each call of `generate` has, from now on."""
    rows, generate = [], backend.passes.model.generate

    def counted(**given):
        rows.append(len(given["input_ids"]))
        return generate(**given)

    monkeypatch.setattr(backend.passes.model, "generate", counted)
    return rows


# Batches


def test_a_batch_writes_what_each_prompt_alone_does(folder: Path, posed, monkeypatch) -> None:
    alone, together = opened(folder), opened(folder, exact=False, batch_size=8)
    rows = calls(together, monkeypatch)
    replies = answered(together, posed(together))
    assert replies == answered(alone, posed(alone))
    lengths = [reply.completion_tokens for reply in replies]
    assert len(set(lengths)) > 3
    assert rows == [8]


def test_an_answer_is_no_longer_than_it_may_be(folder: Path, posed) -> None:
    backend = opened(folder, exact=False, batch_size=8)
    long, short = (answered(opened(folder), posed(backend, max_new_tokens=most)) for most in (6, 3))
    assert {reply.completion_tokens for reply in short} <= {1, 2, 3}
    assert max(reply.completion_tokens for reply in long) > 3
    assert all(one.text.startswith(other.text) for one, other in zip(long, short, strict=True))


# Stop texts


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(folder: Path, posed) -> None:
    backend = opened(folder)
    whole = answered(backend, posed(backend, max_new_tokens=12))
    stop = next(reply.text for reply in whole if len(reply.text) > 8)[4:7]
    for exact in (True, False):
        backend = opened(folder, exact=exact)
        stopped = answered(backend, posed(backend, max_new_tokens=12, stop=[stop, "never written"]))
        assert [reply.text for reply in stopped] == [reply.text.partition(stop)[0] for reply in whole]
        for one, other in zip(stopped, whole, strict=True):
            assert one.completion_tokens <= other.completion_tokens
            assert stop in other.text or one.completion_tokens == other.completion_tokens
    assert sum(one.completion_tokens < other.completion_tokens for one, other in zip(stopped, whole, strict=True))


def test_the_tokens_of_a_stop_text_count_as_generated(tiny_llama: Path, posed) -> None:
    backend = opened(tiny_llama)
    [whole] = answered(backend, posed(backend, max_new_tokens=12)[-1:])
    backend = opened(tiny_llama)
    tokens = backend.tokens.tokenizer(whole.text, add_special_tokens=False)["input_ids"]
    stop = backend.tokens.tokenizer.decode(tokens[:1])
    assert stop
    [reply] = answered(backend, posed(backend, max_new_tokens=12, stop=stop)[-1:])
    assert (reply.text, reply.completion_tokens) == ("", 1)


def test_a_prompt_says_where_its_answers_stop_and_the_ranker_may_say_otherwise(tmp_path: Path) -> None:
    prompt = tmp_path / "stopped.yaml"
    prompt.write_text(
        "source: here\nasks: [permute]\nlabels: numbers\n"
        "messages: [{role: user, content: '{query} {passages}'}]\nanswer: {stop: [\"\\n\", '###']}\n"
    )

    def stops(**options) -> tuple[str, ...]:
        ranker = Ranker.create({"method": "listwise.full", "prompt": str(prompt), "scoring": "generation"} | options)
        return ranker.settings(permute(["a"]), 0, "decoder_only").decoding.stop

    assert stops() == ("\n", "###")
    assert stops(stop=["end"]) == stops(stop="end") == ("end",)
    assert stops(stop=[]) == ()
    prompt.write_text(prompt.read_text().replace("'###'", "''"))
    with pytest.raises(InputError, match=r"stopped\.yaml: answer\.stop\.1: String should have at least 1 character"):
        stops()


def test_what_has_no_stop_text_is_known_as_before_there_were_any(tiny_llama: Path, posed) -> None:
    prompt = prompts.load("rankgpt")
    assert "stop" not in prompt.model_dump_json(exclude_defaults=True)
    stopped = prompt.model_copy(update={"answer": prompt.answer.model_copy(update={"stop": ("x",)})})
    assert stopped.digest != prompt.digest
    backend = opened(tiny_llama)
    keys = [[request.key for request in posed(backend, **more)] for more in ({}, {"stop": []}, {"stop": ["x"]})]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


# Chance


def test_sampled_answers_in_a_batch_do_not_disturb_each_other(folder: Path, posed) -> None:
    def sampled(requests_of, **options) -> list[Reply]:
        backend = opened(folder, **options)
        return answered(backend, requests_of(posed(backend, temperature=1.0, max_new_tokens=8)))

    alone = sampled(list)
    assert len({reply.text for reply in alone}) > 4
    assert sampled(list, exact=False, batch_size=8) == alone
    assert sampled(lambda requests: requests[::-2], exact=False, batch_size=3) == alone[::-2]
    assert sampled(list, seed=1) != alone


def test_a_greedy_answer_has_no_part_in_chance(folder: Path, posed) -> None:
    first, other = (opened(folder, seed=seed) for seed in (0, 1))
    short = {"max_new_tokens": 12}
    assert answered(first, posed(first, **short)) == answered(other, posed(other, **short))


def test_tokens_are_drawn_by_their_probabilities() -> None:
    import torch

    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3])
    dice = random.Random(5)
    chances = [dice.random() for _ in range(20_000)]
    rows = probabilities.log().expand(len(chances), -1)

    def shares(top_p: float, top_k: int | None = None) -> list[float]:
        return (drawn(rows, top_p, chances, top_k).bincount(minlength=5) / len(chances)).tolist()

    assert shares(1.0) == pytest.approx(probabilities.tolist(), abs=0.02)
    assert shares(0.5) == pytest.approx([0, 0, 0.4 / 0.7, 0, 0.3 / 0.7], abs=0.02)
    assert shares(0.3) == [0, 0, 1, 0, 0]
    assert shares(1.0, 2) == pytest.approx([0, 0, 0.4 / 0.7, 0, 0.3 / 0.7], abs=0.02)
    assert shares(1.0, 9) == shares(1.0)
    for top_p in (1.0, 0.5):
        ends = drawn(rows[:2], top_p, [0.0, 1.0]).tolist()
        assert all(probabilities[token] > 0 for token in ends)


# Thoughts


def test_a_thought_that_the_chat_template_begins_and_no_token_ends_is_no_answer(
    tiny_llama: Path, tmp_path: Path, posed
) -> None:
    template = tmp_path / "thinks.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}\n{% endfor %}<think>\n")
    backend = opened(tiny_llama, chat_template=str(template))
    requests = posed(backend, max_new_tokens=3)
    ranker = Ranker.create({"method": "listwise.full"})
    for request, reply in zip(requests, answered(backend, requests), strict=True):
        assert reply.text is not None
        assert reply.text.startswith("<think>")
        assert ranker.read(request.ask, reply, backend).form == "unfinished_thought"


# The model's own settings


def test_a_models_settings_change_no_answer_but_with_compat(copied: Path, posed) -> None:
    def texts(**options) -> list[str | None]:
        backend = opened(copied)
        return [reply.text for reply in answered(backend, posed(backend, max_new_tokens=12, **options))]

    plain, compat = texts(), texts(compat="llm-rankers")
    path = copied / "generation_config.json"
    settings = {"repetition_penalty": 50.0, "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.8}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings | {"num_beams": 2}))
    assert texts() == plain
    assert texts(compat="llm-rankers") != compat


def test_scores_that_are_no_numbers_are_the_models_failure(copied: Path, posed) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    weights["lm_head.weight" if "lm_head.weight" in weights else "shared.weight"].fill_(float("nan"))
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    backend = opened(copied)
    backend.submit(posed(backend)[:1])
    with pytest.raises(BackendError, match=r"^query q1: the model's scores are not numbers; use dtype: bfloat16 or"):
        backend.collect()
    backend.close()


# Probabilities within a text


def by_hand(folder: Path, ids: list[int], length: int) -> tuple[list[int], torch.Tensor]:
    """The tokens that a model writes behind some, the likeliest each time, and all tokens' log-probabilities there."""
    model = library.AutoModelForCausalLM.from_pretrained(folder).eval()
    written: list[int] = []
    with torch.no_grad():
        for _ in range(length):
            rows = model(torch.tensor([[*ids, *written]])).logits[0].double().log_softmax(-1)
            written.append(int(rows[-1].argmax()))
        return written, rows[len(ids) - 1 :]


def pose_within(backend, make_candidates, path: Path, answer: str, labels: str, tokens: str = "{}") -> Request:
    path.write_text(
        f"source: here\nasks: [score]\nmessages: [{{role: user, content: '{{query}} {{passages}} <think>'}}]\n"
        f"labels: {labels}\ntokens: {tokens}\nanswer: {answer}\n"
    )
    scoring = "generation" if "written" in answer else "likelihood"
    ranker = Ranker.create({"method": "pointwise.yes_no", "prompt": str(path), "scoring": scoring})
    candidates = make_candidates(["the red moon"], query="moons")
    return Requests(ranker, backend, candidates).request(score(candidates.ids[0]))


def test_labels_are_scored_at_a_texts_last_token_or_after_its_closing(tiny_llama, make_candidates, tmp_path) -> None:
    """As orionw/rank1 at 30585c2 has it, for labels among the twenty likeliest tokens and for others."""
    form = "{scored: after_thought, closing: '\\n{thought}\\n</think>', max_new_tokens: {decoder_only: 9}}"
    form = form.replace("'", '"')
    backend = opened(tiny_llama, chat_template="none")
    plain = pose_within(backend, make_candidates, tmp_path / "a.yaml", form, "{yes: 1.0, no: 0.0}", "{yes: 1, no: 2}")
    text, ids = backend.tokens.prompt(plain)
    written, rows = by_hand(tiny_llama, ids, 9)
    likeliest = rows[-1].argsort(descending=True).tolist()
    for first, second, listed in ((likeliest[0], likeliest[19], True), (likeliest[0], likeliest[20], False)):
        tokens = f"{{yes: {first}, no: {second}}}"
        request = pose_within(backend, make_candidates, tmp_path / "b.yaml", form, "{yes: 1.0, no: 0.0}", tokens)
        [reply] = answered(opened(tiny_llama, chat_template="none"), [request])
        expected = rows[-1]
        thought = backend.tokens.tokenizer.decode(written, skip_special_tokens=True)
        assert reply.text == f"<think>{thought}"
        if not listed:
            end = max(thought.rstrip().rfind(mark) for mark in ".!?") + 1
            closed = f"{text}\n{thought[: end or None].strip()}\n</think>"
            _, [expected] = by_hand(tiny_llama, backend.tokens.tokenizer(closed)["input_ids"], 1)
        assert reply.scores == pytest.approx((float(expected[first]), float(expected[second])), abs=1e-5)
        assert (reply.prompt_tokens, reply.completion_tokens) == (len(ids), 9)
        answer = read(request.ask, request.prompt, reply, Reading())
        odds = math.exp(reply.scores[0] - reply.scores[1])
        assert answer.scores == pytest.approx((odds / (1 + odds),))


def test_a_written_label_counts_by_the_probability_of_its_tokens(tiny_llama, make_candidates, tmp_path) -> None:
    """s · Pr(s) of ERank, arXiv:2509.00520, of one token or several."""
    backend = opened(tiny_llama, chat_template="none")
    plain = pose_within(
        backend, make_candidates, tmp_path / "a.yaml", "{max_new_tokens: {decoder_only: 9}}", "{a: 1, b: 0}"
    )
    _, ids = backend.tokens.prompt(plain)
    written, rows = by_hand(tiny_llama, ids, 9)
    decode = backend.tokens.tokenizer.decode
    for first, last in ((2, 3), (2, 5)):
        before, label = decode(written[:first]), decode(written[:last])[len(decode(written[:first])) :]
        pattern = f"(?s){re.escape(before)}({re.escape(label)})"
        answer = f"{{scored: written, pattern: {json.dumps(pattern)}, max_new_tokens: {{decoder_only: 9}}}}"
        labels = f"{{{json.dumps(label.strip())}: 7.0, other: 0.0}}"
        request = pose_within(backend, make_candidates, tmp_path / "b.yaml", answer, labels)
        [reply] = answered(opened(tiny_llama, chat_template="none"), [request])
        total = sum(float(rows[i][written[i]]) for i in range(first, last))
        assert reply.scores == pytest.approx((total,), abs=1e-5)
        rated = read(request.ask, request.prompt, reply, Reading("whole", pattern=pattern))
        assert rated.scores == pytest.approx((7 * math.exp(total),), rel=1e-5)
        assert read(request.ask, request.prompt, Reply("no grade"), Reading("whole", pattern=pattern)).scores == (0.0,)


def test_what_cannot_score_within_texts_says_so(tiny_t5, make_candidates, tmp_path) -> None:
    backend = opened(tiny_t5)
    with pytest.raises(InputError, match="needs log-probabilities within a generated text; use a decoder-only model"):
        pose_within(backend, make_candidates, tmp_path / "a.yaml", "{scored: written, pattern: '(.)'}", "{a: 1, b: 0}")
    with pytest.raises(InputError, match=r"written needs answer\.pattern"):
        pose_within(backend, make_candidates, tmp_path / "a.yaml", "{scored: written}", "{a: 1, b: 0}")
