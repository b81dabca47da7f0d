"""How many tokens a model reads, where its positions begin, and what its decoder begins with."""

from __future__ import annotations

from typing import Any

from ...errors import InputError


def first_position(model: Any) -> int:
    """The row of the position table that the first token has: behind the padding's (RoBERTa), else 0."""
    return max((padding + 1 for _, padding in _tables(model) if padding is not None), default=0)


def longest_input(model: Any) -> int | None:
    """The most tokens that a model reads, an encoder-decoder's encoder; None where its positions have no end.

    Its config may count rows of the position table that no token has.
    """
    config = model.config.get_text_config(encoder=True) if model.config.is_encoder_decoder else model.config
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    sizes = [rows - (0 if padding is None else padding + 1) for rows, padding in _tables(model)]
    return min([*sizes, *([known] if isinstance(known, int) and known > 0 else [])], default=None)


def of_config(config: Any) -> int | None:
    """What `longest_input` says, without the model's weights."""
    import torch
    import transformers

    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int) or getattr(config, "rope_parameters", None):  # no table, no padding in it
        return known if isinstance(known, int) else None
    try:
        with torch.device("meta"):
            return longest_input(transformers.AutoModel.from_config(config))
    except Exception:  # noqa: BLE001 - code that came with the model, or a kind of model without a body of its own
        return known


def start_token(model: Any) -> int:
    """What an encoder-decoder's decoder begins with. Raises `InputError` where nothing says it."""
    holders = [model.config, model.generation_config]
    decoder = model.config.get_text_config(decoder=True)
    named = [getattr(holder, "decoder_start_token_id", None) for holder in holders]
    named += [getattr(holder, "bos_token_id", None) for holder in [decoder, *reversed(holders)]]
    for token in named:
        if isinstance(token, int):
            return token
    raise InputError("model.name: its config names no decoder_start_token_id, with which an answer begins; add it")


def _tables(model: Any) -> list[tuple[int, int | None]]:
    """The rows of each table of positions that prompts are read with, and the one that is the padding's."""
    import torch

    found = []
    for name, part in model.named_modules():
        *above, own = name.split(".")
        if model.config.is_encoder_decoder and "decoder" in above:
            continue
        if isinstance(part, torch.nn.Embedding) and ("position" in own or own == "wpe"):
            found.append((part.num_embeddings - getattr(part, "offset", 0), part.padding_idx))
    return found
