"""Rewrites of a model, in half precision only on a CPU, that keep its numbers, to rounding, and need less arithmetic.

A T5 encoder's position bias and mask are joined once a batch, and not once a layer. Its decoder's few tokens attend to
the encoder's states themselves: the keys' and values' matrices are applied to the queries and to what they attend to, a
handful of rows, and not to each token of the prompt. GELU by tanh is one kernel, and not seven.
"""

from functools import partial
from typing import Any

ATTENTION = {"T5Attention", "MT5Attention"}


def rewritten(model: Any) -> Any:
    """Return the model, its parts replaced where they are of a kind that can be; float32 answers as before to 1e-6."""
    import torch
    from transformers.activations import ACT2FN

    if model.dtype != torch.float32 and model.device.type != "cpu":
        return model  # what it would gain on a GPU was not measured
    for name, part in list(model.named_modules()):
        if type(part).__name__ == "NewGELUActivation":
            model.set_submodule(name, ACT2FN["gelu_pytorch_tanh"])
        elif type(part).__name__ in ATTENTION and all(type(of) is torch.nn.Linear for of in (part.k, part.v)):
            if not part.is_decoder:
                part.forward = partial(_with_joined_bias, part, part.forward)
            elif name.endswith("EncDecAttention"):
                part.forward = partial(_over_states, part, part.forward)
    return model


def _with_joined_bias(
    attention: Any, forward: Any, hidden: Any, mask: Any = None, position_bias: Any = None, **more: Any
) -> Any:
    """Attend in an encoder's layer; the first joins the bias and the mask for those after it."""
    import torch

    if position_bias is None:
        position_bias = attention.compute_bias(hidden.shape[1], hidden.shape[1], device=hidden.device)
        if mask is not None and mask.dtype == torch.bool:
            position_bias = position_bias.masked_fill(~mask, torch.finfo(hidden.dtype).min)
        elif mask is not None:
            position_bias = position_bias + mask
        position_bias = position_bias.contiguous()
    return forward(hidden, position_bias=position_bias, **more)


def _over_states(attention: Any, forward: Any, hidden: Any, mask: Any = None, **more: Any) -> Any:
    """Attend to an encoder's states without their keys and values; unless these are cached, or many tokens attend."""
    import torch

    states, (texts, tokens, _), heads = more.get("key_value_states"), hidden.shape, attention.n_heads
    if states is None or more.get("past_key_values") is not None or 2 * tokens > attention.key_value_proj_dim:
        return forward(hidden, mask=mask, **more)
    keys, values = (part.weight.unflatten(0, (heads, -1)) for part in (attention.k, attention.v))
    queries = attention.q(hidden).unflatten(-1, (heads, -1))
    queries = torch.einsum("bthd,hdm->bhtm", queries, keys).reshape(texts, 1, heads * tokens, -1)
    mask = None if mask is None else mask[:, :, :1]  # the same for each token
    over = states.unsqueeze(1)
    attended = torch.nn.functional.scaled_dot_product_attention(queries, over, over, attn_mask=mask, scale=1.0)
    attended = torch.einsum("bhtm,hdm->bthd", attended.view(texts, heads, tokens, -1), values)
    return attention.o(attended.flatten(2)), more.get("position_bias"), None
