"""Rewritten models give the numbers and texts that they gave, for one prompt and for padded batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from r2llm.rerankers.backends._local.packing import packed
from r2llm.rerankers.backends._local.rewrites import cache_for_few, rewritten

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
        for tokens in (1, 2, 8):  # one, few that attend to the prompt, and too many
            read["decoder_input_ids"] = torch.tensor([[0, *range(4, 3 + tokens)]] * texts)
            with torch.inference_mode():
                logits, ours = (model(**read, use_cache=False).logits for model in (before, after))
                torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
                assert torch.equal(*(model.generate(**read, max_new_tokens=6) for model in (before, after)))


def test_few_tokens_are_generated_without_the_prompt_s_keys_and_values(tiny_t5: Path, tiny_llama: Path) -> None:
    model = rewritten(transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5).eval())
    computed: list[int] = []
    keys = [block.layer[1].EncDecAttention.k for block in model.decoder.block]
    for part in keys:
        part.register_forward_hook(lambda *_: computed.append(1))
    read = {"input_ids": PROMPTS, "attention_mask": (PROMPTS > 0).long(), "max_new_tokens": 4}
    with torch.inference_mode():
        wanted = model.generate(**read)
        assert len(computed) == len(keys)
        assert torch.equal(model.generate(**read, past_key_values=cache_for_few(model)), wanted)
    assert len(computed) == len(keys)
    assert cache_for_few(transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)) is None


def test_float16_on_a_cpu_is_as_in_the_library(tiny_t5: Path) -> None:
    theirs, ours = (
        transformers.AutoModelForSeq2SeqLM.from_pretrained(tiny_t5, dtype=torch.float16).eval() for _ in range(2)
    )
    assert next(part for name, part in theirs.named_parameters() if name.endswith(".wo.weight")).dtype == torch.float32
    read = {"input_ids": PROMPTS, "attention_mask": (PROMPTS > 0).long(), "decoder_input_ids": torch.tensor([[0], [0]])}
    with torch.inference_mode():
        wanted, found = (model(**read).logits for model in (theirs, rewritten(ours)))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_bfloat16_on_a_cpu_is_no_further_from_float32_than_the_library_s(tiny_t5: Path, attention: str) -> None:
    def opened(dtype: torch.dtype) -> Any:
        kind = transformers.AutoModelForSeq2SeqLM
        return kind.from_pretrained(tiny_t5, dtype=dtype, attn_implementation=attention).eval()

    exact, theirs, ours = opened(torch.float32), opened(torch.bfloat16), packed(rewritten(opened(torch.bfloat16)))
    draw, off = torch.Generator().manual_seed(1), {"ours": 0.0, "theirs": 0.0}
    for _ in range(20):
        ids = torch.randint(3, exact.config.vocab_size, (2, 30), generator=draw)
        read = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 30, [1] * 20 + [0] * 10])}
        read["decoder_input_ids"] = torch.tensor([[0], [0]])
        with torch.inference_mode():
            wanted = exact(**read, use_cache=False).logits
            for name, model in (("ours", ours), ("theirs", theirs)):
                off[name] += float((model(**read, use_cache=False).logits.float() - wanted).abs().mean())
    assert 0 < off["ours"] < 1.05 * off["theirs"]


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
