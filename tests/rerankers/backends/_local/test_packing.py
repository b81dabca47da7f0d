"""Packed layers multiply to the bits of the library's own, whatever the shapes and threads."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from r2llm.rerankers.backends._local.packing import PackedLinear, multiplies_bfloat16, packed

pytestmark = pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")


@pytest.mark.parametrize(("outputs", "inputs"), [(3, 7), (33, 65), (192, 576), (1024, 512)])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_equal_to_the_bit(outputs: int, inputs: int, bias: bool) -> None:
    torch.manual_seed(outputs)
    linear, threads = torch.nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16), torch.get_num_threads()
    ours = PackedLinear(linear)
    assert torch.equal(ours.weight, linear.weight)
    try:
        with torch.inference_mode():
            for rows in (0, 1, 2, 5, 28, 145):
                hidden = torch.randn(2, rows, inputs, dtype=torch.bfloat16)
                for number in (1, 2, 4):
                    torch.set_num_threads(number)
                    assert torch.equal(ours(hidden), linear(hidden))
                    # A row's product does not depend on those beside it.
                    assert all(torch.equal(ours(row), linear(row)) for row in hidden[0, :2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_bert"])
def test_models_answer_with_the_same_bits(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    writes = name == "tiny_llama"
    kind = transformers.AutoModelForCausalLM if writes else transformers.AutoModelForSequenceClassification

    def opened() -> Any:
        return kind.from_pretrained(folder, dtype=torch.bfloat16).eval()

    theirs, ours = opened(), packed(opened())
    assert any(isinstance(part, PackedLinear) for part in ours.modules())
    assert sum(part.numel() for part in ours.parameters()) >= sum(part.numel() for part in theirs.parameters())
    read: dict[str, Any] = {"input_ids": torch.tensor([[5, 9, 11, 14, 20, 7, 1], [8, 6, 1, 9, 4, 3, 1]])}
    with torch.inference_mode():
        assert torch.equal(ours(**read).logits, theirs(**read).logits)
        if writes:
            assert torch.equal(ours.generate(**read, max_new_tokens=6), theirs.generate(**read, max_new_tokens=6))


@pytest.mark.parametrize("kind", ["gated-gelu", "gated-silu", "relu"])
def test_t5_s_feed_forward_parts_are_as_near_to_float32(tiny_t5: Path, kind: str) -> None:
    act = {"gated-gelu": "gelu_pytorch_tanh", "gated-silu": "silu", "relu": "relu"}[kind]
    config = transformers.AutoConfig.from_pretrained(tiny_t5)
    config.update({"feed_forward_proj": kind, "dense_act_fn": act, "is_gated_act": kind != "relu"})
    torch.manual_seed(2)
    exact = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    theirs, ours = (transformers.AutoModelForSeq2SeqLM.from_config(config).eval() for _ in range(2))
    for model in (theirs, ours):
        model.load_state_dict(exact.state_dict())
        model.to(torch.bfloat16)
    ours = packed(ours)
    assert isinstance(ours.decoder.block[1].layer[2].DenseReluDense.wo, PackedLinear)
    hidden = torch.randn(50, config.d_model)
    with torch.inference_mode():
        wanted, *found = (
            model.encoder.block[0].layer[1].DenseReluDense(hidden.to(model.dtype)).float()
            for model in (exact, theirs, ours)
        )
    off = [float((each - wanted).abs().mean()) for each in found]
    assert 0 < off[1] < 1.05 * off[0]


def test_each_layer_s_weights_are_let_go_before_the_next_is_packed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    layers = [weakref.ref(part) for part in model.modules() if type(part) is torch.nn.Linear]
    alive: list[int] = []

    class Counted(PackedLinear):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__(linear)
            alive.append(sum(layer() is not None for layer in layers))

    monkeypatch.setattr("r2llm.rerankers.backends._local.packing.PackedLinear", Counted)
    packed(model)
    assert alive == list(range(len(layers), 0, -1))


def test_layers_that_are_more_than_linear_stay() -> None:
    config = transformers.SwitchTransformersConfig(
        vocab_size=40,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        num_experts=2,
        num_sparse_encoder_layers=1,
    )
    model = transformers.SwitchTransformersForConditionalGeneration(config).to(torch.bfloat16).eval()
    read = {"input_ids": torch.tensor([[5, 9, 11]]), "decoder_input_ids": torch.tensor([[0, 4]])}
    hooked = model.encoder.block[0].layer[0].SelfAttention.q
    hooked.register_forward_hook(lambda *_: None)
    with torch.inference_mode():
        wanted = model(**read).logits
        assert torch.equal(packed(model)(**read).logits, wanted)  # its router's layer computes in float32
    assert model.encoder.block[0].layer[0].SelfAttention.q is hooked


def test_other_formats_stay_as_they_are(tiny_llama: Path) -> None:
    for dtype in (torch.float32, torch.float16):
        model = packed(transformers.AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=dtype))
        assert not any(isinstance(part, PackedLinear) for part in model.modules())
