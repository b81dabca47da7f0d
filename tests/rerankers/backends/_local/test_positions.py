"""How long an input a model reads, by its position table, and what its decoder begins with."""

from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends._local import passes
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, score

SMALL = {"vocab_size": 2000, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 2000,
    "d_model": 32,
    **{f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")},
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 4,
    "decoder_start_token_id": 1,
}


@pytest.mark.parametrize(
    ("kind", "options", "longest"),
    [
        # Positions begin behind the padding's: 66 rows read 64 tokens.
        ("Roberta", {**SMALL, "intermediate_size": 32, "pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("XLMRoberta", {**SMALL, "intermediate_size": 32, "pad_token_id": 1, "max_position_embeddings": 514}, 512),
        ("MPNet", {**SMALL, "intermediate_size": 32, "pad_token_id": 1, "max_position_embeddings": 66}, 64),
        ("Bert", {**SMALL, "intermediate_size": 32, "pad_token_id": 0, "max_position_embeddings": 64}, 64),
        ("Electra", {**SMALL, "intermediate_size": 32, "pad_token_id": 0, "max_position_embeddings": 64}, 64),
        ("ModernBert", {**SMALL, "intermediate_size": 32, "pad_token_id": 0, "max_position_embeddings": 64}, 64),
        ("GPT2", {"vocab_size": 2000, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}, 64),
        # Two rows more than the config counts, which no token has.
        ("OPT", {**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 32, "max_position_embeddings": 64}, 64),
        ("Bart", {**SEQ2SEQ, "max_position_embeddings": 64}, 64),
        ("T5", {"vocab_size": 2000, "d_model": 32, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4}, None),
        ("Bloom", {"vocab_size": 2000, "hidden_size": 32, "n_layer": 1, "n_head": 4}, None),
    ],
)
def test_the_longest_input_goes_by_the_position_table(kind: str, options: dict[str, Any], longest: int | None) -> None:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**options)
    assert passes.longest_input(config) == longest


@pytest.fixture
def saved(tiny_llama: Path, tmp_path: Path):
    """A model of some kind in a folder, with a tokenizer that does not say how long its texts may be."""
    import transformers

    def save(kind: str, config: str, **options) -> Path:
        model = getattr(transformers, kind)(getattr(transformers, config)(**options))
        model.save_pretrained(tmp_path)
        transformers.AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
        return tmp_path

    return save


def answered(folder: Path, method: str, candidates, ask) -> list:
    backend = backend_module.open(backend_module.Options(name=str(folder), device="cpu"), Setting())
    ranker = Ranker.create({"method": method, "passage_tokens": 1000})
    backend.submit([Requests(ranker, backend, candidates).request(ask(doc)) for doc in candidates.ids])
    replies: list = []
    while len(replies) < len(candidates.ids):
        replies += backend.collect()
    return sorted(reply.prompt_tokens for _, reply in replies)


def test_a_cross_encoder_cuts_to_what_its_table_holds(saved, make_candidates) -> None:
    options = {**SMALL, "intermediate_size": 32, "pad_token_id": 1, "max_position_embeddings": 66, "num_labels": 1}
    folder = saved("RobertaForSequenceClassification", "RobertaConfig", **options)
    asked = make_candidates(["y" * 500, "moon"], query="moons?")
    short, long = answered(folder, "pointwise.cross_encoder", asked, lambda doc: Ask("relevance", (doc,)))
    assert (short < 20, long) == (True, 64)


def test_an_encoder_decoder_says_that_a_prompt_is_too_long(saved, make_candidates) -> None:
    folder = saved("BartForConditionalGeneration", "BartConfig", **SEQ2SEQ, max_position_embeddings=100)
    assert len(answered(folder, "pointwise.yes_no", make_candidates(["moon"]), score)) == 1
    with pytest.raises(InputError, match=r"query q1: a prompt of \d+ tokens does not fit the model's 100; lower"):
        answered(folder, "pointwise.yes_no", make_candidates(["y" * 200]), score)


def test_a_decoder_begins_with_what_its_config_says_or_with_the_beginning_of_a_text() -> None:
    import transformers

    small = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
    part = transformers.T5GemmaModuleConfig(**small, bos_token_id=2, eos_token_id=1)
    config = transformers.T5GemmaConfig(encoder=part, decoder=part, vocab_size=2000)
    model = transformers.T5GemmaForConditionalGeneration(config)
    assert passes.start(model) == 2
    model.generation_config.decoder_start_token_id = 7
    assert passes.start(model) == 7
    bart = transformers.BartForConditionalGeneration(transformers.BartConfig(**SEQ2SEQ))
    assert passes.start(bart) == 1
    unsaid = transformers.BartConfig(**SEQ2SEQ | {"decoder_start_token_id": None, "bos_token_id": None})
    with pytest.raises(InputError, match=r"model\.name: its config names no decoder_start_token_id"):
        passes.start(transformers.BartForConditionalGeneration(unsaid))
