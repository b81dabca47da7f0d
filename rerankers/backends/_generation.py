"""Text that a model writes: greedy or sampled, as long as the terms allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..prompts.answers import Reply
from . import Request
from ._batches import Batch
from ._tokens import Tokens

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Writer:
    """A model that writes, with its tokenizer; `pad` fills batches up, `seed` is the experiment's."""

    model: Any
    tokens: Tokens
    pad: int
    seed: int

    def write(self, batch: Batch, inputs: Mapping[str, torch.Tensor]) -> list[tuple[Request, Reply]]:
        """The texts that answer a batch, without what they were made to begin with."""
        import torch
        import transformers

        requests = [prompt.request for prompt in batch]
        lengths = [self.tokens.answer_tokens(request) for request in requests]
        encoder_decoder = self.tokens.architecture == "encoder_decoder"
        start = inputs["decoder_input_ids" if encoder_decoder else "input_ids"].shape[1]
        decoding = requests[0].terms.decoding
        if decoding.temperature:
            torch.manual_seed(int.from_bytes(requests[0].key[:8]) ^ self.seed)
        ends = self.model.generation_config.eos_token_id
        output = self.model.generate(
            **inputs,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=max(lengths),
                do_sample=decoding.temperature > 0,
                temperature=decoding.temperature or None,
                top_p=decoding.top_p if decoding.temperature else None,
                pad_token_id=self.pad,
                eos_token_id=ends,
                decoder_start_token_id=self.model.config.decoder_start_token_id if encoder_decoder else None,
            ),
        )[:, start:].tolist()
        stops = set(ends if isinstance(ends, list) else [ends])
        replies = []
        for request, prompt, most, row in zip(requests, batch, lengths, output, strict=True):
            end = next((i + 1 for i, token in enumerate(row[:most]) if token in stops), min(len(row), most))
            text = self.tokens.tokenizer.decode(row[:end], skip_special_tokens=True)
            replies.append((request, Reply(text=text, prompt_tokens=len(prompt.ids), completion_tokens=end)))
        return replies
