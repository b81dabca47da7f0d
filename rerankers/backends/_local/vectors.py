"""Relevance as the cosine of a query's and a passage's vector.

Each text is read by itself and its states are pooled; a folder of sentence-transformers says how in `modules.json`
(Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084). Or all are read in one prompt, where tokens mark the states.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, cast

from ...errors import InputError
from ...prompts.template import Marked
from .._tokens.pairs import Pairs
from .._tokens.tokens import Batch, Prepared, Tokens, padded_inputs
from .loading import Source, file_of, read_json
from .scores import Scores

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)
TEXTS = 32  # texts of an ask that are read at once

Pooling = Literal["mean", "cls", "lasttoken"]
POOLINGS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "lasttoken": "pooling_mode_lasttoken"}
"""Sentence-transformers' ways of pooling, each with the key by which folders before its release 5.7 chose it."""


class Vectors:
    """A model without a head, and how its states become a vector: as the folder says, or by `pooling`."""

    def __init__(self, model: Any, tokens: Tokens, source: Source, pooling: Pooling | None) -> None:
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.tokens, self._source = tokens, source
        self._layers: list[Callable[[torch.Tensor], torch.Tensor]] = []
        self._pooling = pooling or "mean"
        for module in read_json(source, "modules.json"):
            kind, path = module["type"].rpartition(".")[2], module["path"]
            if kind == "Pooling":
                self._pooling = pooling or _pooling(read_json(source, f"{path}/config.json"), path)
            elif kind == "Dense":
                self._layers.append(self._dense(source, path))
            elif kind == "LayerNorm":
                self._layers.append(self._norm(source, path))
            elif kind not in ("Transformer", "Normalize"):  # a cosine's vectors need no length
                raise InputError(f"model.name: {source.words}: modules.json has a {kind}, which is not read here")
        about = read_json(source, "config_sentence_transformers.json")
        self._dot = about.get("similarity_fn_name") == "dot"
        if words := {name: text for name, text in (about.get("prompts") or {}).items() if text}:
            LOG.warning("model.name: its folder has prompts, which only a prompt's YAML puts before texts: %s", words)
        self._tensor = cache(self._read_tensor)
        self._query = lru_cache(maxsize=1_000)(lambda ids: self._vectors([[*ids]])[0])

    def of_pairs(self, batch: Batch) -> Scores:
        """Return the number that the folder's layers make of each pair's vector."""
        return self._vectors([prompt.ids for prompt in batch], self.tokens.pairs)[:, -1:].tolist()

    def similarities(self, batch: Batch) -> Scores:
        """Return the similarity of each passage's vector to its query's."""
        import torch

        if batch[0].request.prompt.of_states:
            return list(map(self._marked if batch[0].request.prompt.answer.marked else self._listed, batch))
        texts = [self.tokens.pairs.apart(prompt.request)[1] for prompt in batch]
        queries = torch.stack([self._query(tuple(query)) for query, _ in texts])
        passages = self._vectors([passage for _, passage in texts])
        product = (queries * passages).sum(-1) if self._dot else torch.cosine_similarity(queries, passages)
        return product.unsqueeze(1).tolist()

    def _listed(self, prompt: Prepared) -> list[float]:
        """Return the cosine of each passage's vector with that of the query, which lists some of them."""
        import torch

        _, parts, around = self.tokens.apart(prompt.request)
        passages = torch.cat([self._vectors(parts[start : start + TEXTS]) for start in range(0, len(parts), TEXTS)])
        return cast("list[float]", torch.cosine_similarity(self._vectors([around]), passages).tolist())

    def _marked(self, prompt: Prepared) -> list[float]:
        """Return the cosine of each passage's marked state with the query's, in one reading of all, or of each block.

        The query's vector is the mean over blocks, weighted by their best similarity. Raises `InputError` if the model
        has no such tokens, or the prompts not one a passage.
        """
        import torch

        request, marked = prompt.request, cast(Marked, prompt.request.prompt.answer.marked)
        wanted = [self.tokens.tokenizer.convert_tokens_to_ids(token) for token in (marked.query, marked.passage)]
        blocks = [ids for _, ids in self.tokens.blocks(request)]
        places = [[[place for place, one in enumerate(ids) if one == token] for token in wanted] for ids in blocks]
        queries, passages = (sum(len(marks[part]) for marks in places) for part in (0, 1))
        if [queries, passages] != [len(blocks), len(request.ask.docs)]:
            raise InputError(
                f"query {request.query.id}: the prompt has {queries} {marked.query} and {passages} {marked.passage}, "
                f"not {len(blocks)} and {len(request.ask.docs)}; name the model that prompt '{request.prompt.name}' "
                "was made for"
            )
        vectors = []
        for ids, (query, docs) in zip(blocks, places, strict=True):
            states = self.model(input_ids=torch.tensor([ids], device=self.model.device)).last_hidden_state[0]
            rows = states[query + docs].float()
            for number, name in enumerate(marked.projector):
                rows = torch.nn.functional.linear(rows.relu() if number else rows, self._tensor(name))
            vectors.append(rows.double())
        best = torch.stack([torch.cosine_similarity(rows[:1], rows[1:]).max() for rows in vectors])
        weights = (1 + best) / 2
        query_vector = (torch.stack([rows[0] for rows in vectors]) * weights.unsqueeze(1)).sum(0) / weights.sum()
        passage_vectors = torch.cat([rows[1:] for rows in vectors])
        return cast("list[float]", torch.cosine_similarity(query_vector.unsqueeze(0), passage_vectors).tolist())

    def _read_tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the model's files by its name. Raises `InputError` if there is none."""
        import safetensors

        for file in sorted(self._source.folder.glob("*.safetensors")):
            with safetensors.safe_open(file, "pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    return cast("torch.Tensor", tensors.get_tensor(name).to(self.model.device).float())
        raise InputError(f"model.name: {self._source.words} has no tensor {name}, by which its states are projected")

    def _vectors(self, rows: Sequence[list[int]], pairs: Pairs | None = None) -> torch.Tensor:
        """Return the vector of each text, or pair, in double precision."""
        import torch

        inputs = padded_inputs(self.model, rows, self.tokens.pad, pairs)
        states, mask = self.model(**inputs).last_hidden_state, inputs["attention_mask"]
        last = mask.sum(-1) - 1
        if self._pooling == "mean":
            pooled = (states * mask.unsqueeze(-1)).sum(1, dtype=torch.float32) / mask.sum(-1, keepdim=True)
        else:
            pooled = states[torch.arange(len(rows), device=states.device), last if self._pooling == "lasttoken" else 0]
        for layer in self._layers:
            pooled = layer(pooled)
        return cast("torch.Tensor", pooled.double())

    def _norm(self, source: Source, path: str) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch

        weights = self._weights(source, path)
        scale, shift = weights["norm.weight"], weights["norm.bias"]
        return lambda vectors: torch.nn.functional.layer_norm(vectors.float(), scale.shape, scale, shift)

    def _weights(self, source: Source, path: str) -> dict[str, torch.Tensor]:
        import safetensors.torch

        if (file := file_of(source, f"{path}/model.safetensors")) is None:
            raise InputError(f"model.name: {source.words}: {path} has no model.safetensors")
        weights = safetensors.torch.load_file(file, device=str(self.model.device))
        return {name: weight.float() for name, weight in weights.items()}

    def _dense(self, source: Source, path: str) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a layer of a folder: weights, and an activation of torch by its name."""
        import torch

        about, weights = read_json(source, f"{path}/config.json"), self._weights(source, path)
        if about.get("use_residual"):
            raise InputError(f"model.name: {source.words}: {path} is a layer with a residual, which is not read here")
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
