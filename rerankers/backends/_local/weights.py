"""The weights of a model: found, joined with an adapter's, quantised, and laid out on devices."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ...errors import InputError
from ...marks import PathMark, Speed
from .._tokens.chat_templates import TemplateOptions
from .adapters import adapted, base_of, head_labels, names_of_weights
from .devices import device_of, dtype_of
from .loading import ADAPTER_CONFIG, TOKENIZER_FILES, Source, described, digests, load, locate, named, one_line
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
"""What transformers needs to load weights quantised by a method."""

EXTRAS = {"accelerate", "peft"}
"""Packages that are extras of this one."""


class WeightOptions(TemplateOptions):
    """Keys of the `model` section that say which weights are loaded, and how."""

    name: Annotated[str, PathMark("folder")] = Field(
        description="a hub id such as google/flan-t5-large, or a folder; also of an adapter"
    )
    revision: str | None = Field(None, description="the hub's branch, tag or commit")
    adapter: Annotated[str | None, PathMark("folder")] = Field(
        None, description="a LoRA or other adapter of peft, a hub id or a folder; merged into the weights"
    )
    adapter_revision: str | None = Field(None, description="the hub's branch, tag or commit of the adapter")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="number format; auto: bfloat16 on CUDA, float32 on CPU"
    )
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
    trust_remote_code: bool = Field(False, description="run code that comes with the model")


@dataclass(frozen=True)
class Weights:
    """Where a model's weights are, and how they are to be loaded; `base` is the model, without its adapter."""

    options: WeightOptions
    base: Source
    adapter: Source | None

    @classmethod
    def find(cls, options: WeightOptions) -> Weights:
        """Find the model and its adapter, on disk or on the hub.

        Raises `InputError` where one is not found, or where the device is not there.
        """
        remote_code = options.trust_remote_code
        found = locate(
            options.name,
            options.revision,
            trust_remote_code=remote_code,
            files=("config.json", ADAPTER_CONFIG),
        )
        if (found.folder / "config.json").is_file():
            if options.adapter is None:
                return cls(options, found, None)
            adapter = locate(options.adapter, options.adapter_revision, key="model.adapter", files=[ADAPTER_CONFIG])
            return cls(options, found, _whole(adapter))
        if options.adapter is not None:
            raise InputError(f"model.name: {options.name} is an adapter, not a model; model.adapter adds only one")
        name, revision = base_of(found)
        base = locate(name, revision, trust_remote_code=remote_code, key=f"the base model of adapter {options.name}")
        return cls(options, base, _whole(found))

    @cached_property
    def device(self) -> torch.device:
        """Where prompts go: the device, or the first of several."""
        places = self.options.device_map
        if self.options.device != "auto" or not isinstance(places, dict):
            return device_of(self.options.device)
        first = next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
        return device_of(f"cuda:{first}" if isinstance(first, int) else first)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The number format that is computed in."""
        return dtype_of(self.options.dtype, self.device)

    @property
    def identity(self) -> dict[str, object]:
        """What makes the model's answers what they are: its content by hash or commit, and how it was changed."""
        found: dict[str, object] = {"model": self.base.identity, "dtype": str(self.dtype).removeprefix("torch.")}
        if self.adapter is not None:
            found["adapter"] = self.adapter.identity
        if self.options.quantization is not None:
            found["quantization"] = self.options.quantization
        return found

    @property
    def quantization(self) -> str | None:
        """How the weights are quantised, when they are loaded or already; None where they are not."""
        return self.options.quantization or self._quantized_by(self.config)

    @property
    def details(self) -> dict[str, object]:
        """The files it is made of, by hash."""
        found: dict[str, object] = {
            **described(self.base, self._tokenizer_source),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
        }
        if self.adapter is not None:
            found["adapter"] = {**named(self.adapter), "files": digests(self.adapter)}
        if self.quantization is not None:
            found["quantization"] = self.quantization
        if self.options.device_map is not None:
            found["device_map"] = self.options.device_map
        return found

    @cached_property
    def config(self) -> Any:
        """The model's config, of transformers' kind.

        Raises `InputError` where it cannot be loaded, or where what is asked for does not fit the model.
        """
        import transformers

        config = load(transformers.AutoConfig, self.base)
        if self.options.quantization and (method := self._quantized_by(config)):
            raise InputError(f"model.quantization: {self.base.name} is quantised already ({method}); leave it out")
        return config

    @property
    def tokenizer(self) -> Any:
        """The tokenizer: the adapter's where it has one of its own."""
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
        """The model that writes text, in its place, ready to answer.

        Raises `InputError` where it cannot be loaded, or lacks weights that transformers would fill with random
        numbers.
        """
        import transformers

        encoder_decoder = self.config.is_encoder_decoder
        kind = transformers.AutoModelForSeq2SeqLM if encoder_decoder else transformers.AutoModelForCausalLM
        return self._loaded(kind, "a language model")

    def classifier(self) -> Any:
        """The model with a head that gives a text numbers, in its place, ready to answer.

        Raises `InputError` as `language_model` does.
        """
        import transformers

        labels = head_labels(self.adapter) if self.adapter else None
        more = {} if labels is None else {"num_labels": labels}
        kind = transformers.AutoModelForSequenceClassification
        return self._loaded(kind, "a cross-encoder, with its classification head", **more)

    def _loaded(self, kind: Any, wanted: str, **more: Any) -> Any:
        """The model of a kind, joined with its adapter; `wanted` tells the user what kind that is."""
        quantized = self.quantization is not None
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at each matrix product what it rounds
        # What is quantised stays where it is loaded.
        at_once = {"": str(self.device)} if quantized and self.device.type != "cpu" else None
        places = self.options.device_map or at_once
        if places is not None:
            _need("accelerate", "model.device_map" if self.options.device_map else "a quantised model on a GPU")
            more["device_map"] = places
        if self.options.quantization:
            more["quantization_config"] = self._quantizer()
        try:
            model, report = load(kind, self.base, dtype=self.dtype, output_loading_info=True, **more)
        except InputError as error:
            raise self._with_remedy(error) from error.__cause__
        given = names_of_weights(self.adapter) if self.adapter else set[str]()
        if missing := sorted(set(report["missing_keys"]) - given):
            raise InputError(
                f"model.name: {self.base.name} cannot be loaded: its weights lack {len(missing)} of the parts that "
                f"its architecture needs, {missing[0]} for one; name {wanted}, or download it anew"
            )
        if self.adapter is not None:
            _need("peft", "model.adapter")
            model = adapted(model, self.adapter, merge=not quantized)
        return (model if places is not None else model.to(self.device)).eval()

    def _quantizer(self) -> Any:
        import transformers

        for package in ("accelerate", "bitsandbytes"):
            _need(package, "model.quantization")
        if self.options.quantization == "bitsandbytes-8bit":
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
        )

    @staticmethod
    def _quantized_by(config: Any) -> str | None:
        """The method that a model's weights are quantised by; None where they are not."""
        found = getattr(config, "quantization_config", None)
        if found is None:
            return None
        told = found if isinstance(found, dict) else found.to_dict()
        return str(getattr(told.get("quant_method"), "value", told.get("quant_method", "unknown")))

    def _with_remedy(self, error: InputError) -> InputError:
        """The error with what helps, where transformers does not say it."""
        method = self._quantized_by(self.config)
        told = str(error)
        if isinstance(error.__cause__, ImportError) and "pip install" not in told and method in QUANTIZERS:
            return InputError(f"{told}; its weights are quantised ({method}): pip install {QUANTIZERS[method]}")
        if "out of memory" in told:
            return InputError(
                f"{told}; model.device_map: auto spreads it over several GPUs, model.quantization makes it smaller"
            )
        return error


def _whole(adapter: Source) -> Source:
    """The adapter with all its files in its folder: those on the hub are downloaded, and named by folder."""
    if not adapter.is_folder and not any(adapter.folder.glob("adapter_model.*")):
        import huggingface_hub
        from huggingface_hub import errors

        commit, patterns = adapter.arguments["revision"], ["adapter_*", *TOKENIZER_FILES]
        try:
            huggingface_hub.snapshot_download(adapter.name, revision=commit, allow_patterns=patterns)
        except (errors.HfHubHTTPError, OSError) as error:
            raise InputError(f"adapter {adapter.name}: the hub did not give it ({one_line(error)})") from error
    return adapter


def _need(package: str, user: str) -> None:
    if importlib.util.find_spec(package) is None:
        what = f"'r2llm[{package}]'" if package in EXTRAS else package
        raise InputError(f"{user} needs the package {package}: pip install {what}")
