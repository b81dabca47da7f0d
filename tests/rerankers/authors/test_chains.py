"""Folders that sentence-transformers saved: their own chain gives what that package gives, to 1e-5 in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import PASSAGES, QUERY
from .test_heads import SIZES, close

Scores = Callable[..., list[float]]
TEMPLATE = (
    "<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}Judge.{% endif %}"
    "<|im_end|>\n<|im_start|>user\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}<|im_end|>\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>{{ '\n\n' }}{% endif %}"
)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [(9, 7), (9, None)])
def test_logit_score_after_a_template_of_roles(
    decoder: Callable[..., Path], scores: Scores, authors: Any, tmp_path: Path, tokens: tuple[int, int | None]
) -> None:
    package = authors("sentence-transformers", "sentence_transformers")
    modules = authors("sentence-transformers", "sentence_transformers.cross_encoder.modules")
    base = decoder("Qwen3")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    more: dict[str, Any] = {"chat_template": {"add_generation_prompt": True}, "text": {"max_length": 256}}
    transformer = modules.Transformer(str(base), transformer_task="text-generation", processing_kwargs=more)
    chain = [transformer, modules.LogitScore(*tokens)]
    model = package.CrossEncoder(modules=chain, prompts={"web": "red planets"}, default_prompt_name="web", device="cpu")
    folder = tmp_path / "model"
    model.save_pretrained(str(folder))
    long = "red moon " * 90  # theirs writes the template's end over the last tokens that the limit leaves
    passages = [*PASSAGES, long]
    expected = package.CrossEncoder(str(folder), device="cpu", activation_fn=None).predict(
        [(QUERY, passage) for passage in passages], activation_fn=_identity()
    )
    assert scores("minilm-l6", folder, passages=passages) == close(expected)
    assert scores("minilm-l6", folder, "model.exact=false", passages=passages) == close(expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ModernBert", "Bert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_and_layers(
    saved: Callable[..., Path], tiny_bert: Path, scores: Scores, authors: Any, tmp_path: Path, family: str, pooling: str
) -> None:
    import torch
    import transformers

    package = authors("sentence-transformers", "sentence_transformers")
    modules = authors("sentence-transformers", "sentence_transformers.cross_encoder.modules")
    more = authors("sentence-transformers", "sentence_transformers.sentence_transformer.modules")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert, model_max_length=512)
    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=512, **SIZES, **special
    )
    body = saved(f"{family}Model", config, tokenizer)
    width, dense = SIZES["hidden_size"], modules.Dense
    with torch.random.fork_rng():
        torch.manual_seed(5)
        chain = [
            modules.Transformer(str(body), transformer_task="feature-extraction"),
            more.Pooling(width, pooling_mode=pooling),
            dense(width, width, bias=False, activation_function=torch.nn.GELU()),
            more.LayerNorm(width),
            dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
        ]
    model = package.CrossEncoder(modules=chain, activation_fn=torch.nn.Identity(), device="cpu")
    folder = tmp_path / "model"
    model.save_pretrained(str(folder))
    passages = [*PASSAGES, "red moon " * 400]
    expected = model.predict([(QUERY, passage) for passage in passages])
    assert scores("minilm-l6", folder, passages=passages) == close(expected)
    assert scores("minilm-l6", folder, "model.exact=false", passages=passages) == close(expected)


def _identity() -> Any:
    import torch

    return torch.nn.Identity()
