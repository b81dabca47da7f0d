"""E2R-FLOPs: what reranking costs in floating-point operations, whatever machine it runs on.

The estimator and both measures are those of Peng et al., "Efficiency-Effectiveness Reranking FLOPs for LLM-based
Rerankers" (EMNLP 2025, Industry Track); the formulas are those of its code (zhiyuanpeng/EER-FLOPs,
`src/utils/calculator.py`). They count two matrices a feed-forward network, no embeddings and no output head, take the
heads together to be as wide as the model, and divide attention scores by the heads per key-value head, which shares
keys and values but saves no score. `corrections` says what each of that amounts to; `flops` includes none of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .prompts.template import Architecture, Prompt
from .types import Ask

PETA = 1e15
"""Both measures are per so many operations."""

GATED_ACTIVATIONS = {"silu", "swish"}
"""The activations that decoder-only models use in gated feed-forward networks alone."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a transformer that its operations depend on; an encoder-decoder has `layers` in each stack."""

    architecture: Architecture
    layers: int
    width: int
    ffn: int
    """The inner width of a feed-forward network."""

    group: int = 1
    """Query heads per key-value head; 1 in encoder-decoders."""

    gated: bool = False
    """Whether a feed-forward network has a third matrix."""

    vocabulary: int = 0

    @classmethod
    def of(cls, config: Any) -> Shape | None:
        """The shape that a transformers config states.

        None where it does not state it, or where the formulas do not fit it: mixtures of experts, stacks of unequal
        depth.
        """
        config = getattr(config, "text_config", config)
        encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
        ffn = getattr(config, "d_ff" if encoder_decoder else "intermediate_size", None)
        heads = getattr(config, "num_attention_heads", None)
        experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
        if not (layers and width and ffn and heads) or experts:
            return None
        if encoder_decoder and getattr(config, "num_decoder_layers", layers) != layers:
            return None
        shared = 1 if encoder_decoder else heads // (getattr(config, "num_key_value_heads", None) or heads)
        architecture: Architecture = "encoder_decoder" if encoder_decoder else "decoder_only"
        return cls(architecture, layers, width, ffn, shared, _gated(config), getattr(config, "vocab_size", None) or 0)


def _gated(config: Any) -> bool:
    if hasattr(config, "is_gated_act"):
        return bool(config.is_gated_act)
    named = str(getattr(config, "model_type", ""))
    return getattr(config, "hidden_act", None) in GATED_ACTIVATIONS or named.startswith("gemma")


def flops(shape: Shape, prompt_tokens: int, completion_tokens: int) -> float:
    """The operations of one call, as published.

    `completion_tokens` are the answer's; a label that is read at one position is an answer of one token.
    """
    layers, d, read, written = shape.layers, shape.width, prompt_tokens, completion_tokens
    attended = 2 * written * read + written * (written - 1)
    if shape.architecture == "decoder_only":
        parameters = 2 * d * layers * ((1 + 1 / shape.group) * d + shape.ffn)
        prefill = 2 * parameters * read + 4 * layers * read**2 * d / shape.group
        return prefill + 2 * parameters * written + 2 * layers * d / shape.group * attended
    encoder = 2 * d * layers * (2 * d + shape.ffn)
    decoder = 2 * d * layers * (3 * d + shape.ffn)
    prefill = 2 * encoder * read + 4 * layers * read**2 * d
    cross_attention = 4 * layers * read * d**2
    return float(prefill + cross_attention + 2 * decoder * written + 2 * layers * d * attended)


def readings(prompt: Prompt, ask: Ask) -> int:
    """How often a prompt is read where its labels are scored: once, or for each label where all its tokens count."""
    return len(prompt.labels_of(ask)) if prompt.answer.scored == "whole" and not prompt.target else 1


def of_answer(shape: Shape, prompt_tokens: int, completion_tokens: int, readings: int = 1) -> int:
    """The operations of one answer, as published, from the token counts that come with it.

    Where labels are scored, nothing is generated: that is an answer of one token, for each of `readings`. A text whose
    probability is asked for counts as read, since it is among the prompt's tokens. A whole number, so that a sum is the
    same in whatever order answers come.
    """
    return readings * round(flops(shape, prompt_tokens, max(completion_tokens, 1)))


def corrections(shape: Shape, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:
    """The operations of one call that the published estimate leaves out, each by name: they can be added to it.

    `gated_ffn`: the third matrix of gated feed-forward networks. `output_head`: the vocabulary's logits, once a token
    of the answer. `attention_scores`: those of the query heads that share keys and values.
    """
    layers, d, read, written = shape.layers, shape.width, prompt_tokens, completion_tokens
    positions = 2 * read**2 + 2 * written * read + written * (written - 1)
    return {
        "gated_ffn": float(2 * layers * d * shape.ffn * (read + written) * shape.gated),
        "output_head": float(2 * d * shape.vocabulary * written),
        "attention_scores": 2 * layers * d * positions * (1 - 1 / shape.group),
    }


@dataclass(frozen=True, slots=True)
class Rpp:
    """Ranking metric per PetaFLOP over several queries, taken together in two ways."""

    mean_of_ratios: float
    """The mean of each query's metric by its own operations."""

    ratio_of_means: float
    """The mean metric by the mean operations."""


def rpp(measure_by_query: Mapping[str, float], flops_by_query: Mapping[str, float]) -> Rpp:
    """RPP, a metric such as nDCG@10 per 10^15 operations, over the queries that have both.

    Raises `ValueError` where no query has both.
    """
    both = [query for query in measure_by_query if query in flops_by_query]
    if not both:
        raise ValueError("no query has both a measure and operations")
    spent = {query: flops_by_query[query] / PETA for query in both}
    return Rpp(
        mean_of_ratios=statistics.fmean(measure_by_query[query] / spent[query] for query in both),
        ratio_of_means=sum(measure_by_query[query] for query in both) / sum(spent.values()),
    )


def qpp(flops_by_query: Mapping[str, float]) -> float:
    """QPP, queries per PetaFLOP: 10^15 by the mean operations of a query. Raises `ValueError` where there is none."""
    return PETA / statistics.fmean(flops_by_query.values())
