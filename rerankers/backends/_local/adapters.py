"""Adapters such as LoRA's: small weights, trained on top of a base model's, that peft joins with them."""

from __future__ import annotations

import importlib.util
import json
import warnings
from typing import Any

from ...errors import InputError
from .loading import ADAPTER_CONFIG, TOKENIZER_FILES, Source, one_line

HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")
"""The names of classification heads, whose rows are labels."""

EXTRAS = {"accelerate", "peft"}
"""Packages that are extras of this one."""


def base_of(adapter: Source) -> tuple[str, str | None]:
    """Return the name and the revision of the model that an adapter was trained on.

    Raises `InputError` if its config does not name one.
    """
    path = adapter.folder / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model.name: {path} cannot be read: {one_line(error)}") from error
    names = [config.get(key) if isinstance(config, dict) else None for key in ("base_model_name_or_path", "revision")]
    name, revision = (each if isinstance(each, str) and each else None for each in names)
    if name is None:
        raise InputError(
            f"model.name: adapter {adapter.name} names no base model; name that, and model.adapter: {adapter.name}"
        )
    return name, revision


def downloaded(adapter: Source) -> Source:
    """Return the adapter with all its files in its folder. Raises `InputError` if the hub does not give them."""
    if not adapter.is_folder and not any(adapter.folder.glob("adapter_model.*")):
        import huggingface_hub
        from huggingface_hub import errors

        commit, patterns = adapter.arguments["revision"], ["adapter_*", *TOKENIZER_FILES]
        try:
            huggingface_hub.snapshot_download(adapter.name, revision=commit, allow_patterns=patterns)
        except (errors.HfHubHTTPError, OSError) as error:
            raise InputError(f"adapter {adapter.name}: the hub did not give it ({one_line(error)})") from error
    return adapter


def joined(model: Any, adapter: Source, *, merge: bool) -> Any:
    """Return the model with the adapter's weights, merged into its own or beside them.

    Raises `InputError` if peft cannot load the adapter, or if it does not fit the model.
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
            warnings.simplefilter("ignore")  # the base model may have another name than in training
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


def head_labels(sizes: dict[str, tuple[int, ...]]) -> int | None:
    """Return the number of labels of the classification head among an adapter's weights, or None if it has none."""
    return next((sizes[head][0] for head in HEADS if head in sizes), None)


def weight_sizes(adapter: Source) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's weights, by the names that the base model has for them.

    Raises `InputError` if they cannot be read.
    """
    need("peft", "model.adapter")
    from peft import load_peft_weights

    names = ("adapter_model.safetensors", "adapter_model.bin")
    file = next((name for name in names if (adapter.folder / name).is_file()), names[0])
    try:
        if not (adapter.folder / file).is_file():
            raise FileNotFoundError("no such file")
        weights = load_peft_weights(str(adapter.folder), "cpu")
    except Exception as error:
        raise InputError(f"adapter {adapter.folder}: {file} cannot be read: {one_line(error)}") from error
    return {
        name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", ""): weight.shape
        for name, weight in weights.items()
    }


def need(package: str, user: str) -> None:
    """Raise `InputError` with the command that installs a package if it is not installed."""
    if importlib.util.find_spec(package) is None:
        name = f"'r2llm[{package}]'" if package in EXTRAS else package
        raise InputError(f"{user} needs the package {package}: pip install {name}")
