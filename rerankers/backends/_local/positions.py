"""The longest input of a model, its first position, and the token its decoder starts with."""

from __future__ import annotations

from typing import Any

from ...errors import InputError


def first_position(model: Any) -> int:
    """Return the row of the position table for the first token: behind the padding's (RoBERTa), else 0."""
    return max((padding + 1 for _, padding in _tables(model) if padding is not None), default=0)


def longest_input(model: Any) -> int | None:
    """Return the most tokens that a model, or its encoder, reads, or None if its positions have no end.

    The config may count rows of the position table that no token has.
    """
    config = model.config.get_text_config(encoder=True) if model.config.is_encoder_decoder else model.config
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    sizes = [rows - (0 if padding is None else padding + 1) for rows, padding in _tables(model)]
    return min([*sizes, *([limit] if isinstance(limit, int) and limit > 0 else [])], default=None)


def of_config(config: Any) -> int | None:
    """Return `longest_input` without the model's weights."""
    import torch
    import transformers

    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or getattr(config, "rope_parameters", None):  # no table
        return limit if isinstance(limit, int) else None
    try:
        with torch.device("meta"):
            return longest_input(transformers.AutoModel.from_config(config))
    except Exception:  # noqa: BLE001 - code that came with the model, or a kind of model without a body of its own
        return limit


def start_token(model: Any) -> int:
    """Return the first token of an encoder-decoder's decoder. Raises `InputError` if nothing names it."""
    configs = [model.config, model.generation_config]
    starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
    decoder = model.config.get_text_config(decoder=True)
    starts += [getattr(config, "bos_token_id", None) for config in [decoder, *reversed(configs)]]
    for token in starts:
        if isinstance(token, int):
            return token
    raise InputError("model.name: its config names no decoder_start_token_id, with which an answer begins; add it")


def _tables(model: Any) -> list[tuple[int, int | None]]:
    """Return the rows of each position table that reads prompts, and the padding's row."""
    import torch

    return [
        (part.num_embeddings - getattr(part, "offset", 0), part.padding_idx)
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Embedding)
        and ("position" in (last := name.rpartition(".")[2]) or last == "wpe")
        and not (model.config.is_encoder_decoder and "decoder" in name.split(".")[:-1])
    ]
