"""The weights of a model: joined with an adapter's, quantised, and laid out on devices."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ...errors import InputError
from ...marks import PathMark, Speed
from .adapters import base_of, downloaded, head_labels, joined, need, weight_sizes
from .devices import device_of, dtype_of
from .loading import ADAPTER_CONFIG, CheckpointOptions, Source, load, locate, tokenizer_digest
from .positions import of_config

if TYPE_CHECKING:
    import torch

QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "compressed-tensors": "compressed-tensors",
    "gptq": "gptqmodel optimum",
    "awq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
}
"""Packages that transformers needs to load weights, by the method that quantised them."""


class WeightOptions(CheckpointOptions):
    """Keys of the `model` section that say which weights are loaded, and how."""

    adapter: Annotated[str | None, PathMark("folder")] = Field(
        None, description="a LoRA or other adapter of peft, a hub id or a folder; merged into the weights"
    )
    adapter_revision: str | None = Field(None, description="the hub's branch, tag or commit of the adapter")
    quantization: Literal["bitsandbytes-4bit", "bitsandbytes-8bit"] | None = Field(
        None, description="quantise the weights while they are loaded; those of a quantised model say it themselves"
    )
    device: Speed[str] = Field("auto", description="auto, cpu, cuda or cuda:N")
    device_map: Speed[Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, int | str] | None] = (
        Field(
            None,
            description="over several GPUs: how accelerate lays the layers out, or the device of each module by name, "
            "instead of device",
        )
    )


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are and how they are loaded; `base` is the model without its adapter."""

    options: WeightOptions
    base: Source
    adapter: Source | None

    @classmethod
    def find(cls, options: WeightOptions) -> Weights:
        """Return the model and its adapter, from disk or the hub. Raises `InputError` if one is not there."""
        code = options.trust_remote_code
        model = locate(options.name, options.revision, trust_remote_code=code, files=("config.json", ADAPTER_CONFIG))
        if (model.folder / "config.json").is_file():
            if options.adapter is None:
                return cls(options, model, None)
            adapter = locate(options.adapter, options.adapter_revision, key="model.adapter", files=[ADAPTER_CONFIG])
            return cls(options, model, downloaded(adapter))
        if options.adapter is not None:
            raise InputError(f"model.name: {options.name} is an adapter, not a model; model.adapter adds only one")
        name, revision = base_of(model)
        base = locate(name, revision, trust_remote_code=code, key=f"the base model of adapter {options.name}")
        return cls(options, base, downloaded(model))

    @cached_property
    def device(self) -> torch.device:
        """Return the device of the prompts: the only one, or the first of several."""
        places = self.options.device_map
        if self.options.device != "auto" or not isinstance(places, dict):
            return device_of(self.options.device)
        first = next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
        return device_of(f"cuda:{first}" if isinstance(first, int) else first)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Return the number format of the computation."""
        return dtype_of(self.options.dtype, self.device)

    @property
    def identity(self) -> dict[str, object]:
        """Return what decides the model's answers: its content by hash or commit, and how it was changed."""
        adapter = self.adapter.identity if self.adapter else None
        changes = {"adapter": adapter, "quantization": self.options.quantization}
        dtype = str(self.dtype).removeprefix("torch.")
        identity: dict[str, object] = {"model": self.base.identity, "dtype": dtype}
        return identity | {name: value for name, value in changes.items() if value}

    @property
    def details(self) -> dict[str, object]:
        """Return the files by hash, precision and places, for the manifest."""
        more = {
            "adapter": self.adapter.details if self.adapter else None,
            "quantization": self.quantization,
            "device_map": self.options.device_map,
        }
        return {
            **self.base.details,
            "tokenizer": tokenizer_digest(self._tokenizer_source),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            **{name: value for name, value in more.items() if value is not None},
        }

    @cached_property
    def config(self) -> Any:
        """Return the model's config as transformers has it.

        Raises `InputError` if it cannot be loaded, or if the model is to be quantised twice.
        """
        import transformers

        config = load(transformers.AutoConfig, self.base)
        if self.options.quantization and (method := _quantizer_of(config)):
            raise InputError(f"model.quantization: {self.base.name} is quantised already ({method}); leave it out")
        return config

    @property
    def quantization(self) -> str | None:
        """Return how the weights are, or will be, quantised, or None."""
        return self.options.quantization or _quantizer_of(self.config)

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer, the adapter's if it brings one, with the model's longest input."""
        import transformers

        tokenizer = load(transformers.AutoTokenizer, self._tokenizer_source)
        longest = of_config(self.config)
        if longest is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        return tokenizer

    @property
    def _tokenizer_source(self) -> Source:
        adapter = self.adapter
        return adapter if adapter and (adapter.folder / "tokenizer_config.json").is_file() else self.base

    def language_model(self) -> Any:
        """Return the model that generates text.

        Raises `InputError` if it cannot be loaded, or lacks weights that transformers would fill at random.
        """
        import transformers

        seq2seq = self.config.is_encoder_decoder
        kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
        return self._loaded(kind, "a language model")

    def classifier(self) -> Any:
        """Return the model with a classification head. Raises `InputError` as `language_model` does."""
        import transformers

        labels = head_labels(weight_sizes(self.adapter)) if self.adapter else None
        more = {} if labels is None else {"num_labels": labels}
        kind = transformers.AutoModelForSequenceClassification
        return self._loaded(kind, "a cross-encoder, with its classification head", **more)

    def _loaded(self, kind: Any, wanted: str, **more: Any) -> Any:
        adapted = set(weight_sizes(self.adapter)) if self.adapter else set[str]()
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else it reports rounding at each product
        # Quantised weights stay where they are loaded.
        at_once = {"": str(self.device)} if self.quantization and self.device.type != "cpu" else None
        places = self.options.device_map or at_once
        if places is not None:
            need("accelerate", "model.device_map" if self.options.device_map else "a quantised model on a GPU")
            more["device_map"] = places
        if self.options.quantization:
            more["quantization_config"] = self._quantizer()
        try:
            model, report = load(kind, self.base, dtype=self.dtype, output_loading_info=True, **more)
        except InputError as error:
            raise InputError(f"{error}{self._remedy(error)}") from error.__cause__
        if missing := sorted(set(report["missing_keys"]) - adapted):
            raise InputError(
                f"model.name: {self.base.name} cannot be loaded: its weights lack {len(missing)} of the parts that "
                f"its architecture needs, {missing[0]} for one; name {wanted}, or download it anew"
            )
        if self.adapter is not None:
            model = joined(model, self.adapter, merge=self.quantization is None)
        return (model if places is not None else model.to(self.device)).eval()

    def _quantizer(self) -> Any:
        import transformers

        for package in ("accelerate", "bitsandbytes"):
            need(package, "model.quantization")
        if self.options.quantization == "bitsandbytes-8bit":
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
        )

    def _remedy(self, error: InputError) -> str:
        method, text = _quantizer_of(self.config), str(error)
        if isinstance(error.__cause__, ImportError) and "pip install" not in text and method in QUANTIZERS:
            return f"; its weights are quantised ({method}): pip install {QUANTIZERS[method]}"
        if "out of memory" in text:
            return "; model.device_map: auto spreads it over several GPUs, model.quantization makes it smaller"
        return ""


def _quantizer_of(config: Any) -> str | None:
    """Return the method that quantised a model's weights, or None."""
    quantized = getattr(config, "quantization_config", None)
    if quantized is None:
        return None
    method = (quantized if isinstance(quantized, dict) else quantized.to_dict()).get("quant_method", "unknown")
    return str(getattr(method, "value", method))
