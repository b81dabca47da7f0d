"""A model's forward passes over batches of prompts: what goes in, and the logits at the positions that are asked about.

An encoder-decoder reads a prompt once, however many answers to it are scored; a decoder-only model's output head sees
the positions that are asked about and no others.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, InputError
from .._tokens.batches import Batch, Prepared
from .._tokens.tokens import Tokens, padded
from .positions import first_position, longest_input, start_token
from .prefixes import Prefixes

if TYPE_CHECKING:
    import torch


class Passes:
    """A model and its tokenizer, ready to read prompts.

    `keep_beginnings`: whether what prompts begin with in common is read once, where the model can do that.
    """

    def __init__(self, model: Any, tokens: Tokens, *, keep_beginnings: bool) -> None:
        self.model = model
        self.tokens = tokens
        self.device = model.device
        self.encoder_decoder = tokens.architecture == "encoder_decoder"
        self.longest = longest_input(model)
        self.start = start_token(model) if self.encoder_decoder else first_position(model)
        """An answer's first token (encoder-decoders), or a prompt's first position."""

        self._accepted = set(inspect.signature(model.forward).parameters)
        self.prefixes = Prefixes(model) if keep_beginnings and self._remembers_all else None

    @property
    def _remembers_all(self) -> bool:
        """Whether every layer keeps the keys and values of a whole beginning; windows and recurrences keep less."""
        layers = set(getattr(self.model.config, "layer_types", None) or ["full_attention"])
        usable = {"past_key_values", "logits_to_keep"} <= self._accepted
        return not self.encoder_decoder and usable and layers == {"full_attention"}

    @cached_property
    def pad(self) -> int:
        """What batches are filled up with; the attention mask leaves it out, so any token will do."""
        tokenizer = self.tokens.tokenizer
        return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if isinstance(i, int))

    def inputs(self, batch: Batch, targets: Sequence[Sequence[int]] = ()) -> dict[str, torch.Tensor]:
        """The model's input for a batch of prompts, of a decoder-only model with the targets behind them.

        Raises `InputError` where a prompt and its answer are longer than the model reads.
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
            inputs["decoder_input_ids"] = torch.tensor([first] * len(rows), device=self.device)
        elif "position_ids" in self._accepted:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0) + self.start
        return inputs

    def last_logits(self, batch: Batch) -> torch.Tensor:
        """The logits (a row a prompt) of the answer's first token."""
        if self.prefixes is not None and len(batch) == 1:
            [prompt] = batch
            if lengths := self.tokens.shared_prefixes(prompt.request, prompt.ids):
                self._check_length(prompt)
                kept: torch.Tensor = self.prefixes.last_logits(prompt.ids, lengths)
                return kept
        return self._logits(self.inputs(batch), last=1)[:, -1]

    def target_logits(self, batch: Batch, targets: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """For each prompt the logits at the positions that predict its target's tokens, a row a token."""
        inputs = self.inputs(batch, targets)
        lengths = [len(target) for target in targets]
        if self.encoder_decoder:
            first = inputs["decoder_input_ids"].shape[1] - 1
            rows = self._logits(self._behind(inputs, targets))[:, first:]
            return [row[:length] for row, length in zip(rows, lengths, strict=True)]
        # The last position predicts what is not asked.
        rows = self._logits(inputs, last=max(lengths) + 1)
        return [row[-length - 1 : -1] for row, length in zip(rows, lengths, strict=True)]

    def label_logits(self, batch: Batch, labels: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The same for several labels of one prompt, which an encoder reads once."""
        if not self.encoder_decoder:
            return [row for label in labels for row in self.target_logits(batch, [label])]
        inputs = self.inputs(batch)
        encoded = self.model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        read: dict[str, Any] = {"encoder_outputs": (encoded.last_hidden_state,)}
        read["attention_mask"] = inputs["attention_mask"]
        first = inputs["decoder_input_ids"].shape[1] - 1
        shown = [self._behind(inputs, [label])["decoder_input_ids"] for label in labels]
        return [self._logits(read | {"decoder_input_ids": ids})[0, first:] for ids in shown]

    def _behind(self, inputs: dict[str, torch.Tensor], targets: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """The inputs with all but the targets' last tokens behind what the decoder begins with."""
        import torch

        first = inputs["decoder_input_ids"][0].tolist()
        rows, _ = padded([[*first, *target[:-1]] for target in targets], self.pad, left=False)
        return inputs | {"decoder_input_ids": torch.tensor(rows, device=self.device)}

    def _logits(self, inputs: dict[str, Any], last: int | None = None) -> torch.Tensor:
        """The logits of the last positions, of all of them unless told."""
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
    """The model, the part of it that reads prompts compiled for any length and number of them.

    It is compiled when it first reads, and again for a batch of one after larger ones or the other way round.
    """
    part = model.get_encoder() if architecture == "encoder_decoder" else model.base_model
    part.compile(dynamic=True)
    return model


def compile_error(error: BaseException) -> BackendError | None:
    """What to tell where a model could not be compiled; None for any other error."""
    import torch

    if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
        return None
    why = " ".join(str(error).split())[:200]
    return BackendError(f"model.compile: the model cannot be compiled here ({why}); a C++ compiler is needed, or false")
