"""The weights of a model: joined with an adapter's (LoRA, by peft), and laid out on devices."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from ...errors import InputError
from ...marks import PathMark, Speed
from . import loading
from .loading import ADAPTER_CONFIG, TOKENIZER_FILES, CheckpointOptions, Source, load, locate, need, one_line, read_json
from .passes import longest_input
from .rewrites import rewritten

if TYPE_CHECKING:
    import torch

# The names of classification heads, whose rows are labels.
HEADS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")
Part = Literal["language", "head", "body"]  # to generate text, with a classification head, or without either
Layout = Literal["auto", "balanced", "balanced_low_0", "sequential"]


class WeightOptions(CheckpointOptions):
    """Keys of the `model` section that say which weights are loaded, and how."""

    name: Annotated[str | None, PathMark("folder")] = Field(
        None, description="a hub id such as google/flan-t5-large, or a folder, also of an adapter; needed but for gguf"
    )
    gguf: Annotated[str | None, PathMark("file")] = Field(
        None, description="a GGUF file with the weights, or PACKAGE/FILE; beside it, name gives the tokenizer alone"
    )
    tokenizer: Annotated[str | None, PathMark("folder")] = Field(
        None, description="the tokenizer's hub id or folder; the model's own unless given"
    )
    adapter: Annotated[str | None, PathMark("folder")] = Field(
        None, description="a LoRA or other adapter of peft, a hub id or a folder; merged into the weights"
    )
    adapter_revision: str | None = Field(None, description="the hub's branch, tag or commit of the adapter")
    rename: dict[str, str] | None = Field(
        None, description="names of weights: regular expressions, and what transformers calls what they match"
    )
    device: Speed[str] = Field("auto", description="auto, cpu, cuda or cuda:N")
    device_map: Speed[Layout | dict[str, int | str] | None] = Field(
        None,
        description="over several GPUs: how accelerate lays the layers out, or the device of each module by name, "
        "instead of device",
    )

    @model_validator(mode="after")
    def _named(self) -> WeightOptions:
        if not (self.name or self.gguf):
            raise ValueError("name is missing: a hub id or a folder; or gguf: a file")
        return self


@dataclass(frozen=True)
class Weights:
    """The weights of a model, not loaded yet; `base` is the model without its adapter.

    The tokenizer is the adapter's if it brings one and no other is named, or else that of `words`.
    """

    options: WeightOptions
    base: Source
    adapter: Source | None
    words: Source

    @classmethod
    def find(cls, options: WeightOptions) -> Weights:
        """Return the model and its adapter, from disk or the hub. Raises `InputError` if one is not there."""
        import huggingface_hub
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        name, code = options.name or "", options.trust_remote_code
        words = None
        if other := options.tokenizer or (name if options.gguf else None):
            revision = None if options.tokenizer else options.revision
            key = "model.tokenizer" if options.tokenizer else "model.name"
            files = loading.TOKENIZER
            words = locate(other, revision, trust_remote_code=code, key=key, files=files, identity=TOKENIZER_FILES)
        adapter = None
        if options.adapter is not None:
            adapter = locate(options.adapter, options.adapter_revision, key="model.adapter", files=[ADAPTER_CONFIG])
        if options.gguf is not None:
            base = loading.gguf_source(options.gguf)
        else:
            base = locate(name, options.revision, trust_remote_code=code, files=("config.json", ADAPTER_CONFIG))
            if not (base.folder / "config.json").is_file():
                if adapter is not None:
                    raise InputError(f"model.name: {name} is an adapter, not a model; model.adapter adds only one")
                adapter = base
                base = locate(*_base_of(adapter), trust_remote_code=code, key=f"the base model of adapter {name}")
        return cls(options, base, adapter and _downloaded(adapter), words or base)

    @cached_property
    def device(self) -> torch.device:
        """Return the device of the prompts: the only one, or the first of several."""
        places = self.options.device_map
        if self.options.device != "auto" or not isinstance(places, dict):
            return loading.device_of(self.options.device)
        first = next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")
        return loading.device_of(f"cuda:{first}" if isinstance(first, int) else first)

    @cached_property
    def dtype(self) -> str:
        """Return the number format of the computation, `auto` being bfloat16 on a GPU, else float32."""
        automatic = "bfloat16" if self.device.type == "cuda" else "float32"
        return automatic if self.options.dtype == "auto" else self.options.dtype

    @property
    def identity(self) -> dict[str, object]:
        """Return what decides the model's answers: its content by hash or commit, and how it was changed."""
        parts: dict[str, object] = {
            "model": self.base.identity,
            "dtype": self.dtype,
            "adapter": self.adapter and self.adapter.identity,
        }
        parts |= {"tokenizer": self.words.identity} if self.words is not self.base else {}
        parts |= {"rename": self.options.rename}
        return {key: part for key, part in parts.items() if part}

    @property
    def details(self) -> dict[str, object]:
        """Return the files by hash, precision and places, for the manifest."""
        details: dict[str, object] = {"tokenizer": loading.tokenizer_digest(self._tokenizer_source)}
        details |= {"dtype": self.dtype, "device": str(self.device), "adapter": self.adapter and self.adapter.details}
        details |= {"quantization": self.quantization, "device_map": self.options.device_map}
        return self.base.details | {key: value for key, value in details.items() if value is not None}

    @cached_property
    def config(self) -> Any:
        """Return transformers' config. Raises `InputError` if it cannot be loaded."""
        import transformers

        return load(transformers.AutoConfig, self.base)

    @property
    def quantization(self) -> str | None:
        """Return the method that quantised the weights, or None."""
        if (quantized := getattr(self.config, "quantization_config", None)) is None:
            return None
        method = (quantized if isinstance(quantized, dict) else quantized.to_dict()).get("quant_method", "unknown")
        return str(getattr(method, "value", method))

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer, the adapter's if it brings one, with the model's longest input."""
        import transformers

        tokenizer = load(transformers.AutoTokenizer, self._tokenizer_source)
        if (longest := longest_input(self.config)) is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        return tokenizer

    @property
    def _tokenizer_source(self) -> Source:
        brings = self.adapter and (self.adapter.folder / "tokenizer_config.json").is_file()
        return self.adapter if self.adapter and brings and not self.options.tokenizer else self.words

    def load(self, part: Part, *, pack: bool = True) -> Any:
        """Return the model. Raises `InputError` if it is not whole, or its head has more labels than two.

        Weights are packed only if told so, as packed ones cannot be compiled, and only if they are not quantised.
        """
        import transformers

        language = "Seq2SeqLM" if self.config.is_encoder_decoder else "CausalLM"
        kind = {"language": f"For{language}", "head": "ForSequenceClassification", "body": ""}[part]
        auto, head = getattr(transformers, f"AutoModel{kind}"), part == "head"
        adapted = _sizes(self.adapter) if self.adapter else {}
        labels = [adapted[name][0] for name in HEADS if head and name in adapted]
        more: dict[str, Any] = {"num_labels": labels[0]} if labels else {}
        more |= {"config": self.config} if self.options.gguf else {}  # read from the file once, which takes seconds
        more |= {"key_mapping": self.options.rename} if self.options.rename else {}
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # else it reports rounding at each product
        # Quantised weights stay where they are loaded.
        at_once = {"": str(self.device)} if self.quantization and self.device.type != "cpu" else None
        if places := self.options.device_map or at_once:
            need("accelerate", "model.device_map" if self.options.device_map else "a quantised model on a GPU")
            more["device_map"] = places
        model, report = load(auto, self.base, dtype=self.dtype, output_loading_info=True, **more)
        unread = {name for name in report["missing_keys"] if part == "body" and name.startswith("pooler.")}
        if missing := sorted(set(report["missing_keys"]) - adapted.keys() - unread):
            wanted = "a cross-encoder, with its classification head" if head else "a language model"
            raise InputError(
                f"model.name: {self.base.words} cannot be loaded: its weights lack {len(missing)} of the parts that "
                f"its architecture needs, {missing[0]} for one; name {wanted}, or download it anew"
            )
        if head and (number := model.config.num_labels) > 2:
            problem = f"its classification head has {number} labels, and relevance is the logit of one or the second"
            raise InputError(f"model.name: {problem} of two; name a cross-encoder")
        if self.adapter is not None:
            model = _joined(model, self.adapter, merge=self.quantization is None)
        if places:
            return model.eval()
        from .packing import packed  # it imports torch

        model = rewritten(model.to(self.device).eval())
        return packed(model) if pack and self.quantization is None else model


def _base_of(adapter: Source) -> tuple[str, str | None]:
    """Return the name and the revision of the model that an adapter was trained on."""
    config = read_json(adapter, ADAPTER_CONFIG)
    names = [config.get(key) if isinstance(config, dict) else None for key in ("base_model_name_or_path", "revision")]
    name, revision = (text if isinstance(text, str) and text else None for text in names)
    if name is None:
        problem = f"model.name: adapter {adapter.name} names no base model"
        raise InputError(f"{problem}; name that, and model.adapter: {adapter.name}")
    return name, revision


def _downloaded(adapter: Source) -> Source:
    """Return the adapter with all its files in its folder."""
    if not adapter.is_folder and not any(adapter.folder.glob("adapter_model.*")):
        import huggingface_hub
        from huggingface_hub import errors

        commit, patterns = adapter.arguments["revision"], ["adapter_*", *loading.TOKENIZER_FILES]
        try:
            huggingface_hub.snapshot_download(adapter.name, revision=commit, allow_patterns=patterns)
        except (errors.HfHubHTTPError, OSError) as error:
            raise InputError(f"adapter {adapter.name}: the hub did not give it ({one_line(error)})") from error
    return adapter


def _sizes(adapter: Source) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an adapter's weights, by the names that the base model has for them."""
    need("peft", "model.adapter")
    from peft import load_peft_weights

    file = "adapter_model.bin" if (adapter.folder / "adapter_model.bin").is_file() else "adapter_model.safetensors"
    try:
        weights = load_peft_weights(str(adapter.folder), "cpu")
    except Exception as error:
        raise InputError(f"adapter {adapter.folder}: {file} cannot be read: {one_line(error)}") from error
    return {
        name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", ""): weight.shape
        for name, weight in weights.items()
    }


def _joined(model: Any, adapter: Source, *, merge: bool) -> Any:
    """Return the model with the adapter's weights, merged into its own or beside them."""
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
