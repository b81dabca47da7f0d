"""Fusion in decoder: an encoder reads each passage by itself, and the decoder all their states, one after the other.

Izacard and Grave, EACL 2021, arXiv:2007.01282; of T5 (LiT5-Distill, ListT5), with pooled states (KaLM,
arXiv:2606.22807), and with the first states of each passage compared with the decoder's (MVP, EMNLP 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ...prompts.template import Fused
from .._tokens.tokens import Batch, padded, padded_inputs

if TYPE_CHECKING:
    import torch

    from .passes import Passes


def fused_inputs(passes: Passes, batch: Batch) -> dict[str, Any]:
    """Return the encoder's states for each prompt, their mask, and what the decoder begins with."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    form = cast(Fused, batch[0].request.prompt.fused)
    texts = [passes.tokens.apart(prompt.request) for prompt in batch]
    states = _states(passes, [part for _, parts, _ in texts for part in parts])
    pooled = [_means(state, form.pooled) for state in states]
    rows = [torch.cat([pooled.pop(0) for _ in parts]) for _, parts, _ in texts]
    mask = [torch.ones(len(row), dtype=torch.long, device=passes.device) for row in rows]
    joined, masks = (torch.nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (rows, mask))
    first = [passes.start, *passes.tokens.decoder_prefix(batch[0].request)]
    starts, shown = padded([around or first for _, _, around in texts], passes.tokens.pad, left=True)
    decoder = {"decoder_input_ids": starts, "decoder_attention_mask": shown}
    inputs = {name: torch.tensor(array, device=passes.device) for name, array in decoder.items()}
    return {"encoder_outputs": BaseModelOutput(joined), "attention_mask": masks, **inputs}


def view_scores(passes: Passes, batch: Batch) -> list[list[float]]:
    """Return for each passage the mean over views of its state's product with the decoder's first state."""
    import torch

    scores = []
    for prompt in batch:
        states = _states(passes, passes.tokens.apart(prompt.request)[1])
        views = torch.stack([state[: cast(Fused, prompt.request.prompt.fused).views] for state in states], dim=1)
        start = torch.full((len(views), 1), passes.start, device=passes.device)
        anchors = passes.model.get_decoder()(input_ids=start, encoder_hidden_states=views, use_cache=False)
        products = torch.einsum("vd,vpd->vp", anchors.last_hidden_state[:, 0].float(), views.float())
        scores.append(products.mean(0).tolist())
    return scores


def _states(passes: Passes, rows: list[list[int]]) -> list[torch.Tensor]:
    """Return the encoder's states of each text, without padding."""
    encoder = passes.model.get_encoder()
    states = encoder(**padded_inputs(encoder, rows, passes.tokens.pad)).last_hidden_state
    return [state[: len(row)] for state, row in zip(states, rows, strict=True)]


def _means(states: torch.Tensor, size: int) -> torch.Tensor:
    """Return the means of so many neighbouring states each, the last of those that are left."""
    import torch

    return states if size == 1 else torch.stack([states[i : i + size].mean(0) for i in range(0, len(states), size)])
