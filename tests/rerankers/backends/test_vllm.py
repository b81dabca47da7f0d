"""vLLM in this process: what it is asked and how its outputs are read, with an engine in its place that computes with
transformers. The engine itself is tested in `test_vllm_engine.py`."""

import dataclasses
import importlib.machinery
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends import transformers, vllm
from r2llm.rerankers.backends._local import vllm_engine as _vllm_engine
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.marks import SpeedMark, marks
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, choose, score

PASSAGES = ["the red moon", "a planet", "which of the moons is it? " * 9, "Yes"]

WHOLE = """
source: a test
asks: [score]
labels: {Highly Relevant: 2.0, Somewhat Relevant: 1.0, Not Relevant: 0.0}
answer: {scored: whole}
messages: [{role: user, content: "{query} {passages}"}]
"""


THOUGHT = """
source: a test
asks: [score]
labels: {"true": 1.0, "false": 0.0}
answer: {scored: after_thought, closing: " {thought} so:", stop: " e", max_new_tokens: {decoder_only: 12}}
messages: [{role: user, content: "{query} {passages}"}]
"""

GRADED = """
source: a test
asks: [score]
labels: {"1": 1.0, "0": 0.0}
answer: {scored: written, pattern: "(?s)(..)", max_new_tokens: {decoder_only: 12}}
messages: [{role: user, content: "{query} {passages}"}]
"""

TEXTS = {"whole": WHOLE, "thought": THOUGHT, "graded": GRADED}


class Engine:
    """vLLM's engine, as far as it is used: two prompts a step, the last first, computed by transformers."""

    def __init__(self, folder: str) -> None:
        import transformers as library

        self.lm = library.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = library.AutoTokenizer.from_pretrained(folder)
        self.model_config = SimpleNamespace(max_model_len=600)
        self.engine_core = SimpleNamespace(shutdown=lambda: self.events.append("shutdown"))
        self.open: list[tuple[str, list[int], SimpleNamespace]] = []
        self.seen: list[SimpleNamespace] = []
        self.events: list[str] = []
        self.most_open = 0
        self.dead = False

    def add_request(self, request_id: str, prompt: dict, params: SimpleNamespace) -> None:
        self.open.append((request_id, prompt["prompt_token_ids"], params))
        self.seen.append(params)
        self.most_open = max(self.most_open, len({name.split(".")[0] for name, *_ in self.open}))

    def step(self) -> list[SimpleNamespace]:
        if self.dead:
            raise RuntimeError("EngineCore encountered an issue.\nSee above")
        answered = [self.open.pop() for _ in range(min(2, len(self.open)))]
        return [SimpleNamespace(finished=False), *(self._output(*each) for each in answered)]

    def _output(self, request_id: str, ids: list[int], params: SimpleNamespace) -> SimpleNamespace:
        import torch

        with torch.no_grad():
            rows = self.lm(torch.tensor([ids])).logits[0].log_softmax(-1)
            made = self.lm.generate(torch.tensor([ids]), max_new_tokens=params.max_tokens, do_sample=False)[0]

        def listed(row, tokens) -> dict[int, SimpleNamespace]:
            return {token: SimpleNamespace(logprob=float(row[token])) for token in tokens}

        written = made[len(ids) :].tolist()
        for stop in getattr(params, "stop", ()):
            lengths = range(1, len(written) + 1)
            texts = (self.tokenizer.decode(written[:n], skip_special_tokens=True) for n in lengths)
            written = written[: next((n for n, text in zip(lengths, texts, strict=True) if stop in text), None)]
        answer = SimpleNamespace(token_ids=written)
        if (most := getattr(params, "logprobs", None)) is not None:
            with torch.no_grad():
                all_rows = self.lm(torch.tensor([[*ids, *written]])).logits[0].log_softmax(-1)[len(ids) - 1 :]
            answer.logprobs = [
                listed(row, {token, *row.topk(most).indices.tolist()})
                for row, token in zip(all_rows, written, strict=False)
            ]
        if labels := getattr(params, "logprob_token_ids", None):
            answer.logprobs = [listed(rows[-1], labels)]
        output = SimpleNamespace(request_id=request_id, finished=True, outputs=[answer])
        if getattr(params, "prompt_logprobs", None) == 0:
            output.prompt_logprobs = [None, *(listed(row, [token]) for row, token in zip(rows, ids[1:], strict=False))]
        return output


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The arguments of every engine that was started, in place of vLLM's."""
    found: list[dict] = []

    class LLM:
        def __init__(self, **given) -> None:
            found.append(given)
            if given["gpu_memory_utilization"] < 0.01:
                raise ValueError("No available memory\nfor the cache blocks")
            self.llm_engine = Engine(given["model"])

        def get_default_sampling_params(self) -> SimpleNamespace:
            return SimpleNamespace(repetition_penalty=1.5)

    module = types.ModuleType("vllm")
    module.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = LLM, SimpleNamespace
    inputs, params = types.ModuleType("vllm.inputs"), types.ModuleType("vllm.sampling_params")
    inputs.tokens_input = lambda ids: {"type": "token", "prompt_token_ids": ids}
    params.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")
    for each in (module, inputs, params):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    for name in (*_vllm_engine.QUIET, "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.setenv(name, "")
    return found


def opened(folder: Path | str, seed: int = 0, **options) -> vllm.Vllm:
    return vllm.open(vllm.Options(name=str(folder), **options), Setting(seed))


def answered(backend, requests) -> list[Reply]:
    """The replies to some requests, in their order."""
    backend.submit(requests)
    replies: dict[bytes, Reply] = {}
    while found := backend.collect():
        replies |= {request.key: reply for request, reply in found}
    return [replies[request.key] for request in requests]


@pytest.fixture
def posed(make_candidates, tmp_path: Path):
    """Requests of a ranker about the passages: one window of them, or one each."""

    def pose(backend, method: str, ask=score, attempt: int = 0, **options) -> list:
        if options.get("prompt") in TEXTS:
            text, options["prompt"] = TEXTS[options["prompt"]], str(tmp_path / f"{options['prompt']}.yaml")
            Path(options["prompt"]).write_text(text)
        candidates = make_candidates(PASSAGES, query="moons of a red planet")
        requests = Requests(Ranker.create({"method": method} | options), backend, candidates)
        asks = [choose(candidates.ids)] if ask is choose else [ask(doc) for doc in candidates.ids]
        return [requests.request(each, attempt) for each in asks]

    return pose


WRITTEN = {"method": "setwise.heapsort", "ask": choose, "scoring": "generation", "max_new_tokens": 12}

CASES = {
    "setwise": {"method": "setwise.heapsort", "ask": choose},
    "pointwise": {"method": "pointwise.yes_no"},
    "qlm": {"method": "pointwise.qlm", "ask": lambda doc: Ask("likelihood", (doc,))},
    "whole labels": {"method": "pointwise.yes_no", "prompt": "whole"},
    "a thought, then labels": {"method": "pointwise.yes_no", "prompt": "thought"},
    "a label as it was written": {"method": "pointwise.yes_no", "prompt": "graded", "scoring": "generation"},
    "text": WRITTEN,
    "text with a stop": WRITTEN | {"stop": ["a", "e"]},
}


@pytest.mark.parametrize("case", CASES)
def test_its_answers_are_those_of_the_backend_transformers(case: str, tiny_llama: Path, started, posed) -> None:
    ours = opened(tiny_llama)
    theirs = transformers.open(transformers.Options(name=str(tiny_llama), device="cpu"), Setting())
    found, expected = (answered(backend, posed(backend, **CASES[case])) for backend in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        assert one.scores == (other.scores if other.scores is None else pytest.approx(other.scores, abs=1e-4))
        assert dataclasses.replace(one, scores=None) == dataclasses.replace(other, scores=None)


def test_labels_are_scored_over_the_whole_vocabulary_in_one_request(tiny_llama: Path, started, posed) -> None:
    backend = opened(tiny_llama)
    [request] = posed(backend, "setwise.heapsort", choose)
    answered(backend, [request])
    [params] = backend.engine.llm.llm_engine.seen
    labels = [ids for (ids,) in backend.tokens.label_ids(request, backend.tokens.prompt(request)[0])]
    assert (params.logprob_token_ids, params.max_tokens) == (labels, 1)
    assert started[0]["logprobs_mode"] == "raw_logprobs"


def test_a_bounded_number_of_requests_is_with_the_engine(
    tiny_llama: Path, started, posed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "OPEN", 2)
    backend = opened(tiny_llama)
    requests = posed(backend, "pointwise.yes_no")
    backend.submit(requests)
    first = backend.collect()
    assert [request for request, _ in first] == requests[1::-1]
    assert backend.engine.llm.llm_engine.most_open == 2
    assert len(backend.collect()) == 2
    assert backend.collect() == []


def test_chance_depends_on_the_ask_and_the_seed_alone(tiny_llama: Path, started, posed) -> None:
    def seeds(seed: int) -> list[int]:
        backend = opened(tiny_llama, seed=seed)
        answered(backend, posed(backend, "pointwise.yes_no", attempt=1, scoring="generation", top_p=0.9))
        params = backend.engine.llm.llm_engine.seen
        assert {(each.temperature, each.top_p) for each in params} == {(1.0, 0.9)}
        return [each.seed for each in params]

    assert seeds(1) == seeds(1)
    assert set(seeds(1)).isdisjoint(seeds(2))
    assert len(set(seeds(1))) == len(PASSAGES)
    assert all(0 <= seed < 2**63 for seed in seeds(1))


def test_compat_follows_the_settings_that_come_with_the_model(tiny_llama: Path, started, posed) -> None:
    backend = opened(tiny_llama)
    answered(backend, posed(backend, "setwise.heapsort", choose, scoring="generation", compat="llm-rankers"))
    answered(backend, posed(backend, "setwise.heapsort", choose, scoring="generation"))
    given = [getattr(params, "repetition_penalty", None) for params in backend.engine.llm.llm_engine.seen]
    assert given == [1.5, None]


def test_the_engine_starts_with_the_first_request_and_is_told_what_the_config_says(
    tiny_llama: Path, started, posed
) -> None:
    backend = opened(tiny_llama, seed=7, dtype="float32", tensor_parallel_size=2, kv_cache_gib=0.5, max_model_len=600)
    assert backend.collect() == []
    backend.close()
    assert not started
    assert backend.details["dtype"] == "float32"
    requests = posed(backend, "setwise.heapsort", choose)
    answered(backend, requests)
    answered(backend, requests)
    [given] = started
    expected = {"seed": 7, "dtype": "float32", "tensor_parallel_size": 2, "kv_cache_memory_bytes": 2**29}
    expected |= {"model": str(tiny_llama), "max_model_len": 600, "enable_prefix_caching": True}
    assert given.items() >= expected.items()
    assert "quantization" not in given
    events = backend.engine.llm.llm_engine.events
    backend.close()
    backend.close()
    assert events == ["shutdown"]


def test_the_fingerprint_knows_what_changes_answers_and_nothing_else(tiny_llama: Path, started) -> None:
    plain = opened(tiny_llama, dtype="float32").identity
    assert plain["backend"] == "vllm"
    assert plain != opened(tiny_llama, dtype="bfloat16").identity
    assert plain != opened(tiny_llama, dtype="float32", quantization="fp8").identity
    fast = {"tensor_parallel_size": 4, "max_num_seqs": 8, "gpu_memory_utilization": 0.5, "enforce_eager": True}
    assert plain == opened(tiny_llama, dtype="float32", **fast).identity
    assert fast.keys() <= marks(vllm.Options, SpeedMark).keys()


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_deterministic_engine_has_no_process_of_its_own(
    tiny_llama: Path, started, posed, deterministic: bool
) -> None:
    backend = opened(tiny_llama, deterministic=deterministic)
    answered(backend, posed(backend, "setwise.heapsort", choose))
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == ("0" if deterministic else "1")
    assert backend.details["deterministic"] is deterministic


# What goes wrong


def test_without_vllm_it_says_how_to_install_it(tiny_llama: Path, posed, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(tiny_llama)  # as far as prompts are shown and counted it is not needed
    requests = posed(backend, "pointwise.yes_no")
    assert backend.tokens.prompt(requests[0])
    backend.submit(requests)
    monkeypatch.setattr(_vllm_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"vllm is not installed here; .*pip install 'r2llm\[vllm\]'") as raised:
        backend.collect()
    assert "\n" not in str(raised.value)


def test_encoder_decoders_and_cross_encoders_are_refused(tiny_llama: Path, tiny_t5: Path, started, posed) -> None:
    with pytest.raises(InputError, match="encoder-decoder model, which vLLM does not run; use backend: transformers"):
        opened(tiny_t5)
    backend = opened(tiny_llama)
    backend.submit(posed(backend, "pointwise.cross_encoder", lambda doc: Ask("relevance", (doc,))))
    with pytest.raises(InputError, match="a cross-encoder is asked for; use backend: transformers"):
        backend.collect()


def test_a_prompt_that_is_too_long_is_named(tiny_llama: Path, started, posed) -> None:
    backend = opened(tiny_llama)
    backend.submit(posed(backend, "setwise.heapsort", choose, passage_tokens=None))
    backend.engine.llm.llm_engine.model_config.max_model_len = 100
    with pytest.raises(InputError, match=r"query q1: a prompt of \d+ tokens does not fit the 100 that vLLM reads"):
        backend.collect()


def test_an_engine_that_fails_is_a_failed_backend(tiny_llama: Path, started, posed) -> None:
    backend = opened(tiny_llama)
    backend.submit(posed(backend, "pointwise.yes_no"))
    backend.engine.llm.llm_engine.dead = True
    with pytest.raises(BackendError, match=r"vLLM engine failed \(EngineCore encountered an issue. See above\)"):
        backend.collect()
    backend = opened(tiny_llama, gpu_memory_utilization=0.001)
    backend.submit(posed(backend, "pointwise.yes_no"))
    with pytest.raises(InputError, match=r"vLLM cannot start with .* \(No available memory for the cache blocks\)"):
        backend.collect()


def test_scores_that_are_not_numbers_are_a_failure(tiny_llama: Path, started, posed) -> None:
    import torch

    backend = opened(tiny_llama)
    backend.submit(posed(backend, "pointwise.yes_no"))
    with torch.no_grad():
        backend.engine.llm.llm_engine.lm.lm_head.weight.fill_(float("nan"))
    with pytest.raises(BackendError, match="query q1: the model's scores are not numbers in float32"):
        backend.collect()


def test_an_engine_whose_process_was_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vllm_engine, "LOOK_SECONDS", 0.05)
    looks = iter([True, True, False])
    process = SimpleNamespace(is_alive=lambda: next(looks))
    done = threading.Event()
    with pytest.raises(BackendError, match="a process of the vLLM engine was killed"):
        _vllm_engine.watched(done.wait, [process])
    done.set()


def test_work_that_is_watched_gives_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = [SimpleNamespace(is_alive=lambda: True)]
    assert _vllm_engine.watched(lambda: [1], alive) == [1]
    with pytest.raises(ZeroDivisionError):
        _vllm_engine.watched(lambda: 1 // 0, alive)


STARTS = """
import subprocess, sys, time
from r2llm.rerankers.backends._local.vllm_engine import guard
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
guard([child.pid])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_the_engines_processes_end_with_the_one_that_started_them() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], stdout=subprocess.PIPE, text=True) as starter:
        child = int(starter.stdout.readline())
        starter.kill()
    until = time.monotonic() + 30
    while running(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not running(child)


def running(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return status != "Z"
