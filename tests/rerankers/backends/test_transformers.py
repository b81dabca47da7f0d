"""Models in this process: scores and texts equal plain forward passes, and what goes wrong is said in one line."""

import dataclasses
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends._local.passes import Prefixes
from r2llm.rerankers.backends._tokens.tokens import LEAST, Prepared, planned
from r2llm.rerankers.backends.base import Decoding, Request, RequestSettings, Setting
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Query, choose, score

PASSAGES = ["the red moon", "a planet", "which of the moons is it? " * 9, "Yes"]


def opened(folder: Path | str, *, seed: int = 0, **options):
    return backend_module.open(backend_module.Options(name=str(folder), device="cpu", **options), Setting(seed))


def answered(backend, requests: list[Request]) -> list[Reply]:
    """The replies to some requests, in their order."""
    backend.submit(requests)
    replies: dict[bytes, Reply] = {}
    while len(replies) < len({request.key for request in requests}):
        replies |= {request.key: reply for request, reply in backend.collect()}
    return [replies[request.key] for request in requests]


@pytest.fixture(scope="session")
def posed(make_candidates):
    """Requests about all windows of the candidates, of different lengths, or about each of them."""

    def pose(
        backend, method: str = "setwise.heapsort", passages=PASSAGES, attempt: int = 0, **options
    ) -> list[Request]:
        candidates = make_candidates(passages, query="moons of a red planet")
        requests = Requests(Ranker.create({"method": method} | options), backend, candidates)
        ids = candidates.ids
        asks = (
            [choose(ids[:2]), choose(ids[1:]), choose(ids[::-1])] if method != "pointwise.yes_no" else map(score, ids)
        )
        return [requests.request(ask, attempt) for ask in asks]

    return pose


# The same computation, written plainly


class Plain:
    """A model used as its documentation says, one prompt at a time."""

    def __init__(self, folder: Path) -> None:
        import transformers

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.config = transformers.AutoConfig.from_pretrained(folder)
        self.t5 = self.config.is_encoder_decoder
        kind = transformers.AutoModelForSeq2SeqLM if self.t5 else transformers.AutoModelForCausalLM
        self.model = kind.from_pretrained(folder).eval()

    def inputs(self, content: str, start: str):
        """The model's inputs, where `start` is what the answer is made to begin with."""
        import torch

        if self.t5:
            begin = self.tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
            return {
                "input_ids": torch.tensor([self.tokenizer(content)["input_ids"]]),
                "decoder_input_ids": torch.tensor([[self.config.decoder_start_token_id, *begin]]),
            }
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
            date_string="26 Jul 2024",
        )
        ids = self.tokenizer(chat + start, add_special_tokens=False)["input_ids"]
        return {"input_ids": torch.tensor([ids])}

    def scores(self, content: str, start: str, labels: list[str]) -> list[float]:
        import torch

        with torch.no_grad():
            logits = self.model(**self.inputs(content, start)).logits[0, -1].double()
        return torch.log_softmax(logits, -1)[self.tokenizer.convert_tokens_to_ids(labels)].tolist()

    def text(self, content: str, start: str, tokens: int) -> tuple[str, int]:
        """Greedily generated text after the start, and its number of tokens."""
        inputs = self.inputs(content, start)
        before = inputs["decoder_input_ids" if self.t5 else "input_ids"].shape[1]
        [output] = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return self.tokenizer.decode(output[before:], skip_special_tokens=True), len(output) - before


def setwise_content(passages: list[str]) -> str:
    shown = "\n\n".join(f'Passage {label}: "{text}"' for label, text in zip("ABCDEFGH", passages, strict=False))
    return (
        'Given a query "moons of a red planet", which of the following passages is the most relevant one to the query?'
        f"\n\n{shown}\n\nOutput only the passage label of the most relevant passage:"
    )


def yes_no_content(passage: str) -> str:
    return f"Passage: {passage}\nQuery: moons of a red planet\nDoes the passage answer the query? Answer 'Yes' or 'No'"


WINDOWS = [PASSAGES[:2], PASSAGES[1:], PASSAGES[::-1]]


def test_label_scores_are_those_of_a_plain_forward_pass(folder: Path, posed) -> None:
    plain = Plain(folder)
    blank = "▁" if plain.t5 else "Ġ"
    backend = opened(folder)
    for passages, reply in zip(WINDOWS, answered(backend, posed(backend, passage_tokens=None)), strict=True):
        labels = [f"{blank}{label}" for label in "ABCD"[: len(passages)]]
        start = "Passage" if plain.t5 else " Passage:"
        content = setwise_content(passages)
        assert reply.prompt_tokens == plain.inputs(content, start)["input_ids"].shape[1]
        assert reply.scores == pytest.approx(plain.scores(content, start, labels), abs=1e-5)
        assert reply.text is None
        assert reply.completion_tokens == 0


def test_yes_and_no_are_scored_where_the_answer_begins(folder: Path, posed) -> None:
    plain = Plain(folder)
    # In one pass, and with the beginning of the prompt read by itself.
    for backend, near in ((opened(folder, exact=False, batch_size=1), 1e-6), (opened(folder), 1e-5)):
        for passages, reply in zip(PASSAGES, answered(backend, posed(backend, "pointwise.yes_no")), strict=True):
            content = yes_no_content(" ".join(passages.split()) if plain.t5 else passages)
            labels = ["▁Yes", "▁No"] if plain.t5 else ["Y", "N"]
            if len(passages) < 100:  # the long one is cut
                assert reply.scores == pytest.approx(plain.scores(content, "", labels), abs=near)


@pytest.mark.parametrize("max_new_tokens", [1, 2, 12])
def test_texts_are_those_of_plain_greedy_generation(folder: Path, posed, tmp_path: Path, max_new_tokens: int) -> None:
    prompt = tmp_path / "longer.yaml"
    text = catalog.prompt_file("setwise").read_text()
    lengths = "{encoder_decoder: 2, decoder_only: 1}"
    assert lengths in text
    prompt.write_text(text.replace(lengths, f"{{encoder_decoder: {max_new_tokens}, decoder_only: {max_new_tokens}}}"))
    plain = Plain(folder)
    backend = opened(folder)
    requests = posed(backend, scoring="generation", prompt=str(prompt), passage_tokens=None)
    for passages, reply in zip(WINDOWS, answered(backend, requests), strict=True):
        start = "Passage" if plain.t5 else " Passage:"
        content = setwise_content(passages)
        assert (reply.text, reply.completion_tokens) == plain.text(content, start, max_new_tokens)
        assert reply.prompt_tokens == plain.inputs(content, start)["input_ids"].shape[1]
        assert reply.scores is None


def test_generation_ends_at_any_of_the_models_ends(copied: Path, posed) -> None:
    backend = opened(copied)
    request = posed(backend, scoring="generation")[:1]
    [ids] = _generated(backend, request)
    settings = copied / "generation_config.json"
    known = json.loads(settings.read_text())
    settings.write_text(json.dumps(known | {"eos_token_id": [backend.tokens.tokenizer.eos_token_id, ids[0]]}))
    backend = opened(copied)
    [reply] = answered(backend, posed(backend, scoring="generation")[:1])
    assert reply.completion_tokens == 1


def _generated(backend, requests: list[Request]) -> list[list[int]]:
    """The tokens of a single request's answer, made with the backend's own model and the library's own loop."""
    [request] = requests
    inputs = backend.passes.inputs([Prepared(request, *backend.tokens.prompt(request))])
    inputs.pop("position_ids", None)
    start = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    output = backend.passes.model.generate(
        **inputs, max_new_tokens=request.terms.decoding.max_new_tokens, do_sample=False
    )
    return output[:, start:].tolist()


# Batches


@pytest.mark.parametrize("batch_size", [2, 7, 32])
def test_a_padded_batch_scores_what_each_prompt_alone_does(folder: Path, posed, batch_size: int) -> None:
    exact, padded = opened(folder), opened(folder, exact=False, batch_size=batch_size)
    assert (exact.batch_size, padded.batch_size) == (1, batch_size)
    for method in ("setwise.heapsort", "pointwise.yes_no"):
        alone = answered(exact, posed(exact, method))
        together = answered(padded, posed(padded, method))
        for one, other in zip(alone, together, strict=True):
            assert other.scores == pytest.approx(one.scores, abs=1e-4)
            assert (other.prompt_tokens, other.completion_tokens) == (one.prompt_tokens, one.completion_tokens)


def test_in_bfloat16_too_no_bit_depends_on_what_is_asked_beside_it(folder: Path, posed) -> None:
    backend = opened(folder, dtype="bfloat16", workers=2)
    requests = posed(backend, "pointwise.yes_no")
    together = answered(backend, requests)
    assert [answered(backend, [request])[0].scores for request in requests] == [reply.scores for reply in together]


def test_a_padded_batch_writes_what_each_prompt_alone_does(folder: Path, posed) -> None:
    exact, padded = opened(folder), opened(folder, exact=False, batch_size=8)
    for method in ("setwise.heapsort", "pointwise.yes_no"):
        alone = answered(exact, posed(exact, method, scoring="generation"))
        assert answered(padded, posed(padded, method, scoring="generation")) == alone


def test_requests_are_answered_a_batch_at_a_time_the_longest_first(folder: Path, posed) -> None:
    backend = opened(folder, exact=False, batch_size=2)
    requests = posed(backend, "pointwise.yes_no")
    backend.submit(requests)
    batches = [[request for request, _ in backend.collect()] for _ in range(2)]
    by_length = sorted(requests, key=lambda request: -len(backend.tokens.prompt(request)[1]))
    assert batches == [by_length[:2], by_length[2:]]
    assert backend.collect() == []
    backend.close()


def test_prompts_computed_alone_are_answered_in_order(folder: Path, posed) -> None:
    backend = opened(folder)
    requests = posed(backend, "pointwise.yes_no")
    backend.submit(requests)
    assert [request for _ in requests for request, _ in backend.collect()] == requests


def test_a_batch_holds_no_more_tokens_than_it_may() -> None:
    terms = RequestSettings(prompts.load("setwise"), "likelihood", Decoding(1), None, None)
    other = dataclasses.replace(terms, attempt=1)

    def prepared(length: int, on: RequestSettings = terms) -> Prepared:
        return Prepared(Request(choose(["d"]), Query("q", ""), {}, on, b""), "", [0] * length)

    def shape(batches) -> list[list[int]]:
        return [[len(prompt.ids) for prompt in batch] for batch in batches]

    rows = [prepared(n) for n in (3, 10, 5, 40, 10, 2)]
    assert shape(planned(rows, most=3, tokens=20)) == [[40], [10, 10], [5, 3, 2]]
    assert shape(planned(rows, most=2, tokens=1_000)) == [[40, 10], [10, 5], [3, 2]]
    assert shape(planned([prepared(3), prepared(3, other)], most=9, tokens=99)) == [[3], [3]]
    assert shape(planned([], most=3, tokens=20)) == []


def test_a_batch_that_does_not_fit_into_the_memory_is_halved(
    folder: Path, posed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    backend = opened(folder, exact=False, batch_size=4)
    requests = posed(backend, "pointwise.yes_no")
    expected = answered(opened(folder, exact=False, batch_size=1), requests)
    answer, sizes = backend._scored, []

    def limited(scores, batch):
        sizes.append(len(batch))
        if len(batch) > limit:
            raise torch.OutOfMemoryError("too much")
        return answer(scores, batch)

    monkeypatch.setattr(backend, "_scored", limited)
    limit = 1
    for reply, alone in zip(answered(backend, requests), expected, strict=True):
        assert reply.scores == pytest.approx(alone.scores, abs=1e-5)
    assert sizes == [4, 2, 1, 1, 1, 1]
    limit = 0
    backend.submit(requests)
    with pytest.raises(BackendError, match=r"out of memory on cpu with a single prompt of \d+ tokens; lower"):
        backend.collect()


@pytest.mark.parametrize("scoring", ["likelihood", "generation"])
def test_beginnings_that_come_again_are_read_once_and_change_no_bit_of_an_answer(
    tiny_llama: Path, posed, scoring: str
) -> None:
    passages = ["the red moon " * 60, "a planet", "Yes", "which of the moons is it?"]
    backend = opened(tiny_llama)
    requests = posed(backend, passages=passages, scoring=scoring)
    first = dataclasses.replace(requests[0].ask, docs=("d00", "d02", "d03"))
    again = [dataclasses.replace(requests[0], ask=first, key=b"again"), requests[0]]
    lengths = [backend.tokens.shared_prefixes(r, backend.tokens.prompt(r)[1]) for r in again]
    assert [len(found) for found in lengths] == [2, 2]
    assert lengths[0][0] >= LEAST
    read: list[int] = []
    backend.passes.model.model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    together = answered(backend, again)
    prompts = [len(backend.tokens.prompt(request)[1]) for request in again]
    texts = [max((reply.completion_tokens or 0) - 1, 0) for reply in together]  # a text's last token is not read
    assert sum(read) == sum(prompts) + sum(texts) - lengths[1][-1]
    assert together == [answered(opened(tiny_llama), [request])[0] for request in again]
    assert len(backend.passes.prefixes._kept) == 2


def test_a_model_that_says_to_cache_nothing_writes_the_same(folder: Path, posed, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_cache": False}))
    more = {"scoring": "generation", "max_new_tokens": 4, "model_settings": True}
    replies, read = [], []
    for backend in (opened(folder), opened(tmp_path)):
        decoder, lengths = backend.passes.model.get_decoder(), []
        decoder.register_forward_pre_hook(
            lambda _, __, named, into=lengths: into.append(named["input_ids"].shape[1]), with_kwargs=True
        )
        replies.append(answered(backend, posed(backend, **more)))
        read.append(lengths)
    assert replies[0] == replies[1]
    assert read[0] == read[1]  # a token after the first at a time


def test_no_prefix_is_read_by_itself_where_positions_depend_on_what_follows(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "config.json"
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 32}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "factor": 64.0, **factors}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rope_parameters": rope}))
    assert opened(tiny_llama).passes.prefixes is not None
    assert opened(tmp_path).passes.prefixes is None


def test_a_first_passage_is_read_by_itself_where_it_is_a_third_of_the_prompt(tiny_llama: Path, posed) -> None:
    backend = opened(tiny_llama)

    def lengths(passages: list[str]) -> list[int]:
        request = posed(backend, passages=passages)[2]
        return backend.tokens.shared_prefixes(request, backend.tokens.prompt(request)[1])

    short, long = lengths(["a planet"] * 4), lengths(["a planet", "Yes", "no", "the red moon " * 60])
    assert len(short) == 1
    assert short[0] >= LEAST
    assert long[0] == short[0]
    assert len(long) == 2


def test_no_more_beginnings_are_kept_than_there_is_room_for(tiny_llama: Path) -> None:
    import torch

    model = opened(tiny_llama).passes.model
    prefixes = Prefixes(model, room=1)
    with torch.inference_mode():
        prompts = [(list(range(5, 60 + n)), [20, 40 + n]) for n in (0, 1, 0)]
        logits = [prefixes.last_logits(ids, prefixes.cached(ids, lengths)) for ids, lengths in prompts]
    assert torch.equal(logits[0], logits[2])
    assert len(prefixes._kept) == 1


def test_the_next_batch_is_with_the_model_while_one_is_waited_for(tiny_llama: Path, posed) -> None:
    backend = opened(tiny_llama, workers=1)
    requests = posed(backend, "pointwise.yes_no")
    backend.submit(requests)
    assert [request for request, _ in backend.collect()] == requests[:1]
    assert len(backend._running) == 1
    backend.close()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pointwise.yes_no", {}),
        ("pointwise.yes_no", {"scoring": "generation"}),
        ("pointwise.yes_no", {"scoring": "generation", "temperature": 1.0, "max_new_tokens": 9}),
        ("setwise.heapsort", {}),
    ],
)
def test_prompts_computed_at_the_same_time_are_answered_as_one_after_the_other(
    folder: Path, posed, method: str, options: dict[str, object]
) -> None:
    passages = [f"{text} {'moon ' * n}" for n, text in enumerate(PASSAGES * 2)]
    found = []
    for workers in (1, 3, 3):
        backend = opened(folder, workers=workers)
        found.append(answered(backend, posed(backend, method, passages, **options)))
        backend.close()
    assert len(found[0]) >= 3
    assert found[1] == found[2]
    for one, other in zip(found[0], found[1], strict=True):
        assert (one.text, one.prompt_tokens) == (other.text, other.prompt_tokens)
        assert one.scores == (None if other.scores is None else pytest.approx(other.scores, abs=1e-4))


def test_a_lone_prompt_has_all_threads_in_long_passes_and_the_answer_that_it_has_beside_others(
    folder: Path, posed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    backend = opened(folder, workers=3)
    monkeypatch.undo()
    requests = posed(backend, "pointwise.yes_no", [f"{text} {'moon ' * 90}" for text in PASSAGES])
    together = [reply.scores for reply in answered(backend, requests)]
    threads, model = [], backend.passes.model
    read = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    read.register_forward_pre_hook(lambda *_: threads.append(torch.get_num_threads()))
    for longest, most in ((64, 3), (10_000, 1)):
        monkeypatch.setattr("r2llm.rerankers.backends._local.threads.LONG", longest)
        assert [answered(backend, [request])[0].scores for request in requests] == together
        assert threads[-1] == most
    backend.close()


def test_lone_prompts_of_all_models_have_one_worker_which_is_waited_for(
    tiny_llama: Path, tiny_t5: Path, posed, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    computing, ended = set(), []
    for folder in (tiny_llama, tiny_t5, tiny_llama):
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        backend = opened(folder, workers=2)
        monkeypatch.undo()
        [request] = posed(backend, "pointwise.yes_no", PASSAGES[:1])
        backend.passes.model.register_forward_pre_hook(lambda *_: computing.add(threading.get_ident()))
        for _ in range(3):
            answered(backend, [request])
        backend._pool.submit(lambda: ended.append(time.sleep(0.1)) or [], lone=True)
        backend.close()
        assert ended.pop() is None
    assert len(computing) == 1


def test_what_was_under_way_is_handed_over_before_a_failure_is_raised(
    tiny_llama: Path, posed, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(tiny_llama, workers=2)
    requests = posed(backend, "pointwise.yes_no", [f"passage {n}" for n in range(8)])
    answer, slow = backend._scored, threading.Event()

    def failing(scores, batch):
        if batch[0].request is requests[2]:
            slow.set()
            raise RuntimeError("broken")
        if batch[0].request is requests[1]:
            slow.wait(10)
            time.sleep(0.1)
        return answer(scores, batch)

    monkeypatch.setattr(backend, "_scored", failing)
    backend.submit(requests)
    found = []

    def collect_all() -> None:
        while True:
            found.extend(request for request, _ in backend.collect())

    with pytest.raises(BackendError, match=r"failed on a prompt of \d+ tokens \(RuntimeError: broken\)"):
        collect_all()
    assert requests[0] in found
    assert requests[1] in found
    assert requests[2] not in found
    assert len(found) <= 4
    backend.close()


def test_several_prompts_at_the_same_time_need_each_alone(tiny_llama: Path) -> None:
    assert opened(tiny_llama, exact=False).workers == 1
    for more in ({"exact": False}, {"compile": True}):
        assert opened(tiny_llama, workers=2, **more).workers == 1


@pytest.mark.slow
def test_a_compiled_model_answers_alike_and_is_compiled_few_times(tiny_llama: Path, posed) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    compiled = opened(tiny_llama, compile=True, exact=False, batch_size=2)
    assert (compiled.details["compile"], compiled.identity) == (True, opened(tiny_llama).identity)
    requests = posed(compiled, "pointwise.yes_no", [f"{text} {'moon ' * n}" for n, text in enumerate(PASSAGES)])
    for reply, plain in zip(answered(compiled, requests), answered(opened(tiny_llama), requests), strict=True):
        assert reply.scores == pytest.approx(plain.scores, abs=1e-4)
    # Batches of other lengths are not compiled for anew.
    assert counters["stats"]["unique_graphs"] == 1


def test_each_prompt_is_computed_alone_on_a_cpu_unless_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(folder).batch_size == 1
    assert opened(folder, exact=False).batch_size == 32
    for units, size in (({}, 1), ({"amx_bf16": True}, 5), ({"amx_fp16": True}, 1)):
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda units=units: units)
        assert opened(folder, dtype="bfloat16", batch_size=5).batch_size == size
        assert opened(folder, dtype="bfloat16", exact=True, batch_size=5).batch_size == 1


# Sampling


def test_a_sampled_answer_depends_on_its_ask_and_the_seed_alone(folder: Path, posed) -> None:
    def sampled(seed: int, attempt: int = 1, **options) -> list[Reply]:
        backend = opened(folder, seed=seed, **options)
        return answered(backend, posed(backend, "pointwise.yes_no", attempt=attempt, scoring="generation"))

    first = sampled(1)
    assert sampled(1) == first
    assert sampled(1, exact=False, batch_size=8) == first
    assert sampled(2) != first
    assert sampled(1, attempt=2) != first


def test_first_tries_and_retries_in_one_batch_do_not_disturb_each_other(folder: Path, posed) -> None:
    backend = opened(folder, exact=False, batch_size=16)
    greedy = posed(backend, "pointwise.yes_no", scoring="generation")
    retries = posed(backend, "pointwise.yes_no", scoring="generation", attempt=1)
    apart = answered(backend, greedy) + answered(backend, retries)
    assert answered(backend, greedy + retries) == apart
    assert answered(backend, retries + greedy) == apart[len(greedy) :] + apart[: len(greedy)]


# Identity


def test_the_identity_follows_every_byte_of_the_model_and_not_its_place(folder: Path, copied: Path, tmp_path) -> None:
    identity = opened(folder).identity
    assert identity["backend"] == "transformers"
    assert identity["dtype"] == "float32"
    assert identity["architecture"] == opened(folder).architecture
    assert opened(copied).identity == identity
    moved = copied.rename(tmp_path / "moved")
    assert opened(moved).identity == identity
    assert opened(moved, exact=False, batch_size=3).identity == identity
    assert opened(moved, dtype="bfloat16").identity != identity
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)
    changed = opened(moved).identity
    assert changed != identity
    content[-2] ^= 1
    weights.write_bytes(content)
    assert opened(moved).identity == identity
    (moved / "notes.md").write_text("a model card says nothing")
    assert opened(moved).identity == identity
    (moved / "chat_template.jinja").write_text("{{ messages }}")
    assert opened(moved).identity != identity


def test_a_home_folder_is_found(copied: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(copied.parent))
    assert opened("~/copied").identity == opened(copied).identity


# Loading


def test_weights_are_loaded_with_the_first_request(copied: Path, posed) -> None:
    backend = opened(copied)
    (copied / "model.safetensors").unlink()
    backend.submit(posed(backend))
    with pytest.raises(InputError, match=r"^model\.name: .*copied cannot be loaded: ") as raised:
        backend.collect()
    assert "\n" not in str(raised.value)
    assert opened(copied).architecture == backend.architecture


def test_opening_a_model_reads_no_weights(folder: Path) -> None:
    backend = opened(folder)
    assert "passes" not in vars(backend)
    assert "tokens" not in vars(backend)


@pytest.mark.parametrize(
    "damage",
    [
        {"model.safetensors": b"garbage"},
        {"model.safetensors": None, "tokenizer.json": None},
        {"tokenizer.json": b"garbage"},
        {"tokenizer.json": b"{}"},
        {"tokenizer_config.json": b"{", "tokenizer.json": b"{"},
        {"tokenizer_config.json": b"[1]"},
        {"tokenizer.json": b'{"version": "1.0", "model": 7}'},
        {"model.safetensors": b"\xff" * 64},
        {"model.safetensors": None, "pytorch_model.bin": b"cos\nsystem\n(S'true'\ntR."},
        {"model.safetensors": None, "pytorch_model.bin": b"PK\x03\x04 no archive"},
        {"model.safetensors": None, "model.safetensors.index.json": b'{"weight_map": 7}'},
        {"model.safetensors": None, "model.safetensors.index.json": b'{"weight_map": {"a": "gone.safetensors"}}'},
    ],
)
def test_damaged_files_are_the_users_to_mend(copied: Path, posed, damage: dict[str, bytes | None]) -> None:
    for name, content in damage.items():
        if content is None:
            (copied / name).unlink()
        else:
            (copied / name).write_bytes(content)
    backend = opened(copied)
    with pytest.raises(InputError, match=r"^model\.name: .*copied cannot be loaded: ") as raised:
        answered(backend, posed(backend))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("config", [b"garbage", b"[]", b"7", b'{"model_type": 7}', b'{"model_type": "nothing"}', b""])
def test_a_damaged_config_is_the_users_to_mend(copied: Path, config: bytes) -> None:
    (copied / "config.json").write_bytes(config)
    with pytest.raises(InputError, match=r"^model\.name: .*copied cannot be loaded: ") as raised:
        opened(copied)
    assert "\n" not in str(raised.value)


def test_a_truncated_download_is_refused(copied: Path, posed) -> None:
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    backend = opened(copied)
    backend.submit(posed(backend))
    with pytest.raises(InputError, match="copied cannot be loaded: "):
        backend.collect()


def test_weights_that_lack_a_part_are_refused_and_not_made_up(copied: Path, posed) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    name = next(name for name in sorted(weights) if ".1." in name and name.endswith("weight"))
    del weights[name]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    backend = opened(copied)
    backend.submit(posed(backend))
    with pytest.raises(InputError, match="copied cannot be loaded: its weights lack 1 of the parts") as raised:
        backend.collect()
    assert name in str(raised.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"model_type": "no-such-kind"}'])
def test_a_damaged_config_is_refused_when_opened(copied: Path, content: bytes) -> None:
    (copied / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"^model\.name: .*copied cannot be loaded: ") as raised:
        opened(copied)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_or_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^model\.name: no folder {tmp_path}/none$"):
        opened(tmp_path / "none")
    with pytest.raises(InputError, match=r"^model\.name: no folder ./none$"):
        opened("./none")
    with pytest.raises(InputError, match=r"^model\.name: no folder a/b/c$"):
        opened("a/b/c")
    with pytest.raises(InputError, match=r"^model\.name: folder .* holds no model \(no config\.json\)$"):
        opened(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty cache of a hub that cannot be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["no-such-user/no-such-model", "no-such-model", "bad name/!"])
def test_a_model_that_is_not_in_the_hubs_cache_is_one_line(
    hub: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as raised:
        opened(name)
    assert str(raised.value).startswith(f"model.name: {name} is neither a folder nor in the hub's cache ({hub}), and ")
    assert str(raised.value).endswith("copy the cache, or name a folder")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_a_model_in_the_hubs_cache_is_named_by_its_commit(
    hub: Path, tiny_t5: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = hub / "models--someone--tiny"
    shutil.copytree(tiny_t5, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    backend = opened("someone/tiny")
    assert backend.passes.model
    assert backend.tokens
    assert backend.identity["model"] == f"someone/tiny@{commit}"
    assert capfd.readouterr().err == ""


def test_a_device_that_is_not_there_is_refused(folder: Path) -> None:
    import torch

    with pytest.raises(InputError, match=r"^model\.device: abacus is no device; use auto, cpu, cuda or cuda:0$"):
        backend_module.open(backend_module.Options(name=str(folder), device="abacus"), Setting())
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="cuda asked for, but this machine offers no CUDA device; use auto or cpu"):
            backend_module.open(backend_module.Options(name=str(folder), device="cuda"), Setting())
        backend = backend_module.open(backend_module.Options(name=str(folder)), Setting())
        assert (str(backend.device), backend.identity["dtype"]) == ("cpu", "float32")


# What a model cannot do


def test_scores_that_are_no_numbers_are_the_models_failure(copied: Path, posed) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    weights["lm_head.weight" if "lm_head.weight" in weights else "shared.weight"].fill_(float("nan"))
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    backend = opened(copied)
    backend.submit(posed(backend))
    with pytest.raises(BackendError) as raised:
        backend.collect()
    assert str(raised.value) == (
        "query q1: the model's scores are not numbers in float32; use dtype: bfloat16 or float32"
    )


def test_a_prompt_that_does_not_fit_is_refused_with_its_length(tiny_llama: Path, posed) -> None:
    backend = opened(tiny_llama)
    long = ["a moon " * 600, "b moon " * 600]
    backend.submit(posed(backend, passages=long, passage_tokens=None)[:1])
    with pytest.raises(InputError) as raised:
        backend.collect()
    _, ids = backend.tokens.prompt(posed(backend, passages=long, passage_tokens=None)[0])
    assert str(raised.value) == (
        f"query q1: a prompt of {len(ids)} tokens does not fit the model's 2048; "
        "lower ranker.passage_tokens or the documents a prompt"
    )
    backend.submit(posed(backend, passages=long)[:1])
    [(_, reply)] = backend.collect()
    assert reply.prompt_tokens < 2048


def test_t5_has_no_longest_prompt(tiny_t5: Path, posed) -> None:
    backend = opened(tiny_t5)
    [reply] = answered(backend, posed(backend, passages=["a moon " * 600, "b"], passage_tokens=None)[:1])
    assert reply.prompt_tokens > 1000
