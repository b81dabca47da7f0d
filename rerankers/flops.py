"""E2R-FLOPs: the floating-point operations of reranking, whatever machine it runs on.

Source: Peng et al., "Efficiency-Effectiveness Reranking FLOPs for LLM-based Rerankers" (EMNLP 2025, Industry Track), by
the formulas of its code (zhiyuanpeng/EER-FLOPs, `src/utils/calculator.py`). They count two matrices a feed-forward
network, no embeddings and no output head, take the heads together to be as wide as the model, and divide attention
scores by the heads per key-value head. `corrections` says what each of that amounts to; `flops` includes none of it.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .prompts.template import Architecture, Prompt
from .types import Ask

PETA = 1e15
GATED_ACTIVATIONS = {"silu", "swish"}  # activations that decoder-only models use in gated feed-forward networks alone


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a transformer that its operations depend on."""

    architecture: Architecture
    layers: int  # in each stack
    width: int
    ffn: int  # the inner width of a feed-forward network
    group: int = 1  # query heads per key-value head
    gated: bool = False  # a feed-forward network has a third matrix
    vocabulary: int = 0

    @classmethod
    def of(cls, config: Any) -> "Shape | None":
        """Return the shape in a transformers config, or None if the formulas do not fit: experts, unequal stacks."""
        config = getattr(config, "text_config", config)

        def size(name: str) -> Any:
            return getattr(config, name, None)

        seq2seq = bool(size("is_encoder_decoder"))
        layers, width, heads = size("num_hidden_layers"), size("hidden_size"), size("num_attention_heads")
        ffn = size("d_ff" if seq2seq else "intermediate_size")
        experts = any(map(size, ("num_experts", "num_local_experts", "n_routed_experts")))
        unequal = seq2seq and getattr(config, "num_decoder_layers", layers) != layers
        if not (layers and width and ffn and heads) or experts or unequal:
            return None
        group = 1 if seq2seq else heads // (size("num_key_value_heads") or heads)
        gated = size("hidden_act") in GATED_ACTIVATIONS or str(size("model_type")).startswith("gemma")
        gated = bool(getattr(config, "is_gated_act", gated))
        architecture: Architecture = "encoder_decoder" if seq2seq else "decoder_only"
        return cls(architecture, layers, width, ffn, group, gated, size("vocab_size") or 0)


def flops(shape: Shape, prompt_tokens: int, completion_tokens: int) -> float:
    """Return the published operations of one call; a label read at one position is a completion of one token."""
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
    """Return how often a prompt is read to score its labels: once, or once a label if all its tokens count."""
    return len(prompt.labels_of(ask)) if prompt.answer.scored == "whole" and not prompt.target else 1


def of_answer(shape: Shape, prompt_tokens: int, completion_tokens: int, readings: int = 1) -> int:
    """Return the published operations of one answer from its token counts; labels count as one token a reading.

    A whole number, so that a sum does not depend on the order of answers. A target is among the prompt's tokens.
    """
    return readings * round(flops(shape, prompt_tokens, max(completion_tokens, 1)))


def corrections(shape: Shape, prompt_tokens: int, completion_tokens: int) -> dict[str, float]:
    """Return the operations of one call that the published estimate leaves out, by name.

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


def rpp(measure_by_query: Mapping[str, float], flops_by_query: Mapping[str, float]) -> dict[str, float]:
    """Return RPP, metric points per PetaFLOP, over the queries that have both; `ValueError` if there is none."""
    both = [(value, flops_by_query[q] / PETA) for q, value in measure_by_query.items() if q in flops_by_query]
    if not both:
        raise ValueError("no query has both a measure and operations")
    measured, spent = (sum(column) for column in zip(*both, strict=True))
    return {"mean_of_ratios": statistics.fmean(m / s for m, s in both), "ratio_of_means": measured / spent}


def qpp(flops_by_query: Mapping[str, float]) -> float:
    """Return QPP, queries per PetaFLOP, by the mean operations of a query. Raises `ValueError` if there is none."""
    return PETA / statistics.fmean(flops_by_query.values())
