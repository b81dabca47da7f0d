"""Linear layers whose bfloat16 weights lie as a CPU multiplies them, arranged once and not at every product.

The bits of a product with contiguous rows stay the same. A T5's gated feed-forward part also applies GELU and the gate
as the products are written, which rounds less often.
"""

from functools import partial
from typing import Any

import torch

FED_FORWARD = {f"{model}{kind}ActDense" for model in ("T5", "MT5") for kind in ("Dense", "DenseGated")}
PLAIN = ("EncDecAttention.k", "EncDecAttention.v", ".wo")
"""Layers, by the end of their names, that stay: T5's rewrite multiplies the first two, and T5-likes look at the last's
weights in each pass."""


class PackedLinear(torch.nn.Module):
    """A linear layer with packed weights."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        rearranged = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.packed = torch.nn.Parameter(rearranged, requires_grad=False)
        self.bias, self.in_features, self.out_features = linear.bias, linear.in_features, linear.out_features

    @property
    def weight(self) -> torch.Tensor:
        """Return the weights (outputs x inputs), for code that multiplies them itself: a copy each time."""
        return self.packed.to_dense()

    def forward(self, hidden: torch.Tensor, activation: str = "none", algorithm: str = "") -> Any:
        """Return the product, an activation applied to it."""
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self.bias, activation, [], algorithm)

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
    # By name, so that each layer's own weights are let go before the next is packed.
    for name in [name for name, _ in model.named_modules() if not name.endswith(PLAIN)]:
        # A router computes in float32, and changes its layer for that.
        if _plain(part := model.get_submodule(name)) and "Router" not in type(_parent(model, name)).__name__:
            model.set_submodule(name, PackedLinear(part))
    for part in model.modules():
        if type(part).__name__ in FED_FORWARD and _plain(part.wo):
            part.wo = PackedLinear(part.wo)
            gelu = type(part.act).__name__ == "GELUTanh"
            gated = hasattr(part, "wi_0") and all(isinstance(of, PackedLinear) for of in (part.wi_0, part.wi_1))
            if gated or hasattr(part, "wi"):
                part.forward = partial((_gated_by_gelu if gelu else _gated) if gated else _fed_forward, part)
    return model


def _plain(part: Any) -> bool:
    """Return whether a part is a linear layer in bfloat16 to which nobody has added anything."""
    linear = type(part) is torch.nn.Linear and type(part.weight) is torch.nn.Parameter
    changed = "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks
    return linear and part.weight.dtype == torch.bfloat16 and not changed


def _parent(model: Any, name: str) -> Any:
    return model.get_submodule(name.rpartition(".")[0])


def _fed_forward(part: Any, hidden: torch.Tensor) -> Any:
    return part.wo(part.act(part.wi(hidden)))


def _gated(part: Any, hidden: torch.Tensor) -> Any:
    return part.wo(part.wi_1.times(hidden, part.act(part.wi_0(hidden))))


def _gated_by_gelu(part: Any, hidden: torch.Tensor) -> Any:
    return part.wo(part.wi_1.times(hidden, part.wi_0(hidden, "gelu", "tanh")))
