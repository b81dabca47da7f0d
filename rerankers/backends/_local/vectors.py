"""Relevance as the cosine of a query's and a passage's vector: each is read by itself and its states are pooled.

A folder of sentence-transformers says how in `modules.json`. Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ...errors import InputError
from .._tokens.tokens import Batch, Tokens, padded
from ..base import Answered
from .loading import Source, file_of
from .scores import scored

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)

Pooling = Literal["mean", "cls", "lasttoken"]
POOLINGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}
"""Sentence-transformers' ways of pooling, each with the key by which folders before its release 5.7 chose it."""


class Vectors:
    """A model without a head, and how its states become a vector: as the folder says, or by `pooling`."""

    def __init__(self, model: Any, tokens: Tokens, source: Source, pooling: Pooling | None) -> None:

        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.tokens = tokens
        self._layers: list[Callable[[torch.Tensor], torch.Tensor]] = []
        self._pooling = pooling or "mean"
        listed = file_of(source, "modules.json")
        for module in json.loads(listed.read_text(encoding="utf-8")) if listed else []:
            kind, path = module["type"].rpartition(".")[2], module["path"]
            if kind == "Pooling":
                self._pooling = pooling or _pooling(_json(source, f"{path}/config.json"), path)
            elif kind == "Dense":
                self._layers.append(self._dense(source, path))
            elif kind not in ("Transformer", "Normalize"):  # a cosine's vectors need no length
                raise InputError(f"model.name: {source.words}: modules.json has a {kind}, which is not read here")
        about = _json(source, "config_sentence_transformers.json")
        self._dot = about.get("similarity_fn_name") == "dot"
        if words := {name: text for name, text in (about.get("prompts") or {}).items() if text}:
            LOG.warning("model.name: its folder has prompts, which only a prompt's YAML puts before texts: %s", words)
        self._query = lru_cache(maxsize=1_000)(lambda ids: self._vectors([[*ids]])[0])

    def scores(self, batch: Batch) -> Answered:
        """Return the similarity of each passage's vector to its query's."""
        import torch

        texts = [self.tokens.pairs.apart(prompt.request)[1] for prompt in batch]
        queries = torch.stack([self._query(tuple(query)) for query, _ in texts])
        passages = self._vectors([passage for _, passage in texts])
        product = (queries * passages).sum(-1) if self._dot else torch.cosine_similarity(queries, passages)
        return [
            scored(prompt, [score], self.model.dtype) for prompt, score in zip(batch, product.tolist(), strict=True)
        ]

    def _vectors(self, rows: Sequence[list[int]]) -> torch.Tensor:
        """Return the vector of each text, in double precision."""
        import torch

        ids, mask = (torch.tensor(array, device=self.model.device) for array in padded(rows, self._pad, left=False))
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        last = mask.sum(-1) - 1
        if self._pooling == "mean":
            pooled = (states * mask.unsqueeze(-1)).sum(1, dtype=torch.float32) / mask.sum(-1, keepdim=True)
        else:
            pooled = states[torch.arange(len(rows), device=states.device), last if self._pooling == "lasttoken" else 0]
        for layer in self._layers:
            pooled = layer(pooled)
        return cast("torch.Tensor", pooled.double())

    @property
    def _pad(self) -> int:
        return self.tokens.tokenizer.pad_token_id or 0

    def _dense(self, source: Source, path: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a layer of a folder: weights, and an activation of torch by its name."""
        import safetensors.torch
        import torch

        about, file = _json(source, f"{path}/config.json"), file_of(source, f"{path}/model.safetensors")
        if file is None or about.get("use_residual"):
            raise InputError(f"model.name: {source.words}: {path} has no model.safetensors, or a layer not read here")
        weights = safetensors.torch.load_file(file, device=str(self.model.device))
        activation = getattr(torch.nn, str(about.get("activation_function", "Tanh")).rpartition(".")[2])()
        bias = weights.get("linear.bias")
        return lambda vectors: activation(torch.nn.functional.linear(vectors.float(), weights["linear.weight"], bias))


def _pooling(about: dict[str, Any], path: str) -> Pooling:
    """Return the only way of pooling that a folder names. Raises `InputError` for others, or several joined."""
    modes = about.get("pooling_mode", [mode for mode, key in POOLINGS.items() if about.get(key)])
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        problem = f"model.name: {path} pools by {', '.join(modes) or 'another rule'}"
        raise InputError(f"{problem}; {', '.join(POOLINGS)} can be read; model.pooling names one")
    return cast(Pooling, modes[0])


def _json(source: Source, name: str) -> dict[str, Any]:
    path: Path | None = file_of(source, name)
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path else {}
