"""Hugging Face transformers, in this process: encoder-decoder, decoder-only and cross-encoder models, on CPU or CUDA.

Labels are scored in one forward pass, at the position where the answer would begin. Padding and batch size move
float32 log-probabilities by about 1e-5, enough to flip a near tie. On a CPU batching gains nothing unless it multiplies
tiles in half precision (AMX); so each prompt is computed alone there (`exact`), several at the same time, each by its
share of the threads, a lone one by all. While the model computes, the next batch is tokenised.
"""

import logging
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any

from pydantic import Field

from ..errors import BackendError, R2llmError
from ..marks import Speed
from ._local.chains import chain_of
from ._local.fusion import view_scores
from ._local.generation import Generator
from ._local.loading import gpu_details, multiplies_tiles, one_line, out_of_memory
from ._local.passes import Passes, fixed_positions
from ._local.scores import (
    Scores,
    first_token_scores,
    head_scores,
    scored,
    target_scores,
    token_scores,
    whole_label_scores,
)
from ._local.threads import Workers, one_thread
from ._local.vectors import Pooling, Vectors
from ._local.weights import Part, WeightOptions, Weights
from ._tokens.pairs import PairForm
from ._tokens.tokens import Batch, Prepared, Tokens, planned
from .base import Answered, Backend, Request, Setting

LOG = logging.getLogger(__name__)
WINDOW = 512  # waiting requests that are tokenised at once, and batched by length among themselves
WORKERS = 4  # the default limit of prompts computed at the same time: a single ask should not be left to one thread


class Options(WeightOptions):
    """Keys of the `model` section."""

    batch_size: Speed[int] = Field(32, ge=1, description="the most prompts a batch")
    batch_tokens: Speed[int] = Field(16_384, ge=1, description="the most tokens of prompts a batch, padding included")
    exact: Speed[bool | None] = Field(
        None,
        description="compute each prompt alone, so that nothing depends on its batch; default: on CPUs without AMX",
    )
    workers: Speed[int | None] = Field(
        None,
        ge=1,
        description="prompts computed at the same time, each alone (exact) on a CPU, by a share of the threads",
    )
    pooling: Pooling | None = Field(
        None, description="vectors: how a text's states become one; default: as the folder says, or mean"
    )
    compile: Speed[bool] = Field(
        False, description="compile the model when it first reads a prompt: some 30 s, then faster where it pays"
    )


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Find the model and its tokenizer. Raises `InputError` if they, or the device, are not there."""
    if not setting.weights:
        import torch

        cuda = options.device.startswith("cuda") or (options.device == "auto" and torch.cuda.is_available())
        dtype = "bfloat16" if cuda and options.dtype == "auto" else options.dtype
        options = options.model_copy(update={"device": "cpu", "dtype": dtype})
    return Transformers(options, setting.seed)


class Transformers(Backend):
    """A model and its tokenizer, answering a batch at a time or, each alone, several prompts."""

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        import torch

        self.seed = seed
        self.weights = Weights.find(options)
        self.device, self.config = self.weights.device, self.weights.config
        dtype = self.weights.dtype
        self.architecture = "encoder_decoder" if self.config.is_encoder_decoder else "decoder_only"
        by_default = self.device.type == "cpu" and not multiplies_tiles(dtype)
        self.exact = by_default if options.exact is None else options.exact
        self.compile, self.pooling = options.compile, options.pooling
        self.batch_size, self.batch_tokens = 1 if self.exact else options.batch_size, options.batch_tokens
        self.threads = torch.get_num_threads()
        self.workers = self._useful_workers(options)
        self._pool = Workers(self.threads, self.workers)
        self._planned: deque[Batch] = deque()
        self._running: deque[Future[Answered]] = deque()

    def _useful_workers(self, options: Options) -> int:
        """Return the number of prompts computed at once; not by the asks: threads decide a product's last bits.

        It is one but on a CPU that computes each alone, by a model that is neither compiled nor quantised and whose
        positions are fixed.
        """
        alone = self.exact and self.device.type == "cpu" and not self.compile and self.weights.quantization is None
        return options.workers or min(WORKERS, self.threads) if alone and fixed_positions(self.config) else 1

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """Return the model's content and how prompts are rendered, for which its chat template is tried out."""
        rendering = self.tokens.identity if self.architecture == "decoder_only" else {}
        rendering = {"pooling": self.pooling, **rendering} if self.pooling else rendering
        return {"backend": "transformers", **self.weights.identity, "architecture": self.architecture, **rendering}

    @property
    def details(self) -> Mapping[str, object]:
        """Return the files by hash, and how they are computed with."""
        computed = {"exact": self.exact, "batch_size": self.batch_size, "threads": self.threads}
        computed |= {"workers": self.workers} if self.workers > 1 else {}
        computed |= {"compile": True} if self.compile else {}
        computed |= {} if self.exact else {"batch_tokens": self.batch_tokens}
        model = {"architecture": self.architecture, **self.weights.details, **self.tokens.details}
        return model | computed | gpu_details(self.device)

    @cached_property
    def tokens(self) -> Tokens:
        """Return the tokenizer, loaded when first needed."""
        return Tokens(self.weights.tokenizer, self.architecture, self.weights.options, lambda: self.chain)

    @cached_property
    def chain(self) -> PairForm | None:
        """Return how the folder says that pairs are read and scored, or None if it says nothing."""
        return chain_of(self.weights.base)

    def _model(self, part: Part = "language") -> Any:
        """Return the model, compiled for prompts of any length if so told: at the first one, and for batches of one."""
        with one_thread():
            model = self.weights.load(part, pack=not self.compile)
        if self.compile:
            (model.get_encoder() if self.config.is_encoder_decoder else model.base_model).compile(dynamic=True)
        self._pool.watch(model)
        return model

    @cached_property
    def _cross_encoder(self) -> Callable[[Batch], Scores]:
        if self.chain is None:
            return partial(head_scores, self._model("head"), self.tokens)
        return partial(token_scores, self.passes, self.chain.tokens) if self.chain.tokens else self._vectors.of_pairs

    @cached_property
    def _vectors(self) -> Vectors:
        return Vectors(self._model("body"), self.tokens, self.weights.base, self.pooling)

    @cached_property
    def passes(self) -> Passes:
        """Return the model's forward passes."""
        return Passes(self._model(), self.tokens, cache_prefixes=self.exact)

    @cached_property
    def _generator(self) -> Generator:
        return Generator(self.passes, self.seed)

    def collect(self) -> Answered:
        """Wait for the oldest batch's answers while the model goes on with those that follow."""
        while len(self._running) < 2 * self.workers and (batch := self._next_batch()):
            try:
                answer = self._answerer(batch[0].request)  # in this thread, since loading changes settings of all torch
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                problem = f"out of memory on {self.device} while the model was loaded"
                raise BackendError(
                    f"{problem}; name a smaller one, lower its precision, or set model.device_map: auto"
                ) from error
            lone = not self._running and not self._planned
            self._running.append(self._pool.submit(self._answered, answer, batch, lone=lone))
        return self._running.popleft().result() if self._running else []

    def _answerer(self, request: Request) -> Callable[[Batch], Answered]:
        """Return what answers batches of such requests, loaded."""
        if request.prompt.answer.scored == "cosine":
            return partial(self._scored, self._vectors.similarities)
        if request.ask.kind == "relevance":
            return partial(self._scored, self._cross_encoder)
        if request.generates:
            return self._generator.generate
        if request.prompt.target:
            return partial(self._scored, partial(target_scores, self.passes))
        if request.prompt.of_states:
            return partial(self._scored, partial(view_scores, self.passes))
        whole = request.prompt.answer.scored == "whole"
        return partial(self._scored, partial(whole_label_scores if whole else first_token_scores, self.passes))

    def _scored(self, scores: Callable[[Batch], Scores], batch: Batch) -> Answered:
        dtype, target = self.weights.dtype, self.tokens.target if batch[0].request.prompt.target else lambda _: []
        return [
            scored(prompt, numbers, dtype, len(target(prompt.request)))
            for prompt, numbers in zip(batch, scores(batch), strict=True)
        ]

    def _next_batch(self) -> Batch:
        if not self._planned:
            prompts = [Prepared(request, *self.tokens.prompt(request)) for request in self.take(WINDOW)]
            batches = planned(prompts, self.batch_size, self.batch_tokens)
            self._planned.extend([[prompt] for prompt in prompts] if self.exact else batches)
        batch = self._planned.popleft() if self._planned else []
        if len(batch) > self.batch_size:  # planned before memory ran out
            self._planned.appendleft(batch[self.batch_size :])
        return batch[: self.batch_size]

    def _answered(self, answer: Callable[[Batch], Answered], batch: Batch) -> Answered:
        """Answer a batch; if memory runs out, by halves, and so the batches after it."""
        import torch

        try:
            with torch.inference_mode():
                return answer(batch)
        except R2llmError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                raise self._failed(error, batch) from error
            if len(batch) == 1:
                raise BackendError(
                    f"out of memory on {self.device} with a single prompt of {len(batch[0].ids)} tokens; lower "
                    "ranker.passage_tokens or name a smaller model, and run again: all earlier answers are kept"
                ) from error
        # Outside the handler, whose traceback holds the tensors.
        LOG.warning("out of memory on %s with %d prompts at once: half as many from now on", self.device, len(batch))
        self.batch_size = len(batch) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        answers: Answered = []
        while batch:
            part, batch = batch[: self.batch_size], batch[self.batch_size :]
            answers += self._answered(answer, part)
        return answers

    def _failed(self, error: Exception, batch: Batch) -> Exception:
        """Return what to raise for an error in the model's code; one in r2llm's stays what it is."""
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith(__name__.partition(".")[0] + "."):
            return error
        model, longest = self.weights.base.words, max(len(prompt.ids) for prompt in batch)
        problem = f"query {batch[0].request.query.id}: model {model} failed on a prompt of {longest} tokens"
        return BackendError(f"{problem} ({type(error).__name__}: {one_line(error)}); all earlier answers are kept")

    def close(self) -> None:
        """Wait for what is being computed."""
        self._pool.close()
