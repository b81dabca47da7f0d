"""A model's forward passes over batches of prompts, and the logits at the positions that are asked about."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, InputError
from .._tokens.batches import Batch, Prepared
from .._tokens.tokens import Tokens, padded
from .loading import one_line
from .positions import first_position, longest_input, start_token
from .prefixes import Prefixes

if TYPE_CHECKING:
    import torch

FULL = {"full_attention"}
"""The kind of layers that keep the keys and values of all tokens; windows and recurrences keep less."""


class Passes:
    """A model and its tokenizer, ready to read prompts; shared prefixes are cached where the model allows it."""

    def __init__(self, model: Any, tokens: Tokens, *, cache_prefixes: bool) -> None:
        self.model = model
        self.tokens = tokens
        self.device = model.device
        self.encoder_decoder = tokens.architecture == "encoder_decoder"
        self.longest = longest_input(model)
        self.start = start_token(model) if self.encoder_decoder else first_position(model)
        """An answer's first token (encoder-decoders), or a prompt's first position."""

        self._accepted = set(inspect.signature(model.forward).parameters)
        self.keeps_rows = not self.encoder_decoder and set(getattr(model.config, "layer_types", None) or FULL) == FULL
        """Whether each prompt has all its keys and values in a row of its own."""

        usable = self.keeps_rows and {"past_key_values", "logits_to_keep"} <= self._accepted
        self.prefixes = Prefixes(model) if cache_prefixes and usable else None

    @cached_property
    def pad(self) -> int:
        """Return the padding token; the attention mask hides it, so any will do."""
        tokenizer = self.tokens.tokenizer
        return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if isinstance(i, int))

    def inputs(self, batch: Batch, targets: Sequence[Sequence[int]] = ()) -> dict[str, torch.Tensor]:
        """Return the model's input for a batch of prompts; a decoder-only model reads the targets behind them.

        Raises `InputError` if a prompt and its answer are longer than the model reads.
        """
        import torch

        for prompt in batch:
            self._check_length(prompt)
        rows = [prompt.ids for prompt in batch]
        if targets and not self.encoder_decoder:
            rows = [[*ids, *target] for ids, target in zip(rows, targets, strict=True)]
        rows, mask = padded(rows, self.pad, left=not self.encoder_decoder)
        inputs = {
            "input_ids": torch.tensor(rows, device=self.device),
            "attention_mask": torch.tensor(mask, device=self.device),
        }
        if self.encoder_decoder:
            first = [self.start, *self.tokens.decoder_prefix(batch[0].request)]
            starts = [[*first, *target[:-1]] for target in targets] or [first] * len(rows)
            inputs["decoder_input_ids"] = torch.tensor(padded(starts, self.pad, left=False)[0], device=self.device)
        elif "position_ids" in self._accepted:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0) + self.start
        return inputs

    def last_logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits (a row a prompt) of the answer's first token."""
        if self.prefixes is not None and len(batch) == 1:
            [prompt] = batch
            if lengths := self.tokens.shared_prefixes(prompt.request, prompt.ids):
                self._check_length(prompt)
                logits: torch.Tensor = self.prefixes.last_logits(prompt.ids, lengths)
                return logits
        return self._logits(self.inputs(batch), last=1)[:, -1]

    def target_logits(self, batch: Batch, targets: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return for each prompt the logits that predict its target's tokens, a row a token."""
        inputs = self.inputs(batch, targets)
        lengths = [len(target) for target in targets]
        if self.encoder_decoder:
            first = len(self.tokens.decoder_prefix(batch[0].request))
            rows = self._logits(inputs)[:, first:]
            return [row[:length] for row, length in zip(rows, lengths, strict=True)]
        # The last position predicts what is not asked.
        rows = self._logits(inputs, last=max(lengths) + 1)
        return [row[-length - 1 : -1] for row, length in zip(rows, lengths, strict=True)]

    def label_logits(self, batch: Batch, labels: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the same for several labels of one prompt, which an encoder reads once."""
        if not self.encoder_decoder:
            return [row for label in labels for row in self.target_logits(batch, [label])]
        read: dict[str, Any] = self.inputs(batch)
        encoded = self.model.get_encoder()(input_ids=read.pop("input_ids"), attention_mask=read["attention_mask"])
        read["encoder_outputs"] = (encoded.last_hidden_state,)
        first = len(self.tokens.decoder_prefix(batch[0].request))
        starts = [self.inputs(batch, [label])["decoder_input_ids"] for label in labels]
        return [self._logits(read | {"decoder_input_ids": ids})[0, first:] for ids in starts]

    def _logits(self, inputs: dict[str, Any], last: int | None = None) -> torch.Tensor:
        """Return the logits of the last positions, or of all."""
        keep = {"logits_to_keep": last} if last and "logits_to_keep" in self._accepted else {}
        logits: torch.Tensor = self.model(**inputs, **keep, use_cache=False).logits
        return logits

    def _check_length(self, prompt: Prepared) -> None:
        answer = 0 if self.encoder_decoder else self.tokens.answer_tokens(prompt.request)
        if self.longest is not None and len(prompt.ids) + answer > self.longest:
            raise InputError(
                f"query {prompt.request.query.id}: a prompt of {len(prompt.ids)} tokens does not fit the model's "
                f"{self.longest}; lower ranker.passage_tokens or the documents a prompt"
            )


def compiled(model: Any, architecture: str) -> Any:
    """Return the model, its prompt reader compiled for any length: at the first prompt, and for batches of one."""
    part = model.get_encoder() if architecture == "encoder_decoder" else model.base_model
    part.compile(dynamic=True)
    return model


def compile_error(error: BaseException) -> BackendError | None:
    """Return what to raise if a model could not be compiled, or None for any other error."""
    import torch

    if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return None
    why = one_line(error)[:200]
    return BackendError(f"model.compile: the model cannot be compiled here ({why}); a C++ compiler is needed, or false")
