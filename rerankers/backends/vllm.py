"""vLLM in this process: decoder-only models, with continuous batching and a cache of prompts' beginnings.

It wants a Python environment of its own, since it is particular about the versions of transformers and torch. Prompts
are rendered and tokenised as for the backend `transformers`, so both see the same tokens; log-probabilities are over
the whole vocabulary. vLLM chooses which prompts are computed together: in float32 that moves log-probabilities by about
1e-5, in bfloat16 enough to change a choice now and then; `deterministic` makes it choose the same every time.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Annotated, Any

from pydantic import Field

from ..answers.reading import Reply
from ..errors import InputError
from ..marks import PathMark, Speed
from ._local.generation import LISTED, text_reply
from ._local.loading import CheckpointOptions, gpu_details
from ._local.scores import scored
from ._local.vllm_engine import Engine, version
from ._local.weights import WeightOptions, Weights
from ._tokens.tokens import Prepared, Tokens
from .base import Answered, Backend, Request, Setting

WITHIN_TEXTS = {"after_thought": LISTED, "written": 0}  # how many tokens are listed beside each one that is generated
OPEN = 1024  # the most requests in the engine: enough for its batches, and while it computes, the next are tokenised


class Options(CheckpointOptions):
    """Keys of the `model` section."""

    name: Annotated[str, PathMark("folder")] = Field(
        description="a hub id such as Qwen/Qwen3-Reranker-0.6B, or a folder"
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


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Find the model; vLLM starts with the first request. Raises `InputError` if vLLM cannot run it."""
    return Vllm(options, setting.seed)


@dataclass
class _Pending:
    """A prompt in the engine, and its outputs by number: one a continuation, or one for the prompt."""

    prompt: Prepared
    continuations: list[Sequence[int]]
    thought: Reply | None = None  # after which its labels are scored
    outputs: dict[int, Any] = field(default_factory=dict)


class Vllm(Backend):
    """A model in vLLM's engine: requests stream through it, a bounded number of them at a time."""

    raw_logits = False

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self.options, self.seed = options, seed
        shared = options.model_dump(include={"name", *CheckpointOptions.model_fields})
        self.weights = Weights.find(WeightOptions(**shared))
        self.config, self.dtype = self.weights.config, self.weights.dtype
        if self.weights.adapter or self.config.is_encoder_decoder:
            kind = "an adapter" if self.weights.adapter else "an encoder-decoder model"
            raise InputError(
                f"model.name: {options.name} is {kind}, which vLLM does not run; use backend: transformers"
            )
        on_cpu = self.weights.device.type == "cpu"
        self.deterministic = on_cpu if options.deterministic is None else options.deterministic
        self._pending: dict[int, _Pending] = {}
        self._numbers = count()

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Return the model's content and how prompts are rendered, for which its chat template is tried out."""
        quantization = {"quantization": self.options.quantization} if self.options.quantization else {}
        model = {"backend": "vllm", **self.weights.identity, "architecture": self.architecture}
        return model | quantization | self.tokens.identity

    @property
    def details(self) -> Mapping[str, object]:
        """Return the files by hash, and how they are computed with."""
        options = self.options
        model = {**self.weights.details, **self.tokens.details, "architecture": self.architecture}
        engine = {"engine": f"vllm {version()}", "prefix_caching": True, "deterministic": self.deterministic}
        engine["batch_invariant"] = os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1"
        engine |= {name: getattr(options, name) for name in ("tensor_parallel_size", "pipeline_parallel_size")}
        return {**model, "quantization": options.quantization, **engine, **gpu_details(self.weights.device)}

    @cached_property
    def tokens(self) -> Tokens:
        """Return the tokenizer, loaded when first needed."""
        return Tokens(self.weights.tokenizer, self.architecture, self.options)

    @cached_property
    def engine(self) -> Engine:
        """Return vLLM, started when first needed: not if all answers are in the ledger."""
        options, source = self.options, self.weights.base
        revision = source.arguments.get("revision")
        same = "trust_remote_code tensor_parallel_size pipeline_parallel_size gpu_memory_utilization enforce_eager"
        arguments = options.model_dump(include={*same.split(), "max_model_len", "max_num_seqs", "quantization"})
        arguments |= {"model": source.name, "revision": revision, "tokenizer_revision": revision}
        arguments |= {"dtype": self.dtype, "seed": self.seed, "enable_prefix_caching": True}
        arguments["logprobs_mode"] = "raw_logprobs"  # the labels' own, before sampling changes any
        arguments["kv_cache_memory_bytes"] = int(options.kv_cache_gib * 2**30) if options.kv_cache_gib else None
        arguments = {name: value for name, value in arguments.items() if value is not None}
        return Engine(arguments, own_process=not self.deterministic)

    def collect(self) -> Answered:
        """Fill the engine from the queue, and wait until it has answered something."""
        replies: Answered = []
        while not replies and (self.waiting or self._pending):
            for request in self.take(max(0, OPEN - len(self._pending))):
                self._ask(Prepared(request, *self.tokens.prompt(request)))
            for output in self.engine.finished():
                number, part = map(int, output.request_id.split("."))
                pending = self._pending[number]
                pending.outputs[part] = output
                if len(pending.outputs) == max(1, len(pending.continuations)):
                    replies += self._answered(self._pending.pop(number))
        return replies

    def close(self) -> None:
        """Stop the engine if it was started."""
        if "engine" in self.__dict__:
            self.__dict__.pop("engine").close()

    def _ask(self, prompt: Prepared, thought: Reply | None = None) -> None:
        """Hand a prompt to the engine, once for each continuation: the target, or each whole label.

        One that goes on with a thought is asked for the labels after it.
        """
        request = prompt.request
        if request.ask.kind == "relevance":
            problem = "model.backend: vllm runs language models, and a cross-encoder is asked for"
            raise InputError(f"{problem}; use backend: transformers")
        longest = self.engine.longest
        continuations: list[Sequence[int]] = [self.tokens.target(request)] if request.prompt.target else []
        if not continuations and request.scoring == "likelihood" and request.prompt.answer.scored == "whole":
            continuations = list(self.tokens.label_ids(request, prompt.text))
        generates = request.generates and thought is None
        params, number = self._params(prompt, continued=bool(continuations), generates=generates), next(self._numbers)
        for part, continuation in enumerate(continuations or [()]):
            ids = [*prompt.ids, *continuation]
            if len(ids) + params.max_tokens > longest:
                raise InputError(
                    f"query {request.query.id}: a prompt of {len(prompt.ids)} tokens does not fit the "
                    f"{longest} that vLLM reads; lower ranker.passage_tokens or the documents a prompt, or "
                    "raise model.max_model_len where the model allows it"
                )
            self.engine.add(f"{number}.{part}", ids, params)
        self._pending[number] = _Pending(prompt, continuations, thought)

    def _params(self, prompt: Prepared, *, continued: bool, generates: bool) -> Any:
        """Return vLLM's sampling parameters; it generates a token even where none is asked for."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        request, decoding = prompt.request, prompt.request.terms.decoding
        params: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "detokenize": False}
        if continued:
            params["prompt_logprobs"] = 0
        elif not generates:
            params["logprob_token_ids"] = self._labels(prompt.request, prompt.text)
        else:
            params["max_tokens"] = self.tokens.answer_tokens(request)
            if request.prompt.answer.scored in WITHIN_TEXTS:
                params["logprobs"] = WITHIN_TEXTS[request.prompt.answer.scored]
            if decoding.temperature:
                # Chance must not depend on the prompts beside it.
                seed = (int.from_bytes(request.key[:8]) ^ self.seed) % 2**63
                params |= {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": seed}
                params |= {"top_k": decoding.top_k} if decoding.top_k else {}
            if decoding.stop:
                params |= {"stop": list(decoding.stop), "detokenize": True}
            if request.terms.model_settings:
                params["repetition_penalty"] = self.engine.llm.get_default_sampling_params().repetition_penalty
        return SamplingParams(**params, output_kind=RequestOutputKind.FINAL_ONLY)

    def _labels(self, request: Request, text: str) -> list[int]:
        return [first for (first,) in self.tokens.label_ids(request, text)]

    def _answered(self, pending: _Pending) -> Answered:
        """Return a request and its reply, or nothing yet if labels are to be scored after its thought's closing."""
        prompt, request, start = pending.prompt, pending.prompt.request, len(pending.prompt.ids)
        if pending.continuations:
            scores = [
                sum(pending.outputs[part].prompt_logprobs[start + i][token].logprob for i, token in enumerate(tokens))
                for part, tokens in enumerate(pending.continuations)
            ]
            return [scored(prompt, scores, self.dtype, len(pending.continuations[0]) if request.prompt.target else 0)]
        [answer] = pending.outputs[0].outputs
        if pending.thought or not request.generates:
            labels = self._labels(request, prompt.text)
            of_labels = scored(prompt, [answer.logprobs[0][label].logprob for label in labels], self.dtype)
            return [(request, replace(pending.thought, scores=of_labels[1].scores)) if pending.thought else of_labels]
        written = (
            zip(answer.logprobs, answer.token_ids, strict=True) if request.prompt.answer.scored == "written" else ()
        )
        reply = text_reply(self.tokens, prompt, answer.token_ids, [listed[token].logprob for listed, token in written])
        if request.prompt.answer.scored == "after_thought":
            closed, last = self.tokens.closed(prompt, reply.text or ""), answer.logprobs[-1] if answer.logprobs else {}
            labels = self._labels(request, closed.text)
            if not all(label in last for label in labels):
                self._ask(closed, reply)
                return []
            reply = replace(reply, scores=tuple(last[label].logprob for label in labels))
        return [(request, reply)]
