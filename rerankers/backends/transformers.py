"""Hugging Face transformers, in this process: encoder-decoder and decoder-only models, on CPU or CUDA.

Labels are scored in one forward pass, at the position where the answer would begin; text is generated greedily. A
batch is padded to its longest prompt. Padding and batch size move float32 log-probabilities by about 1e-5, enough to
flip a near tie, so in float32 on a CPU, where batching gains nothing for models of real size, each prompt is computed
alone (`exact`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from ..digests import file_digest
from ..errors import BackendError, InputError
from ..prompts.answers import Reply
from ..prompts.prompts import Architecture
from . import Backend, ModelOptions, Queue, Request, Setting, Terms
from ._batches import Batch, Prepared, planned
from ._generation import Writer
from ._loading import TOKENIZER_FILES, combined, device_of, dtype_of, language_model, load, locate, model_files
from ._prefixes import LEAST, Prefixes
from ._tokens import Tokens, padded

if TYPE_CHECKING:
    import torch

WINDOW = 512
"""So many of the waiting requests are tokenised at once, and batched by length among themselves."""


class Options(ModelOptions):
    """Keys of the `model` section."""

    name: str = Field(description="a hub id such as google/flan-t5-large, or a folder")
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: bfloat16 on CUDA, float32 on CPU"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: int = Field(32, ge=1, description="the most prompts a batch")
    batch_tokens: int = Field(16_384, ge=1, description="the most tokens of prompts a batch, padding included")
    exact: bool | None = Field(
        None,
        description="compute each prompt alone, so that nothing depends on its batch; default: float32 on CPU",
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


def open(options: Options, setting: Setting) -> Backend:  # noqa: A001 - the name of every backend's entry
    """Load the model and its tokenizer.

    Raises `InputError` where they cannot be found or loaded, or where the device is not there.
    """
    return Transformers(options, setting.seed)


class Transformers(Queue):
    """A model and its tokenizer, answering one batch at a time."""

    simulated = False
    remembers = True

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__()
        self._planned: list[Batch] = []
        import huggingface_hub
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        # Its retries; that the hub was not reached is said once.
        huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        self.seed = seed
        self.device = device_of(options.device)
        self.dtype = dtype_of(options.dtype, self.device)
        self.source = locate(options.name, options.revision, trust_remote_code=options.trust_remote_code)
        self.config: Any = load(transformers.AutoConfig, self.source)
        self.architecture: Architecture = "encoder_decoder" if self.config.is_encoder_decoder else "decoder_only"
        self.identity: Mapping[str, object] = {
            "backend": "transformers",
            "model": self.source.identity,
            "dtype": str(self.dtype).removeprefix("torch."),
            "architecture": self.architecture,
        }
        exact = options.exact
        if exact is None:
            exact = self.device.type == "cpu" and self.dtype == torch.float32
        self.exact = exact
        self.batch_size = 1 if exact else options.batch_size
        self.batch_tokens = options.batch_tokens

    @property
    def details(self) -> Mapping[str, object]:
        """The files it is made of, and how it computes."""
        import torch

        files = {path.name: file_digest(path) for path in model_files(self.source.folder)}
        tokenizer = {name: digest for name, digest in files.items() if any(fnmatch(name, p) for p in TOKENIZER_FILES)}
        found: dict[str, object] = {
            "name": self.source.folder.name if self.source.is_folder else self.source.name,
            "revision": self.source.arguments.get("revision"),
            "files": files,
            "tokenizer": combined(tokenizer),
            "architecture": self.architecture,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "exact": self.exact,
            "batch_size": self.batch_size,
            "threads": torch.get_num_threads(),
        }
        if not self.exact:
            found["batch_tokens"] = self.batch_tokens
        if self.device.type == "cuda":
            found |= {"gpu": torch.cuda.get_device_name(self.device), "cuda": torch.version.cuda}
        return found

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, loaded when first needed."""
        import transformers

        return Tokens(load(transformers.AutoTokenizer, self.source), self.architecture)

    @cached_property
    def model(self) -> Any:
        """The model, loaded when first needed: a run whose answers are all in the ledger does without."""
        return language_model(self.source, self.architecture, self.dtype, self.device)

    @cached_property
    def _pad(self) -> int:
        """What batches are filled up with; the attention mask leaves it out, so any token will do."""
        tokenizer = self.tokens.tokenizer
        return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if isinstance(i, int))

    @cached_property
    def _accepted(self) -> set[str]:
        """The arguments that the model's forward pass takes."""
        return set(inspect.signature(self.model.forward).parameters)

    def collect(self) -> list[tuple[Request, Reply]]:
        """Answer the next batch of what waited; a batch too large for the memory is halved until it fits."""
        import torch

        if not self._planned:
            prompts = [Prepared(request, *self.tokens.prompt(request)) for request in self.take(WINDOW)]
            batches = planned(prompts, self.batch_size, self.batch_tokens)
            self._planned = [[prompt] for prompt in prompts] if self.exact else list(batches)
        while self._planned:
            batch = self._planned.pop(0)
            try:
                with torch.inference_mode():
                    return self._answer(batch[0].request.terms, batch)
            except torch.OutOfMemoryError as error:
                if len(batch) == 1:
                    raise BackendError(
                        f"out of memory on {self.device} with a single prompt of {len(batch[0].ids)} tokens; lower "
                        "ranker.passage_tokens or name a smaller model, and run again: all earlier answers are kept"
                    ) from error
            self._shrink(batch)
        return []

    def _shrink(self, batch: Batch) -> None:
        """Plan with batches of half that size from now on."""
        import torch

        self.batch_size = len(batch) // 2
        waiting = [prompt for planned_batch in (batch, *self._planned) for prompt in planned_batch]
        self._planned = list(planned(waiting, self.batch_size, self.batch_tokens))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Nothing is held that Python would not let go of."""

    def _answer(self, terms: Terms, batch: Batch) -> list[tuple[Request, Reply]]:
        """Answer a batch of requests of the same terms."""
        if terms.prompt.target:
            return self._continue(batch)
        if terms.scoring == "likelihood":
            return (self._score_whole_labels if terms.prompt.answer.scored == "whole" else self._score_labels)(batch)
        if terms.decoding.temperature:
            # Each alone: what chance gives one prompt must not depend on those beside it.
            return [reply for prompt in batch for reply in self._write([prompt])]
        return self._write(batch)

    def _score_labels(self, batch: Batch) -> list[tuple[Request, Reply]]:
        """The labels' log-probabilities over the whole vocabulary, where the answer would begin."""
        import torch

        # In double precision: the difference of two labels then keeps every bit of the model's logits.
        scores = torch.log_softmax(self._last_logits(batch).double(), dim=-1).cpu()
        replies = []
        for row, prompt in zip(scores, batch, strict=True):
            request = prompt.request
            chosen = tuple(row[[first for (first,) in self.tokens.label_ids(request, prompt.text)]].tolist())
            _check_number(sum(chosen), request, self.dtype)
            replies.append((request, Reply(scores=chosen, prompt_tokens=len(prompt.ids), completion_tokens=0)))
        return replies

    def _last_logits(self, batch: Batch) -> torch.Tensor:
        """The logits (a row a prompt) of the answer's first token."""
        if self._prefixes is not None and len(batch) == 1:
            self._check_lengths(batch)
            [prompt] = batch
            length = self.tokens.shared_prefix(prompt.request, prompt.ids)
            if LEAST <= length < len(prompt.ids):
                kept: torch.Tensor = self._prefixes.last_logits(prompt.ids, length)
                return kept
        inputs = self._inputs(batch)
        keep = {"logits_to_keep": 1} if "logits_to_keep" in self._accepted else {}
        logits: torch.Tensor = self.model(**inputs, **keep, use_cache=False).logits[:, -1]
        return logits

    @cached_property
    def _prefixes(self) -> Prefixes | None:
        """The beginnings of prompts that are read once; none for models that keep none, and in batches."""
        usable = self.architecture == "decoder_only" and {"past_key_values", "logits_to_keep"} <= self._accepted
        # Layers of other kinds (sliding windows, states of recurrences) keep less than a beginning's keys and values.
        plain = set(getattr(self.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        return Prefixes(self.model) if usable and plain and self.exact else None

    def _continue(self, batch: Batch) -> list[tuple[Request, Reply]]:
        """The log-probability of each request's target, summed over its tokens."""
        requests, prompts = [prompt.request for prompt in batch], [prompt.ids for prompt in batch]
        targets = [self.tokens.target(request) for request in requests]
        totals = self._target_scores(batch, targets)
        lengths = [len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)]
        return [
            (request, Reply(scores=(total,), prompt_tokens=length, completion_tokens=0))
            for request, total, length in zip(requests, totals, lengths, strict=True)
        ]

    def _score_whole_labels(self, batch: Batch) -> list[tuple[Request, Reply]]:
        """The labels' log-probabilities, each summed over all its tokens."""
        replies = []
        for prompt in batch:
            labels = [list(label) for label in self.tokens.label_ids(prompt.request, prompt.text)]
            rows = [labels[i : i + self.batch_size] for i in range(0, len(labels), self.batch_size)]
            scores = [score for some in rows for score in self._target_scores([prompt] * len(some), some)]
            reply = Reply(scores=tuple(scores), prompt_tokens=len(prompt.ids), completion_tokens=0)
            replies.append((prompt.request, reply))
        return replies

    def _target_scores(self, batch: Batch, targets: Sequence[list[int]]) -> list[float]:
        """The log-probability of each target after its prompt, summed over the target's tokens."""
        import torch

        encoder_decoder = self.architecture == "encoder_decoder"
        if encoder_decoder:
            inputs = self._inputs(batch)
            first = inputs["decoder_input_ids"][0].tolist()
            shown, _ = padded([[*first, *target[:-1]] for target in targets], self._pad, left=False)
            inputs["decoder_input_ids"] = torch.tensor(shown, device=self.device)
            logits = self.model(**inputs, use_cache=False).logits[:, len(first) - 1 :]
        else:
            inputs = self._inputs(
                [
                    Prepared(prompt.request, prompt.text, prompt.ids + target)
                    for prompt, target in zip(batch, targets, strict=True)
                ]
            )
            longest = max(len(target) for target in targets)
            keep = {"logits_to_keep": longest + 1} if "logits_to_keep" in self._accepted else {}
            logits = self.model(**inputs, **keep, use_cache=False).logits
        scores = []
        for row, prompt, target in zip(logits, batch, targets, strict=True):
            # Each position predicts the token after it; a decoder-only model's last one predicts what is not asked.
            positions = row[: len(target)] if encoder_decoder else row[-len(target) - 1 : -1]
            wanted = torch.tensor(target, device=self.device).unsqueeze(1)
            scores.append(float(torch.log_softmax(positions.double(), dim=-1).gather(1, wanted).sum()))
            _check_number(scores[-1], prompt.request, self.dtype)
        return scores

    def _write(self, batch: Batch) -> list[tuple[Request, Reply]]:
        """Generated text, without what it was made to begin with."""
        inputs = self._inputs(batch)
        inputs.pop("position_ids", None)  # generate() makes its own
        return self._writer.write(batch, inputs)

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.model, self.tokens, self._pad, self.seed)

    def _check_lengths(self, batch: Batch) -> None:
        """Raise `InputError` where a prompt and its answer are longer than the model reads."""
        # T5's positions are relative and have no end.
        encoder_decoder = self.architecture == "encoder_decoder"
        longest = None if encoder_decoder else getattr(self.config, "max_position_embeddings", None)
        for request, ids in ((prompt.request, prompt.ids) for prompt in batch):
            if longest is not None and len(ids) + self.tokens.answer_tokens(request) > longest:
                raise InputError(
                    f"query {request.query.id}: a prompt of {len(ids)} tokens does not fit the model's {longest}; "
                    "lower ranker.passage_tokens or the documents a prompt"
                )

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The model's input for a batch of prompts."""
        import torch

        self._check_lengths(batch)
        encoder_decoder = self.architecture == "encoder_decoder"
        rows, mask = padded([prompt.ids for prompt in batch], self._pad, left=not encoder_decoder)
        inputs = {
            "input_ids": torch.tensor(rows, device=self.device),
            "attention_mask": torch.tensor(mask, device=self.device),
        }
        if encoder_decoder:
            first = [self.config.decoder_start_token_id, *self.tokens.decoder_prefix(batch[0].request)]
            inputs["decoder_input_ids"] = torch.tensor([first] * len(rows), device=self.device)
        elif "position_ids" in self._accepted:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs


def _check_number(score: float, request: Request, dtype: torch.dtype) -> None:
    if not math.isfinite(score):
        raise BackendError(
            f"query {request.query.id}: the model's scores are not numbers in {dtype}; use dtype: bfloat16 or float32"
        )
