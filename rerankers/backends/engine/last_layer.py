"""Of a decoder-only model's last layer, the feed-forward part of no more positions than are asked about.

No later layer attends to the other positions, so what they would become is never seen. Attention needs the keys and
values of all of them and stays as it is. It saves most of one layer: a ninth of a model of nine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LastLayer:
    """The last layer of a model; several threads may ask about different positions at the same time.

    No model, or one whose layers are not in `layers` or have no `mlp`, computes all positions as ever.
    """

    def __init__(self, model: Any) -> None:
        self._asked = threading.local()
        layers = getattr(model.base_model, "layers", None) if model else None
        feed_forward = getattr(layers[-1], "mlp", None) if layers else None
        if feed_forward is not None:
            feed_forward.register_forward_pre_hook(self._cut)
            feed_forward.register_forward_hook(self._filled)

    @contextmanager
    def positions(self, last: int | None) -> Iterator[None]:
        """Compute so many of the last positions, all of them where None is given."""
        self._asked.last = last
        try:
            yield
        finally:
            self._asked.last = None

    def _cut(self, _module: Any, inputs: tuple[Any, ...]) -> Any:
        """The states of the positions that are asked about."""
        last = getattr(self._asked, "last", None)
        self._asked.left_out = 0
        if last is None or not inputs or inputs[0].dim() != 3:
            return None
        self._asked.left_out = max(0, inputs[0].shape[1] - last)
        return inputs[0][:, self._asked.left_out :].contiguous(), *inputs[1:]

    def _filled(self, _module: Any, _inputs: tuple[Any, ...], output: Any) -> Any:
        """Zeros for the others, so that all can be added to what went around this part."""
        import torch

        if not self._asked.left_out:
            return None
        states, *others = output if isinstance(output, tuple) else (output,)
        states = torch.nn.functional.pad(states, (0, 0, self._asked.left_out, 0))
        return (states, *others) if isinstance(output, tuple) else states
