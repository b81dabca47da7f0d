"""Models that stay open from run to run."""

from collections.abc import Sequence
from typing import cast

from . import catalog
from .backends.base import Backend, ModelOptions, Setting


class KeptModels:
    """Models that compute in this process, open as long as the next run names them."""

    def __init__(self) -> None:
        self._open: list[tuple[tuple[str, ModelOptions, int], Backend]] = []

    def __contains__(self, model: object) -> bool:
        return any(model is kept for _, kept in self._open)

    def open(self, named: Sequence[tuple[str, ModelOptions]], setting: Setting) -> list[Backend]:
        """Return the model of each backend's name and options, equal ones once; those kept and not named are closed.

        Raises `InputError` if one cannot be opened.
        """
        keys = [(*one, setting.seed) for one in named]
        self.close(keys)
        models = list(self._open)
        for key in keys:
            if all(key != other for other, _ in models):
                models.append((key, cast("Backend", catalog.backend(key[0]).open(key[1], setting))))
        self._open = [(key, model) for key, model in models if key[1].asks_model and not key[1].remote]
        return [next(model for other, model in models if other == key) for key in keys]

    def close(self, unless: Sequence[object] = ()) -> None:
        """Close all models but those."""
        closing = [model for key, model in self._open if key not in unless]
        self._open = [(key, model) for key, model in self._open if key in unless]
        for model in closing:
            model.close()
