"""Linear layers whose bfloat16 weights lie as a CPU multiplies them, arranged once and not at every product.

The bits of a product stay the same. A T5's feed-forward part also applies its activation and gate as the products are
written, which rounds less often.
"""

from functools import partial
from typing import Any

import torch

GATED = {"T5DenseGatedActDense", "MT5DenseGatedActDense"}


class PackedLinear(torch.nn.Module):
    """A linear layer with packed weights; `weight` is a copy of them as they were."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        rearranged = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.packed = torch.nn.Parameter(rearranged, requires_grad=False)
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:
        """Return the weights (outputs x inputs), for code that multiplies them itself."""
        return self.packed.to_dense()

    def forward(self, hidden: torch.Tensor, then: str = "none", by: str = "") -> Any:
        """Return the product, an activation applied to it."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, then, [], by)

    def times(self, hidden: torch.Tensor, gate: torch.Tensor) -> Any:
        """Return the product times a gate, element by element."""
        return torch.ops.mkldnn._linear_pointwise.binary(hidden, gate, self.packed, self.bias, "mul")


def multiplies_bfloat16() -> bool:
    """Return whether oneDNN is there and multiplies bfloat16 on this CPU."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packed(model: Any) -> Any:
    """Return the model, its linear layers packed if it is in bfloat16 on a CPU that multiplies that."""
    if model.dtype != torch.bfloat16 or model.device.type != "cpu" or not multiplies_bfloat16():
        return model
    for name, part in list(model.named_modules()):
        whole = name.endswith(("EncDecAttention.k", "EncDecAttention.v"))  # T5's, which its rewrite multiplies itself
        if type(part) is torch.nn.Linear and part.weight.dtype == torch.bfloat16 and not whole:
            model.set_submodule(name, PackedLinear(part))
    for part in model.modules():
        gated = type(part).__name__ in GATED and type(part.act).__name__ == "GELUTanh"
        if gated and all(isinstance(of, PackedLinear) for of in (part.wi_0, part.wi_1)):
            part.forward = partial(_gated, part)
    return model


def _gated(part: Any, hidden: torch.Tensor) -> Any:
    """Return a gated feed-forward part's states."""
    return part.wo(part.wi_1.times(hidden, part.wi_0(hidden, "gelu", "tanh")))
