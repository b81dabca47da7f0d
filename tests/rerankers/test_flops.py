"""FLOPs: the published example, both formulas by hand, what they leave out, and the two measures."""

from __future__ import annotations

import pytest
from r2llm.rerankers.flops import Shape, corrections, flops, of_answer, qpp, readings, rpp
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Ask, score

QWEN_7B = Shape("decoder_only", layers=28, width=3584, ffn=18944, group=7, gated=True, vocabulary=152_064)


def test_the_published_example() -> None:
    assert f"{flops(QWEN_7B, 200, 1):.7e}" == "1.8612417e+12"


def test_a_decoder_by_hand() -> None:
    # N = 2·3·2·((1 + 1/2)·3 + 5) = 114; prefill 2·114·4 + 4·2·16·3/2; answer 2·114·2 + (2·2·3/2)·(2·2·4 + 2·1)
    assert flops(Shape("decoder_only", 2, 3, 5, group=2), 4, 2) == 912 + 192 + 456 + 6 * 18


def test_an_encoder_decoder_by_hand() -> None:
    # N = 2·3·2·(2·3 + 5) = 132; Nd = 2·3·2·(3·3 + 5) = 168; cross-attention keys and values 4·2·4·9
    expected = 2 * 132 * 4 + 4 * 2 * 16 * 3 + 288 + 2 * 168 * 2 + 2 * 2 * 3 * 18
    assert flops(Shape("encoder_decoder", 2, 3, 5), 4, 2) == expected


def test_what_is_left_out_by_hand() -> None:
    shape = Shape("decoder_only", 2, 3, 5, group=2, gated=True, vocabulary=7)
    # Third matrix: 2·2·3·5 a token; head: 2·3·7 a token of the answer; scores: the estimate's own halves once more.
    assert corrections(shape, 4, 2) == {"gated_ffn": 60 * 6, "output_head": 42 * 2, "attention_scores": 192 + 6 * 18}


def test_nothing_is_left_out_where_nothing_is_shared_or_gated() -> None:
    left_out = corrections(Shape("encoder_decoder", 2, 3, 5), 4, 2)
    assert left_out == {"gated_ffn": 0, "output_head": 0, "attention_scores": 0}


def test_shapes_of_configs() -> None:
    import transformers

    qwen = transformers.Qwen2Config(
        num_hidden_layers=28,
        hidden_size=3584,
        intermediate_size=18944,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152_064,
    )
    assert Shape.of(qwen) == QWEN_7B
    flan = transformers.T5Config(num_layers=24, d_model=1024, d_ff=2816, feed_forward_proj="gated-gelu")
    assert Shape.of(flan) == Shape("encoder_decoder", 24, 1024, 2816, gated=True, vocabulary=32_128)
    assert Shape.of(transformers.T5Config()) == Shape("encoder_decoder", 6, 512, 2048, vocabulary=32_128)


@pytest.mark.parametrize("name", ["MixtralConfig", "GPT2Config"])
def test_no_shape_where_the_config_does_not_say_or_the_formula_does_not_fit(name: str) -> None:
    import transformers

    assert Shape.of(getattr(transformers, name)()) is None
    assert Shape.of(transformers.T5Config(num_layers=6, num_decoder_layers=3)) is None
    assert Shape.of(None) is None


def test_metric_per_petaflop_in_both_ways() -> None:
    found = rpp({"q1": 0.5, "q2": 1.0, "unmeasured": 1.0}, {"q1": 1e15, "q2": 4e15, "q3": 9e15})
    assert found["mean_of_ratios"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["ratio_of_means"] == pytest.approx(0.75 / 2.5)
    with pytest.raises(ValueError, match="no query has both"):
        rpp({"q1": 1.0}, {"q2": 1.0})


def test_queries_per_petaflop() -> None:
    assert qpp({"q1": 1e14, "q2": 3e14}) == pytest.approx(5.0)


def test_an_answer_that_is_read_off_labels_is_one_token_for_each_reading() -> None:
    assert of_answer(QWEN_7B, 200, 0) == of_answer(QWEN_7B, 200, 1) == round(flops(QWEN_7B, 200, 1))
    assert of_answer(QWEN_7B, 200, 7) == round(flops(QWEN_7B, 200, 7))
    assert of_answer(QWEN_7B, 200, 0, 3) == 3 * of_answer(QWEN_7B, 200, 0)


def test_a_prompt_is_read_for_each_label_that_is_scored_by_all_its_tokens() -> None:
    assert readings(prompts.load("graded_3l"), score("d1")) == 3
    assert readings(prompts.load("graded_3l_first"), score("d1")) == 1
    assert readings(prompts.load("qlm"), Ask("likelihood", ("d1",))) == 1
