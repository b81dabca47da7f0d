"""Linear layers whose bfloat16 weights lie as a CPU multiplies them, arranged once and not at every product.

The bits of a product with contiguous rows stay the same. A T5's gated feed-forward part also applies GELU and the gate
as the products are written, which rounds less often.
"""

from functools import partial
from typing import Any

import torch

from .rewrites import FAMILIES

FEED_FORWARD = {f"{family}{kind}ActDense" for family in FAMILIES for kind in ("Dense", "DenseGated")}


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
    for name in [name for name, _ in model.named_modules()]:
        if _is_plain(part := model.get_submodule(name)) and not _looked_into(model, name):
            model.set_submodule(name, PackedLinear(part))
    for part in model.modules():
        first = [of for name, of in part.named_children() if name in ("wi", "wi_0", "wi_1")]
        feeds = type(part).__name__ in FEED_FORWARD and all(isinstance(of, PackedLinear) for of in first)
        if feeds and _is_plain(part.wo):
            part.wo = PackedLinear(part.wo)
            part.forward = partial(_fed_forward, part)
    return model


def _looked_into(model: Any, name: str) -> bool:
    """Return whether a layer's weights are used by more than its product.

    T5's rewrite multiplies those of its decoder's attention to states, T5-likes ask for the format of their last, and a
    router computes in float32.
    """
    path, _, layer = name.rpartition(".")
    parent = type(model.get_submodule(path)).__name__
    over_states = path.endswith("EncDecAttention") and layer in ("k", "v")
    return over_states or "Router" in parent or (parent.endswith("ActDense") and layer == "wo")


def _is_plain(part: Any) -> bool:
    """Return whether a part is a linear layer in bfloat16 to which nobody has added anything."""
    linear = type(part) is torch.nn.Linear and type(part.weight) is torch.nn.Parameter
    changed = "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks
    return linear and part.weight.dtype == torch.bfloat16 and not changed


def _fed_forward(part: Any, hidden: torch.Tensor) -> Any:
    """Return the states behind a T5's feed-forward part, gated or not."""
    if hasattr(part, "wi"):
        return part.wo(part.act(part.wi(hidden)))
    by_tanh = type(part.act).__name__ == "GELUTanh"
    gate = part.wi_0(hidden, "gelu", "tanh") if by_tanh else part.act(part.wi_0(hidden))
    return part.wo(part.wi_1.times(hidden, gate))
