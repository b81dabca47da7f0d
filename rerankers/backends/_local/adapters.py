"""Adapters such as LoRA's: small weights, trained on top of a base model's, that peft joins with them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .loading import ADAPTER_CONFIG, Source, one_line

if TYPE_CHECKING:
    import torch

HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")
"""The names of classification heads, whose rows are labels."""

NAMED = ("base_model_name_or_path", "revision")
"""What an adapter's config says of its base model."""

BEGINNING = "base_model.model."
"""What peft puts before the names of a base model's weights."""


def base_of(adapter: Source) -> tuple[str, str | None]:
    """The name and the revision of the model that an adapter was trained on.

    Raises `InputError` where it does not say so.
    """
    path = adapter.folder / ADAPTER_CONFIG
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {path} cannot be read: {one_line(error)}") from error
    name, revision = (told.get(key) if isinstance(told, dict) else None for key in NAMED)
    if not isinstance(name, str) or not name:
        raise InputError(
            f"model.name: adapter {adapter.name} names no base model; name that, and model.adapter: {adapter.name}"
        )
    return name, revision if isinstance(revision, str) and revision else None


def adapted(model: Any, adapter: Source, *, merge: bool) -> Any:
    """The model with the adapter's weights, merged into its own or beside them.

    Raises `InputError` where peft cannot load the adapter, or where it does not fit the model.
    """
    import peft

    try:
        config = peft.PeftConfig.from_pretrained(str(adapter.folder))
        if config.is_prompt_learning:
            raise InputError(
                f"adapter {adapter.name}: {config.peft_type.value} adds tokens to prompts, and cannot be merged into "
                "weights; name a LoRA or another adapter of weights"
            )
        config.inference_mode = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the base model's name is not the one of the training
            wrapped = peft.get_peft_model(model, config)
            report = wrapped.load_adapter(str(adapter.folder), "default", is_trainable=False)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"adapter {adapter.name} does not fit the model: {one_line(error)}") from error
    if odd := sorted({*report.missing_keys, *report.unexpected_keys}):
        raise InputError(
            f"adapter {adapter.name} does not fit the model: {len(odd)} of its weights have no place there or are "
            f"missing, {odd[0]} for one; name the base model that it was trained on"
        )
    return wrapped.merge_and_unload() if merge else wrapped.base_model.model


def head_labels(adapter: Source) -> int | None:
    """How many labels the classification head has that an adapter brings; None where it brings none."""
    sizes = _sizes(adapter)
    return next((sizes[head][0] for head in HEADS if head in sizes), None)


def names_of_weights(adapter: Source) -> set[str]:
    """The names of the base model's weights that an adapter has its own in place of."""
    return set(_sizes(adapter))


def _sizes(adapter: Source) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's weights, under the names that the base model has for them."""
    whole = adapter.folder / "adapter_model.safetensors"
    found = _of_safetensors(whole) if whole.is_file() else _of_pickle(adapter.folder / "adapter_model.bin")
    return {
        name.removeprefix(BEGINNING).replace(".modules_to_save", "").replace(".default", ""): shape
        for name, shape in found.items()
    }


def _of_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"adapter {path.parent}: {path.name} cannot be read: {one_line(error)}") from error


def _of_pickle(path: Path) -> dict[str, tuple[int, ...]]:
    import torch

    try:
        found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"adapter {path.parent}: {path.name} cannot be read: {one_line(error)}") from error
    return {name: tuple(weight.shape) for name, weight in found.items()}
