"""Hugging Face transformers, in this process: encoder-decoder, decoder-only and cross-encoder models, on CPU or CUDA.

Labels are scored in one forward pass, at the position where the answer would begin; text is generated. A batch is
padded to its longest prompt. Padding and batch size move float32 log-probabilities by about 1e-5, enough to flip a near
tie, so in float32 on a CPU, where batching gains nothing for models of real size, each prompt is computed alone
(`exact`): several at the same time, each by its share of the threads, which wait for each other less than all of them
do over one prompt. While the model computes, the next batch is planned and tokenised.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

from pydantic import Field

from ..errors import BackendError, InputError, R2llmError
from ..marks import Speed
from ._local.cross_encoders import CrossEncoder
from ._local.devices import out_of_memory, slow_in_software
from ._local.generation import Writer
from ._local.loading import one_line
from ._local.passes import Passes, compile_error, compiled
from ._local.scores import first_token_scores, target_scores, whole_label_scores
from ._local.weights import WeightOptions, Weights
from ._tokens.batches import Batch, Prepared, planned
from ._tokens.tokens import Tokens
from .base import Answered, Backend, Request, RequestSettings, Setting

WINDOW = 512
"""So many of the waiting requests are tokenised at once, and batched by length among themselves."""

AHEAD = 1
"""So many batches are planned and handed to the model besides those that it computes."""

WORKERS = 4
"""So many prompts are computed at the same time at most, unless told: a single ask is not to wait for one thread."""


class Options(WeightOptions):
    """Keys of the `model` section."""

    batch_size: Speed[int] = Field(32, ge=1, description="the most prompts a batch")
    batch_tokens: Speed[int] = Field(16_384, ge=1, description="the most tokens of prompts a batch, padding included")
    exact: Speed[bool | None] = Field(
        None,
        description="compute each prompt alone, so that nothing depends on its batch; default: float32 on CPU",
    )
    workers: Speed[int | None] = Field(
        None,
        ge=1,
        description="prompts computed at the same time, each by its share of the threads; default: up to four, where "
        "each is computed alone",
    )
    compile: Speed[bool] = Field(
        False, description="compile the model when it first reads a prompt: some 30 s, then faster where it pays"
    )


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Load the model and its tokenizer.

    Raises `InputError` where they cannot be found or loaded, or where the device is not there.
    """
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
        self._planned: deque[Batch] = deque()
        self._running: list[Future[Answered]] = []
        import huggingface_hub
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # Its retries; that the hub was not reached is said once.
        huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.weights = Weights.find(options)
        self.device, self.dtype, self.config = self.weights.device, self.weights.dtype, self.weights.config
        if slow_in_software(self.dtype, self.device):
            logging.getLogger(__name__).warning(
                "dtype %s: this CPU computes it in software, far slower than float32", str(self.dtype)[6:]
            )
        self.architecture = "encoder_decoder" if self.config.is_encoder_decoder else "decoder_only"
        exact = options.exact
        if exact is None:
            exact = self.device.type == "cpu" and self.dtype == torch.float32
        self.exact = exact
        self.compile = options.compile
        self.batch_size = 1 if exact else options.batch_size
        self.batch_tokens = options.batch_tokens
        self.threads = torch.get_num_threads()
        self.workers = self._useful_workers(options)
        self._computers = ThreadPoolExecutor(self.workers, "model", self._begin)

    def _useful_workers(self, options: Options) -> int:
        """How many prompts are computed at the same time.

        It does not depend on what is asked: a product's last bits depend on the number of threads.
        """
        alone = self.exact and self.device.type == "cpu" and not self.compile and self.weights.quantization is None
        if not alone or self._changes_while_reading:
            if (options.workers or 1) > 1:
                raise InputError(
                    "model.workers: several prompts are computed at the same time only on a CPU, each alone (exact: "
                    "true), by a model that is neither compiled nor quantised and whose positions are fixed"
                )
            return 1
        return options.workers or min(WORKERS, self.threads)

    @property
    def _changes_while_reading(self) -> bool:
        """Whether the model keeps something of the last prompt: dynamic positions, which grow with the longest."""
        settings = getattr(self.config, "rope_parameters", None) or getattr(self.config, "rope_scaling", None) or {}
        kinds = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
        return any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)

    def _begin(self) -> None:
        """What a worker begins with: its share of the threads."""
        import torch

        if self.workers > 1:
            torch.set_num_threads(max(1, self.threads // self.workers))

    @cached_property
    def identity(self) -> Mapping[str, object]:
        """What makes its answers what they are; how a chat template renders prompts is tried out for it."""
        rendering = self.tokens.identity if self.architecture == "decoder_only" else {}
        return {"backend": "transformers", **self.weights.identity, "architecture": self.architecture, **rendering}

    @property
    def details(self) -> Mapping[str, object]:
        """The files it is made of, and how it computes."""
        import torch

        found: dict[str, object] = {
            "architecture": self.architecture,
            **self.weights.details,
            **self.tokens.details,
            "exact": self.exact,
            "batch_size": self.batch_size,
            "threads": self.threads,
        }
        if self.workers > 1:
            found["workers"] = self.workers
        if self.compile:
            found["compile"] = True
        if not self.exact:
            found["batch_tokens"] = self.batch_tokens
        if self.device.type == "cuda":
            found |= {"gpu": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda}
        return found

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, loaded when first needed."""
        return Tokens(self.weights.tokenizer, self.architecture, self.weights.options)

    @cached_property
    def model(self) -> Any:
        """The model, loaded when first needed: a run whose answers are all in the ledger does without."""
        model = self.weights.language_model()
        return compiled(model, self.architecture) if self.compile else model

    @cached_property
    def _cross_encoder(self) -> CrossEncoder:
        model = self.weights.classifier()
        return CrossEncoder(compiled(model, self.architecture) if self.compile else model, self.tokens)

    @cached_property
    def passes(self) -> Passes:
        """The model's forward passes."""
        return Passes(self.model, self.tokens, keep_beginnings=self.exact)

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.passes, self.seed)

    def collect(self) -> Answered:
        """Wait for the next batch's answers, and let the model go on with what waits.

        What fails is raised when all that was under way is handed over.
        """
        while not self._failures() and len(self._running) < self.workers + AHEAD and (batch := self._next_batch()):
            self._load(batch[0].request)
            self._running.append(self._computers.submit(self._answered, batch))
        if not self._running:
            return []
        wait(self._running, return_when=FIRST_COMPLETED)
        if self._failures():
            wait(self._running)
        failures = self._failures()
        done = [future for future in self._running if future.done() and future not in failures] or failures
        self._running.remove(done[0])
        return done[0].result()

    def _failures(self) -> list[Future[Answered]]:
        return [future for future in self._running if future.done() and future.exception()]

    def _load(self, request: Request) -> None:
        """Load what a request needs: here and not beside other work, since loading changes settings of all torch."""
        try:
            if request.ask.kind == "relevance":
                _ = self._cross_encoder
            elif request.scoring == "generation":
                _ = self._writer
            else:
                _ = self.passes
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise BackendError(
                f"out of memory on {self.device} while the model was loaded; name a smaller one, or lower its precision"
            ) from error

    def _next_batch(self) -> Batch:
        """The next prompts to compute together; nothing where none wait."""
        if not self._planned:
            prompts = [Prepared(request, *self.tokens.prompt(request)) for request in self.take(WINDOW)]
            batches = planned(prompts, self.batch_size, self.batch_tokens)
            self._planned.extend([[prompt] for prompt in prompts] if self.exact else batches)
        batch = self._planned.popleft() if self._planned else []
        if len(batch) > self.batch_size:  # planned before the memory was found to hold fewer
            self._planned.appendleft(batch[self.batch_size :])
        return batch[: self.batch_size]

    def _answered(self, batch: Batch) -> Answered:
        """The answers to a batch; one too large for the memory is halved until it fits, and so are those after it."""
        import torch

        try:
            with torch.inference_mode():
                return self._answer(batch[0].request.terms, batch)
        except R2llmError:
            raise
        except Exception as error:
            if not out_of_memory(error):
                raise compile_error(error) or self._failed(error, batch) from error
            if len(batch) == 1:
                raise BackendError(
                    f"out of memory on {self.device} with a single prompt of {len(batch[0].ids)} tokens; lower "
                    "ranker.passage_tokens or name a smaller model, and run again: all earlier answers are kept"
                ) from error
        return self._halved(batch)

    def _failed(self, error: Exception, batch: Batch) -> Exception:
        """What to tell of an error in the model's code; one of our own code stays what it is."""
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].startswith(__name__.partition(".")[0] + "."):
            return error
        longest = max(len(prompt.ids) for prompt in batch)
        return BackendError(
            f"query {batch[0].request.query.id}: model {self.weights.base.name} failed on a prompt of {longest} tokens "
            f"({type(error).__name__}: {one_line(error)}); all earlier answers are kept"
        )

    def _halved(self, batch: Batch) -> Answered:
        """The answers to a batch, half of it at a time; batches planned from now on are no larger than that."""
        import torch

        logging.getLogger(__name__).warning(
            "out of memory on %s with %d prompts at once: half as many from now on", self.device, len(batch)
        )
        self.batch_size = len(batch) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        answers: Answered = []
        while batch:
            some, batch = batch[: self.batch_size], batch[self.batch_size :]
            answers += self._answered(some)
        return answers

    def close(self) -> None:
        """Wait for what is being computed; nothing else is held that Python would not let go of."""
        self._computers.shutdown(cancel_futures=True)

    def _answer(self, terms: RequestSettings, batch: Batch) -> Answered:
        """Answer a batch of requests of the same terms."""
        if batch[0].request.ask.kind == "relevance":
            return self._cross_encoder.scores(batch)
        if terms.prompt.target:
            return target_scores(self.passes, batch)
        if terms.scoring == "likelihood":
            whole = terms.prompt.answer.scored == "whole"
            return (whole_label_scores if whole else first_token_scores)(self.passes, batch)
        return self._write(batch)

    def _write(self, batch: Batch) -> Answered:
        """Generated text, without what it was made to begin with."""
        inputs = self.passes.inputs(batch)
        inputs.pop("position_ids", None)  # generate() makes its own
        return self._writer.write(batch, inputs)
