"""Rewrites of a model, in half precision only on a CPU, that keep its numbers, to rounding, and need less arithmetic.

A T5's position bias is looked up once a distance, and not once a pair of tokens, and joined with the mask once a batch.
Its decoder's few tokens attend to the encoder's states themselves: the keys' and values' matrices are applied to the
queries and to what they attend to, a handful of rows, and not to each token of the prompt; a token that is alone
attends to itself. GELU by tanh is one kernel, and not seven.
"""

from functools import partial
from typing import Any

FAMILIES = ("T5", "MT5")
"""The beginnings of the names of transformers' classes for T5 and mT5, which are alike."""

ATTENTION, NORMS = ({f"{family}{kind}" for family in FAMILIES} for kind in ("Attention", "LayerNorm"))


def rewritten(model: Any) -> Any:
    """Return the model, its parts replaced where they can be; float32 answers as before, to rounding."""
    import torch
    from transformers.activations import ACT2FN

    if model.dtype != torch.float32 and model.device.type != "cpu":
        return model  # what it would gain on a GPU was not measured
    for name, part in list(model.named_modules()):
        if type(part).__name__ == "NewGELUActivation":
            model.set_submodule(name, ACT2FN["gelu_pytorch_tanh"])
        elif type(part).__name__ in NORMS and model.dtype != torch.float16:  # where some are in float32
            norm = torch.nn.RMSNorm(part.weight.shape, part.variance_epsilon)
            norm.weight = part.weight
            model.set_submodule(name, norm)
        elif type(part).__name__ in ATTENTION and all(type(of) is torch.nn.Linear for of in (part.k, part.v)):
            over = _over_states if name.endswith("EncDecAttention") else _among_tokens
            part.forward = partial(over, part, part.forward)
    return model


def _among_tokens(
    attention: Any, forward: Any, hidden: Any, mask: Any = None, position_bias: Any = None, **more: Any
) -> Any:
    """Attend among tokens, none of them cached; the first layer joins the bias and the mask for those after it."""
    import torch

    if more.get("past_key_values") is not None:
        return forward(hidden, mask=mask, position_bias=position_bias, **more)
    if hidden.shape[1] == 1:  # it attends to itself
        return attention.o(attention.v(hidden)), position_bias, None
    if position_bias is None:
        position_bias = _bias(attention, hidden)
        if mask is None and attention.is_decoder:
            mask = torch.ones(2 * hidden.shape[1:2], dtype=torch.bool, device=hidden.device).tril()
        position_bias = position_bias if mask is None else position_bias + _added(mask, hidden.dtype)
    queries, keys, values = (
        part(hidden).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
        for part in (attention.q, attention.k, attention.v)
    )
    attended = _attended(queries, keys, values, position_bias)
    return attention.o(attended.transpose(1, 2).flatten(2)), position_bias, None


def _over_states(attention: Any, forward: Any, hidden: Any, mask: Any = None, **more: Any) -> Any:
    """Attend to an encoder's states without their keys and values; unless these are cached, or many tokens attend."""
    import torch

    states, (texts, tokens, _), heads = more.get("key_value_states"), hidden.shape, attention.n_heads
    cache = more.get("past_key_values")
    cached = cache is not None and not getattr(cache, "for_few", False)
    if states is None or cached or 2 * tokens > attention.key_value_proj_dim:
        return forward(hidden, mask=mask, **more)
    keys, values = (part.weight.unflatten(0, (heads, -1)) for part in (attention.k, attention.v))
    queries = attention.q(hidden).view(texts * tokens, heads, -1).transpose(0, 1)
    queries = torch.bmm(queries, keys).view(heads, texts, tokens, -1).transpose(0, 1)
    mask = None if mask is None else _added(mask[:, :, :1], hidden.dtype)  # the same for each token
    over = states.unsqueeze(1)
    attended = _attended(queries.reshape(texts, 1, heads * tokens, -1), over, over, mask)
    attended = attended.view(texts, heads, tokens, -1).transpose(0, 1).reshape(heads, texts * tokens, -1)
    attended = torch.bmm(attended, values.mT).view(heads, texts, tokens, -1).permute(1, 2, 0, 3)
    return attention.o(attended.flatten(2)), more.get("position_bias"), None


def cache_for_few(model: Any) -> Any:
    """Return a cache for the generation of few tokens by a T5, which keeps nothing of the prompt; None for others."""
    from transformers import DynamicCache, EncoderDecoderCache

    if model.config.model_type.upper() not in FAMILIES:
        return None
    cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
    cache.for_few = True
    return cache


def _attended(queries: Any, keys: Any, values: Any, bias: Any) -> Any:
    """Return what queries (texts, heads, queries, width) attend to, their scores unscaled.

    In bfloat16 the scores are rounded to it, as in transformers' attention without a kernel: on a CPU two products of
    matrices take little more than half the time of torch's kernel.
    """
    import torch

    if queries.dtype != torch.bfloat16:
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
    heads = queries.shape[:2]
    queries, keys, values = (part.flatten(0, 1).contiguous() for part in (queries, keys, values))
    if bias is None:
        scores = torch.bmm(queries, keys.mT)
    else:
        bias = bias.expand(*heads, queries.shape[1], -1).flatten(0, 1)
        scores = torch.baddbmm(bias, queries, keys.mT)
    return torch.bmm(scores.softmax(-1), values).view(*heads, queries.shape[1], -1)


def _bias(attention: Any, hidden: Any) -> Any:
    """Return the bias of each head and pair of tokens (1, heads, tokens, tokens), looked up by their distance."""
    import torch

    tokens = hidden.shape[1]
    before = attention.compute_bias(tokens, 1, device=hidden.device)[..., 0].flip(-1)
    behind = attention.compute_bias(1, tokens, device=hidden.device)[:, :, 0, 1:]
    return torch.cat([before, behind], dim=-1).unfold(-1, tokens, 1).flip(-2)


def _added(mask: Any, dtype: Any) -> Any:
    """Return a mask as numbers that are added to scores."""
    import torch

    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype) if mask.dtype == torch.bool else mask
