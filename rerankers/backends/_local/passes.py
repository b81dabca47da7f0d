"""A model's forward passes over batches of prompts, and the logits at the positions that are asked about."""

from __future__ import annotations

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, cast

from ...errors import InputError
from .._tokens.tokens import Batch, Prepared, Tokens, padded
from .fusion import fused_inputs

if TYPE_CHECKING:
    import torch

FULL = {"full_attention"}  # layers that keep the keys and values of all tokens, unlike windows and recurrences
CACHE_BYTES = 768 * 2**20  # the size of the cache of prefixes


class Passes:
    """A model and its tokenizer, ready to read prompts; shared prefixes are cached where the model allows it."""

    def __init__(self, model: Any, tokens: Tokens, *, cache_prefixes: bool) -> None:
        self.model, self.tokens, self.device = model, tokens, model.device
        self.encoder_decoder = tokens.architecture == "encoder_decoder"
        self.longest = longest_input(model.config)
        self.start = start(model) if self.encoder_decoder else 0
        self._accepted = set(inspect.signature(model.forward).parameters)
        full = not self.encoder_decoder and set(getattr(model.config, "layer_types", None) or FULL) == FULL
        usable = full and fixed_positions(model.config) and {"past_key_values", "logits_to_keep"} <= self._accepted
        self.prefixes = Prefixes(model) if cache_prefixes and usable else None

    def inputs(self, batch: Batch, targets: Sequence[Sequence[int]] = ()) -> dict[str, torch.Tensor]:
        """Return the input; a decoder-only model reads targets behind prompts. Raises `InputError` for a long one."""
        import torch

        if batch[0].request.prompt.fused:
            return fused_inputs(self, batch)
        for prompt in batch:
            self._check_length(prompt)
        behind = targets if targets and not self.encoder_decoder else [()] * len(batch)
        rows = [[*prompt.ids, *target] for prompt, target in zip(batch, behind, strict=True)]
        rows, mask = padded(rows, self.tokens.pad, left=not self.encoder_decoder)
        arrays = {"input_ids": rows, "attention_mask": mask}
        if self.encoder_decoder:
            first = [self.start, *self.tokens.decoder_prefix(batch[0].request)]
            starts = [[*first, *target[:-1]] for target in targets] or [first] * len(rows)
            arrays["decoder_input_ids"], _ = padded(starts, self.tokens.pad, left=False)
        inputs = {name: torch.tensor(value, device=self.device) for name, value in arrays.items()}
        if not self.encoder_decoder and "position_ids" in self._accepted:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        return inputs

    def last_logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits (a row a prompt) of the answer's first token."""
        prefix = self.prefix(batch)
        if self.prefixes and prefix is not None:
            return self.prefixes.last_logits(batch[0].ids, prefix)
        return self._logits(self.inputs(batch), last=1)[:, -1]

    def prefix(self, batch: Batch) -> Any:
        """Return the keys and values of what a lone prompt shares with others; None if it is nothing, or not alone."""
        if self.prefixes is None or len(batch) > 1:
            return None
        [prompt] = batch
        self._check_length(prompt)
        lengths = self.tokens.shared_prefixes(prompt.request, prompt.ids)
        return self.prefixes.cached(prompt.ids, lengths) if lengths else None

    def target_logits(self, batch: Batch, targets: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return for each prompt the logits that predict its target's tokens, a row a token."""
        inputs = self.inputs(batch, targets)
        lengths = [len(target) for target in targets]
        if self.encoder_decoder:
            rows = self._logits(inputs)[:, len(self.tokens.decoder_prefix(batch[0].request)) :]
            return [row[:length] for row, length in zip(rows, lengths, strict=True)]
        # The last position predicts what is not asked.
        rows = self._logits(inputs, last=max(lengths) + 1)
        return [row[-length - 1 : -1] for row, length in zip(rows, lengths, strict=True)]

    def label_logits(self, batch: Batch, labels: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the same for several labels of one prompt, which an encoder reads once."""
        if not self.encoder_decoder:
            return [row for label in labels for row in self.target_logits(batch, [label])]
        read: dict[str, Any] = self.inputs(batch)
        encoded = self.model.get_encoder()(input_ids=read.pop("input_ids"), attention_mask=read["attention_mask"])
        read["encoder_outputs"] = (encoded.last_hidden_state,)
        first = len(self.tokens.decoder_prefix(batch[0].request))
        starts = [self.inputs(batch, [label])["decoder_input_ids"] for label in labels]
        return [self._logits(read | {"decoder_input_ids": ids})[0, first:] for ids in starts]

    def _logits(self, inputs: dict[str, Any], last: int | None = None) -> torch.Tensor:
        """Return the logits of the last positions, or of all."""
        keep = {"logits_to_keep": last} if last and "logits_to_keep" in self._accepted else {}
        return cast("torch.Tensor", self.model(**inputs, **keep, use_cache=False).logits)

    def _check_length(self, prompt: Prepared) -> None:
        answer = (
            0
            if self.encoder_decoder or prompt.request.ask.kind == "relevance"
            else self.tokens.answer_tokens(prompt.request)
        )
        if self.longest is not None and len(prompt.ids) + answer > self.longest:
            raise InputError(
                f"query {prompt.request.query.id}: a prompt of {len(prompt.ids)} tokens does not fit the model's "
                f"{self.longest}; lower ranker.passage_tokens or the documents a prompt"
            )


class Prefixes:
    """A decoder-only model with a cache of prompts' prefixes, the least recently used dropped first.

    The keys and values of a prefix are computed by themselves, whether they are in the cache or not, so that the cache
    changes no bit of an answer. Several threads may use it.
    """

    def __init__(self, model: Any, room: int = CACHE_BYTES) -> None:
        self.model, self.room = model, room
        self._kept: OrderedDict[tuple[int, ...], tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def cached(self, ids: Sequence[int], lengths: Sequence[int]) -> Any:
        """Return the keys and values of the longest of a prompt's prefixes, those of these ascending lengths cached."""
        return reduce(lambda shorter, length: self._prefix(tuple(ids[:length]), shorter), lengths, None)

    def last_logits(self, ids: Sequence[int], prefix: Any) -> torch.Tensor:
        """Return the logits after the last token (one row), given the keys and values of a prefix."""
        return cast("torch.Tensor", self._read(ids[prefix.get_seq_length() :], prefix)[1])

    def _prefix(self, ids: tuple[int, ...], shorter: Any) -> Any:
        with self._lock:
            if ids in self._kept:
                self._kept.move_to_end(ids)
                return self._kept[ids][0]
        # Two threads may read the same prefix: waiting for each other would often cost more.
        cache, _ = self._read(ids[shorter.get_seq_length() if shorter else 0 :], shorter)
        size = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        with self._lock:
            self._kept[ids] = cache, size
            while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self.room:
                self._kept.popitem(last=False)
        return cache

    def _read(self, ids: Sequence[int], prefix: Any) -> tuple[Any, Any]:
        """Read tokens behind a prefix; return the keys and values of all, and the logits after the last."""
        import torch
        from transformers import DynamicCache

        cache: Any = copy.deepcopy(prefix) if prefix else DynamicCache(config=self.model.config)
        inputs = torch.tensor([list(ids)], device=self.model.device)
        output = self.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1]


def fixed_positions(config: Any) -> bool:
    """Return whether a token's position is encoded alike whatever is read behind it."""
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [settings, *(part for part in settings.values() if isinstance(part, Mapping))]
    return not any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds)


def longest_input(config: Any) -> int | None:
    """Return the most tokens that a model with this config, or its encoder, reads, or None if there is no end.

    A config may count rows of the position table that no token has.
    """
    import torch
    import transformers

    text = config.get_text_config(encoder=True) if config.is_encoder_decoder else config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    if getattr(text, "rope_parameters", None):  # no table
        return limit
    try:
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
    except Exception:  # noqa: BLE001 - code that came with the model, or a kind of model without a body of its own
        return limit
    for name, part in model.named_modules():
        *places, last = name.split(".")
        decodes = config.is_encoder_decoder and "decoder" in places
        if isinstance(part, torch.nn.Embedding) and ("position" in last or last == "wpe") and not decodes:
            padding = -1 if part.padding_idx is None else part.padding_idx  # positions begin behind it
            limit = min(limit, part.num_embeddings - getattr(part, "offset", 0) - padding - 1)
    return limit


def start(model: Any) -> int:
    """Return the start token of an encoder-decoder's answer."""
    configs, decoder = [model.config, model.generation_config], model.config.get_text_config(decoder=True)
    starts = [getattr(config, "decoder_start_token_id", None) for config in configs]
    starts += [getattr(config, "bos_token_id", None) for config in [decoder, *reversed(configs)]]
    for token in starts:
        if isinstance(token, int):
            return token
    raise InputError("model.name: its config names no decoder_start_token_id, with which an answer begins; add it")
