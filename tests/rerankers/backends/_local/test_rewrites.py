"""Rewritten models give the numbers and texts that they gave, for one prompt and for padded batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from r2llm.rerankers.backends._local.rewrites import rewritten

PROMPTS = torch.tensor([[5, 9, 11, 14, 20, 7, 1], [8, 6, 1, 0, 0, 0, 0]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_t5_gives_the_same_logits_and_texts(tiny_t5: Path, kind: str, attention: str) -> None:
    settings = transformers.AutoConfig.from_pretrained(tiny_t5).to_dict()
    config = transformers.AutoConfig.for_model(**settings | {"model_type": kind})

    def opened() -> Any:
        torch.manual_seed(3)
        return transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation=attention).eval()

    before, after = opened(), rewritten(opened())
    for texts in (1, 2):
        read = {"input_ids": PROMPTS[:texts], "attention_mask": (PROMPTS[:texts] > 0).long()}
        for tokens in (2, 8):  # few attend to the prompt, and too many
            read["decoder_input_ids"] = torch.tensor([[0, *range(4, 3 + tokens)]] * texts)
            with torch.inference_mode():
                logits, ours = (model(**read, use_cache=False).logits for model in (before, after))
                torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
                assert torch.equal(*(model.generate(**read, max_new_tokens=6) for model in (before, after)))


def test_half_precision_on_a_cpu_is_no_further_from_float32_than_the_library_s(tiny_t5: Path) -> None:
    def logits(dtype: torch.dtype, rewrites: bool) -> torch.Tensor:
        model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5, dtype=dtype).eval()
        model = rewritten(model) if rewrites else model
        read = {
            "input_ids": PROMPTS,
            "attention_mask": (PROMPTS > 0).long(),
            "decoder_input_ids": torch.tensor([[0], [0]]),
        }
        with torch.inference_mode():
            return model(**read, use_cache=False).logits.float()

    exact = logits(torch.float32, False)
    ours, theirs = ((logits(torch.bfloat16, rewrites) - exact).abs().mean() for rewrites in (True, False))
    assert 0 < ours < 1.1 * theirs


def test_half_precision_on_gpus_and_other_models_stay(tiny_t5: Path, tiny_llama: Path) -> None:
    def kinds(model: Any) -> list[type]:
        return [type(part) for part in model.modules()]

    for folder, auto in (
        (tiny_t5, transformers.AutoModelForSeq2SeqLM),
        (tiny_llama, transformers.AutoModelForCausalLM),
    ):
        for dtype, device in ((torch.float32, "meta"), (torch.bfloat16, "cpu"), (torch.bfloat16, "meta")):
            before, after = (auto.from_pretrained(folder, dtype=dtype).to(device) for _ in range(2))
            rewrites = folder == tiny_t5 and (dtype == torch.float32 or device == "cpu")
            assert (kinds(rewritten(after)) != kinds(before)) == rewrites
