"""Generated text: what a prompt gets depends on it and the seed, not on the batch; stop texts end it."""

import json
import random
from pathlib import Path

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends._local.generation import drawn
from r2llm.rerankers.backends.base import Request, Setting
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import permute

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
    rows, generate = [], backend.model.generate

    def counted(**given):
        rows.append(len(given["input_ids"]))
        return generate(**given)

    monkeypatch.setattr(backend.model, "generate", counted)
    return rows


# Batches


def test_a_batch_writes_what_each_prompt_alone_does(folder: Path, posed, monkeypatch) -> None:
    alone, together = opened(folder), opened(folder, exact=False, batch_size=8)
    rows = calls(together, monkeypatch)
    replies = answered(together, posed(together))
    assert replies == answered(alone, posed(alone))
    lengths = [reply.completion_tokens for reply in replies]
    assert len(set(lengths)) > 3
    t5 = together.architecture == "encoder_decoder"
    assert rows == [8] if t5 else rows[0] == 8 and len(rows) > 1


def test_what_is_not_done_goes_on_without_what_is(tiny_llama: Path, posed, monkeypatch) -> None:
    backend = opened(tiny_llama, exact=False, batch_size=8)
    requests = posed(backend)
    lengths = [backend.tokens.answer_tokens(request) for request in requests]
    rows = calls(backend, monkeypatch)
    replies = answered(backend, requests)
    # None of these answers ends by itself, so that they end where they must: the shortest four first.
    assert [reply.completion_tokens for reply in replies] == lengths
    assert len(set(lengths)) == 8
    assert rows == [8, 4, 2, 1]


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
    assert answered(first, posed(first)) == answered(other, posed(other))


def test_tokens_are_drawn_by_their_probabilities() -> None:
    import torch

    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.2, 0.3])
    dice = random.Random(5)
    chances = [dice.random() for _ in range(20_000)]
    rows = probabilities.log().expand(len(chances), -1)

    def shares(top_p: float) -> list[float]:
        return (drawn(rows, top_p, chances).bincount(minlength=5) / len(chances)).tolist()

    assert shares(1.0) == pytest.approx(probabilities.tolist(), abs=0.02)
    assert shares(0.5) == pytest.approx([0, 0, 0.4 / 0.7, 0, 0.3 / 0.7], abs=0.02)
    assert shares(0.3) == [0, 0, 1, 0, 0]
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
