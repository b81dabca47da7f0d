"""What is not asked about is left out of the last layer, and nothing else changes."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import transformers
from r2llm.rerankers.backends.engine.last_layer import LastLayer

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
SHAPES = {
    "LlamaConfig": {},
    "Qwen3Config": {},
    "Gemma2Config": {},
    "PhiConfig": {},  # attention and feed-forward part side by side
    "GPTNeoXConfig": {},
    "MixtralConfig": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen3MoeConfig": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}


def model_of(name: str):
    torch.manual_seed(1)
    config = getattr(transformers, name)(**(SMALL | SHAPES[name]))
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model, ids, last: int):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, logits_to_keep=last).logits


@pytest.mark.parametrize("last", [1, 4, 40, 99])
@pytest.mark.parametrize("name", SHAPES)
def test_the_logits_that_are_asked_for_stay_the_same(name: str, last: int) -> None:
    model = model_of(name)
    ids = torch.randint(1, 60, (2, 40))
    whole = logits(model, ids, last)
    layer = LastLayer(model)
    assert torch.equal(logits(model, ids, last), whole)  # nothing is left out unless told
    with layer.positions(last):
        assert torch.allclose(logits(model, ids, last), whole, rtol=0, atol=1e-6)
    assert torch.equal(logits(model, ids, last), whole)


def test_positions_that_are_not_asked_about_are_not_computed() -> None:
    model = model_of("LlamaConfig")
    layer, seen = LastLayer(model), []
    for module in model.model.layers:
        module.mlp.up_proj.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    with layer.positions(2):
        logits(model, torch.randint(1, 60, (3, 25)), 2)
    assert seen == [25, 25, 2]


def test_threads_ask_about_different_positions_of_one_model() -> None:
    model = model_of("LlamaConfig")
    layer = LastLayer(model)
    asks = [(torch.randint(1, 60, (1, 20 + n)), 1 + n % 5) for n in range(40)]
    whole = [logits(model, ids, last) for ids, last in asks]

    def asked(ids, last: int):
        with layer.positions(last):
            return logits(model, ids, last)

    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(asked, *zip(*asks, strict=True)), whole, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_a_model_of_another_make_computes_all_positions() -> None:
    config = transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config).eval()
    ids = torch.randint(1, 60, (1, 9))
    whole = logits(model, ids, 1)
    with LastLayer(model).positions(1):
        assert torch.equal(logits(model, ids, 1), whole)
