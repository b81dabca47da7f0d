"""vLLM in this process: decoder-only models, with continuous batching and a cache of prompts' beginnings.

It wants a Python environment of its own, since it is particular about the versions of transformers and torch. Prompts
are rendered and tokenised as for the backend `transformers`, so both see the same tokens; log-probabilities are over
the whole vocabulary. vLLM chooses which prompts are computed together: in float32 that moves log-probabilities by about
1e-5, in bfloat16 enough to change a choice now and then; `deterministic` makes it choose the same every time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from ..answers.reading import Reply
from ..errors import BackendError, InputError
from ..marks import PathMark, Speed
from ._local.devices import device_of, dtype_of
from ._local.loading import described, load, locate
from ._local.vllm_engine import Engine, require, version
from ._tokens.batches import Prepared
from ._tokens.chat_templates import TemplateOptions
from ._tokens.tokens import Tokens
from .base import Backend, Request, Setting

OPEN = 1024
"""So many requests the engine holds at most: enough for its batches, and while it computes, the next are tokenised."""


class Options(TemplateOptions):
    """Keys of the `model` section."""

    name: Annotated[str, PathMark("folder")] = Field(
        description="a hub id such as Qwen/Qwen2.5-7B-Instruct, or a folder"
    )
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: bfloat16 on CUDA, else float32"
    )
    quantization: str | None = Field(
        None,
        description="how vLLM is to quantise the weights, such as fp8; those of a quantised model say it themselves",
    )
    tensor_parallel_size: Speed[int] = Field(1, ge=1, description="over how many GPUs each layer is split")
    pipeline_parallel_size: Speed[int] = Field(
        1, ge=1, description="over how many groups of GPUs the layers are dealt out"
    )
    gpu_memory_utilization: Speed[float] = Field(
        0.9, gt=0, le=1, description="the share of the memory that is taken: weights, and keys and values of prompts"
    )
    kv_cache_gib: Speed[float | None] = Field(
        None, gt=0, description="memory for keys and values, in GiB, instead of what that share leaves"
    )
    max_model_len: Speed[int | None] = Field(
        None, ge=1, description="the most tokens of a prompt and its answer; the model's own limit unless given"
    )
    max_num_seqs: Speed[int | None] = Field(None, ge=1, description="the most prompts computed at once; vLLM's choice")
    enforce_eager: Speed[bool] = Field(False, description="compile nothing: starts sooner, answers more slowly on GPUs")
    deterministic: Speed[bool | None] = Field(
        None,
        description="let no timing decide what is computed together: the same run makes the same batches, but the "
        "engine rests while prompts are tokenised; default: without CUDA",
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Find the model; vLLM is needed, and starts, with the first request.

    Raises `InputError` where the model cannot be found or is none that vLLM runs.
    """
    return Vllm(options, setting.seed)


@dataclass
class _Asked:
    """A request that the engine works on, and what it has found: one output a continuation, or one for the prompt."""

    prompt: Prepared
    expected: int
    found: dict[int, Any] = field(default_factory=dict)


class Vllm(Backend):
    """A model in vLLM's engine: requests stream through it, a bounded number of them at a time."""

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self.options = options
        self.seed = seed
        self.source = locate(options.name, options.revision, trust_remote_code=options.trust_remote_code)
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.config = load(transformers.AutoConfig, self.source)
        if self.config.is_encoder_decoder:
            raise InputError(
                f"model.name: {options.name} is an encoder-decoder model, which vLLM does not run; "
                "use backend: transformers"
            )
        device = device_of("auto")
        self.dtype = str(dtype_of(options.dtype, device)).removeprefix("torch.")
        self.deterministic = device.type == "cpu" if options.deterministic is None else options.deterministic
        self._asked: dict[int, _Asked] = {}
        self._number = 0

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What makes its answers what they are; how a chat template renders prompts is tried out for it."""
        quantization = {"quantization": self.options.quantization} if self.options.quantization else {}
        model = {"model": self.source.identity, "dtype": self.dtype, "architecture": self.architecture}
        return {"backend": "vllm", **model, **quantization, **self.tokens.identity}

    @property
    def details(self) -> Mapping[str, object]:
        """The files it is made of, and how it computes."""
        import torch

        found: dict[str, object] = {
            **described(self.source, self.source),
            **self.tokens.details,
            "architecture": self.architecture,
            "dtype": self.dtype,
            "quantization": self.options.quantization,
            "engine": f"vllm {version()}",
            "prefix_caching": True,
            "deterministic": self.deterministic,
            "batch_invariant": os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1",
            "tensor_parallel_size": self.options.tensor_parallel_size,
            "pipeline_parallel_size": self.options.pipeline_parallel_size,
        }
        if torch.cuda.is_available():
            found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        return found

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, loaded when first needed."""
        import transformers

        return Tokens(load(transformers.AutoTokenizer, self.source), self.architecture, self.options)

    @cached_property
    def engine(self) -> Engine:
        """vLLM, started when first needed: a run whose answers are all in the ledger does without."""
        options, revision = self.options, self.source.arguments.get("revision")
        given = {
            "max_model_len": options.max_model_len,
            "max_num_seqs": options.max_num_seqs,
            "quantization": options.quantization,
            "kv_cache_memory_bytes": int(options.kv_cache_gib * 2**30) if options.kv_cache_gib else None,
        }
        arguments = {
            "model": self.source.name,
            "revision": revision,
            "tokenizer_revision": revision,
            "trust_remote_code": options.trust_remote_code,
            "dtype": self.dtype,
            "seed": self.seed,
            "tensor_parallel_size": options.tensor_parallel_size,
            "pipeline_parallel_size": options.pipeline_parallel_size,
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "enforce_eager": options.enforce_eager,
            "enable_prefix_caching": True,
            # The labels' own log-probabilities, before anything that sampling does to them.
            "logprobs_mode": "raw_logprobs",
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return Engine(arguments | chosen, own_process=not self.deterministic)

    def submit(self, requests: Sequence[Request]) -> None:
        """Take requests to answer, in order.

        Raises `InputError` where vLLM is not installed, and for what only a cross-encoder can answer.
        """
        if requests and "engine" not in self.__dict__:
            require()
        if any(request.ask.kind == "relevance" for request in requests):
            raise InputError(
                "model.backend: vllm runs language models, and a cross-encoder is asked for; use backend: transformers"
            )
        super().submit(requests)

    def collect(self) -> list[tuple[Request, Reply]]:
        """Give the engine what waits, as much as it may hold, and wait until it has answered something."""
        replies: list[tuple[Request, Reply]] = []
        while not replies and (self.waiting or self._asked):
            for request in self.take(max(0, OPEN - len(self._asked))):
                self._ask(Prepared(request, *self.tokens.prompt(request)))
            for output in self.engine.finished():
                replies += self._found(output)
        return replies

    def close(self) -> None:
        """Stop the engine, if it was started."""
        if "engine" in self.__dict__:
            self.__dict__.pop("engine").close()

    def _ask(self, prompt: Prepared) -> None:
        """Hand a prompt to the engine, once for each continuation whose probability is asked for."""
        continuations = self._continuations(prompt)
        params = self._params(prompt, continued=bool(continuations))
        for part, continuation in enumerate(continuations or [()]):
            ids = [*prompt.ids, *continuation]
            if len(ids) + params.max_tokens > self.engine.longest:
                raise InputError(
                    f"query {prompt.request.query.id}: a prompt of {len(prompt.ids)} tokens does not fit the "
                    f"{self.engine.longest} that vLLM reads; lower ranker.passage_tokens or the documents a prompt, or "
                    "raise model.max_model_len where the model allows it"
                )
            self.engine.add(f"{self._number}.{part}", ids, params)
        self._asked[self._number] = _Asked(prompt, max(1, len(continuations)))
        self._number += 1

    def _found(self, output: Any) -> list[tuple[Request, Reply]]:
        """The reply that an output completes, if it does."""
        number, part = map(int, output.request_id.split("."))
        asked = self._asked[number]
        asked.found[part] = output
        if len(asked.found) < asked.expected:
            return []
        del self._asked[number]
        return [(asked.prompt.request, self._reply(asked.prompt, [asked.found[i] for i in range(asked.expected)]))]

    def _continuations(self, prompt: Prepared) -> list[Sequence[int]]:
        """The tokens whose probability after the prompt is asked for: a query's, or each label's; none for others."""
        request = prompt.request
        if request.prompt.target:
            return [self.tokens.target(request)]
        if request.scoring == "likelihood" and request.prompt.answer.scored == "whole":
            return list(self.tokens.label_ids(request, prompt.text))
        return []

    def _params(self, prompt: Prepared, *, continued: bool) -> Any:
        """vLLM's sampling parameters; it generates a token even where none is asked for."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        request = prompt.request
        given: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1}
        if continued:
            given["prompt_logprobs"] = 0
        elif request.scoring == "likelihood":
            given["logprob_token_ids"] = self._labels(prompt)
        else:
            given |= self._writing(request)
        given.setdefault("detokenize", False)
        return SamplingParams(**given, output_kind=RequestOutputKind.FINAL_ONLY)

    def _writing(self, request: Request) -> dict[str, Any]:
        """The parameters that decide which text is written, and how much of it."""
        decoding = request.terms.decoding
        given: dict[str, Any] = {"max_tokens": self.tokens.answer_tokens(request)}
        if decoding.temperature:
            # What chance gives one prompt must not depend on those beside it.
            seed = (int.from_bytes(request.key[:8]) ^ self.seed) % 2**63
            given |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": seed}
        if decoding.stop:
            given |= {"stop": list(decoding.stop), "detokenize": True}
        if request.terms.generation_settings == "model":
            given["repetition_penalty"] = self.engine.llm.get_default_sampling_params().repetition_penalty
        return given

    def _labels(self, prompt: Prepared) -> list[int]:
        return [first for (first,) in self.tokens.label_ids(prompt.request, prompt.text)]

    def _reply(self, prompt: Prepared, outputs: Sequence[Any]) -> Reply:
        request, length = prompt.request, len(prompt.ids)
        if request.scoring == "likelihood":
            scores = self._scores(prompt, outputs)
            if not math.isfinite(sum(scores)):
                raise BackendError(
                    f"query {request.query.id}: the model's scores are not numbers in {self.dtype}; "
                    "use dtype: bfloat16 or float32"
                )
            read = len(self.tokens.target(request)) if request.prompt.target else 0
            return Reply(scores=scores, prompt_tokens=length + read, completion_tokens=0)
        [answer] = outputs[0].outputs
        text = self.tokens.tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        ends = [place for stop in request.terms.decoding.stop if (place := text.find(stop)) >= 0]
        return Reply(
            text=text[: min(ends, default=None)], prompt_tokens=length, completion_tokens=len(answer.token_ids)
        )

    def _scores(self, prompt: Prepared, outputs: Sequence[Any]) -> tuple[float, ...]:
        """The log-probabilities of the labels' first tokens, or of whole continuations, over the whole vocabulary."""
        continuations = self._continuations(prompt)
        if not continuations:
            found = outputs[0].outputs[0].logprobs[0]
            return tuple(found[label].logprob for label in self._labels(prompt))
        start = len(prompt.ids)
        return tuple(
            sum(output.prompt_logprobs[start + i][token].logprob for i, token in enumerate(continuation))
            for output, continuation in zip(outputs, continuations, strict=True)
        )
