"""Models of a run: each is opened once, and local ones may stay open for the next run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from . import catalog
from .backends.base import Backend, ModelOptions, Setting


class KeptModels:
    """Models that compute in this process, kept open from run to run as long as runs name them."""

    def __init__(self) -> None:
        self._open: list[tuple[tuple[str, ModelOptions, int], Backend]] = []

    def __contains__(self, model: object) -> bool:
        return any(model is kept for _, kept in self._open)

    def open(self, named: Sequence[tuple[str, ModelOptions]], setting: Setting) -> list[Backend]:
        """Return a run's models as `opened` does; kept ones that it does not name are closed before others open."""
        keys = [(*one, setting.seed) for one in named]
        self.close([kept for kept in self._open if kept[0] not in keys])
        models = opened(named, setting, [(key[:2], model) for key, model in self._open])
        for key, model in zip(keys, models, strict=True):
            if key[1].asks_model and not key[1].remote and model not in self:
                self._open.append((key, model))
        return models

    def close(self, some: Sequence[tuple[tuple[str, ModelOptions, int], Backend]] | None = None) -> None:
        """Close those models, or all."""
        closing = list(self._open if some is None else some)
        self._open = [kept for kept in self._open if kept not in closing]
        for _, model in closing:
            model.close()


def opened(
    named: Sequence[tuple[str, ModelOptions]],
    setting: Setting,
    before: Sequence[tuple[tuple[str, ModelOptions], Backend]] = (),
) -> list[Backend]:
    """Return the model of each name and options: equal ones are one, and those open `before` are not opened again.

    Raises `InputError` if one cannot be opened.
    """
    models = list(before)
    for one in named:
        if all(one != other for other, _ in models):
            models.append((one, cast("Backend", catalog.backend(one[0]).open(one[1], setting))))
    return [next(model for other, model in models if other == one) for one in named]
