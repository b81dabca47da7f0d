"""Fusion in decoder, and texts read apart: what stock classes of transformers give by the formulas of the authors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers.backends._tokens.tokens import Prepared
from r2llm.rerankers.backends.base import Request
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.types import Answer

QUERY = "how many moons has the red planet?"
PASSAGES = ["The red planet has two moons.", "moons of a planet", "red [2] moon " * 40 + "end.", "no.", "true moons"]

Ranked = Callable[..., list[Answer]]


@pytest.fixture
def posed(posed: Callable[..., Any]) -> Callable[..., tuple[Any, Any, list[Request]]]:
    """The ranker, the backend and the first requests of a system, by default about these passages."""
    return partial(posed, passages=PASSAGES)


@pytest.fixture
def answers(posed: Callable[..., tuple[Any, Any, list[Request]]]) -> Ranked:
    """The answers to those requests."""

    def run(*arguments: Any, **more: Any) -> list[Answer]:
        ranker, backend, requests = posed(*arguments, **more)
        backend.submit(requests)
        found: dict[tuple[str, ...], Answer] = {}
        while len(found) < len(requests):
            for request, reply in backend.collect():
                found[request.ask.docs] = ranker.read(request.ask, reply, backend)
        backend.close()
        return [found[request.ask.docs] for request in requests]

    return run


def loaded(folder: Path, kind: str = "AutoModelForSeq2SeqLM") -> tuple[Any, Any]:
    """The model and the tokenizer of a folder, without r2llm."""
    import transformers

    return getattr(transformers, kind).from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(
        folder
    )


def states_of(model: Any, tokenizer: Any, texts: Sequence[str], length: int) -> list[Any]:
    """The encoder's states of each text, read alone."""
    import torch

    cut = [tokenizer(text, return_tensors="pt", truncation=True, max_length=length).input_ids for text in texts]
    assert any(ids.shape[1] == length for ids in cut)  # one is cut
    with torch.inference_mode():
        return [model.get_encoder()(input_ids=ids).last_hidden_state[0] for ids in cut]


def written(model: Any, states: Sequence[Any], most: int) -> list[int]:
    """The tokens that a decoder writes greedily, one after the other, when it sees all these states."""
    import torch

    ids, joined = [0], torch.cat(list(states)).unsqueeze(0)
    while len(ids) <= most and ids[-1] != 1:
        with torch.inference_mode():
            seen = model.get_decoder()(input_ids=torch.tensor([ids]), encoder_hidden_states=joined).last_hidden_state
            scale = model.config.d_model**-0.5 if getattr(model.config, "tie_word_embeddings", True) else 1
            ids.append(int(model.lm_head(seen[:, -1] * scale).argmax()))
    return ids[1:]


@pytest.fixture
def under_their_names(t5: Path, tmp_path: Path) -> Path:
    """The same T5, its encoder's weights under the names that a wrapped encoder gives them (ListT5's FiDT5.py)."""
    import shutil

    import safetensors.torch

    folder = Path(shutil.copytree(t5, tmp_path / "wrapped"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    theirs = {
        re.sub(r"^(encoder\.encoder\.block\.\d+\.)", r"\1module.", re.sub("^encoder", "encoder.encoder", name)): part
        for name, part in weights.items()
    }
    assert "encoder.encoder.block.0.module.layer.0.SelfAttention.q.weight" in theirs
    safetensors.torch.save_file(theirs, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_the_decoder_sees_the_states_of_all_passages_one_after_the_other(t5: Path, posed: Any) -> None:
    import torch

    model, tokenizer = loaded(t5)
    texts = [
        f"Search Query: {QUERY} Passage: [{number}] {text} Relevance Ranking: "
        for number, text in enumerate(PASSAGES, 1)
    ]
    _, backend, [request] = posed("lit5-distill-base", t5)
    shorter = replace(request, ask=replace(request.ask, docs=request.ask.docs[:2]))
    with torch.inference_mode():
        inputs = backend.passes.inputs([Prepared(one, *backend.tokens.prompt(one)) for one in (request, shorter)])
    states, mask = inputs["encoder_outputs"].last_hidden_state, inputs["attention_mask"]
    for row, shown, docs in zip(states, mask, (5, 2), strict=True):
        wanted = torch.cat(states_of(model, tokenizer, texts, 150)[:docs])
        assert shown.tolist() == [1] * len(wanted) + [0] * (len(row) - len(wanted))
        torch.testing.assert_close(row[: len(wanted)], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batched", ["model.exact=true", "model.exact=false"])
def test_lit5_writes_what_the_decoder_does_that_sees_all_states(t5: Path, answers: Ranked, batched: str) -> None:
    model, tokenizer = loaded(t5)
    texts = [
        f"Search Query: {QUERY} Passage: [{number}] {text} Relevance Ranking: "
        for number, text in enumerate(PASSAGES, 1)
    ]
    ids = written(model, states_of(model, tokenizer, texts, 150), 139)
    [answer] = answers("lit5-distill-base", t5, batched)
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    numbers = [int(number) - 1 for number in re.findall(r"\d+", answer.text or "")]
    named = list(dict.fromkeys(number for number in numbers if number in range(len(PASSAGES))))
    assert list(answer.order) == [*named, *(i for i in range(len(PASSAGES)) if i not in named)]


def test_listt5_reads_weights_under_its_authors_names_and_the_best_last(
    t5: Path, under_their_names: Path, answers: Ranked
) -> None:
    model, tokenizer = loaded(t5)
    texts = [f"Query: {QUERY}, Index: {number}, Context: {text}" for number, text in enumerate(PASSAGES, 1)]
    ids = written(model, states_of(model, tokenizer, texts, 128), 6)
    [answer] = answers("listt5-base", under_their_names, "ranker.prompt_tokens=128")
    assert answer.text == tokenizer.decode(ids, skip_special_tokens=True)
    with pytest.raises(InputError, match=r"its weights lack .* encoder\.block"):
        answers("listt5-base", under_their_names, "model.rename=null")


def test_mvp_compares_each_view_with_the_state_of_a_decoder_that_sees_it_alone(
    t5: Path, under_their_names: Path, answers: Ranked
) -> None:
    import torch

    model, tokenizer = loaded(t5)
    views = "<extra_id_0><extra_id_1><extra_id_2><extra_id_3>"
    texts = [f"{views} | Query: {QUERY} | Context: {text}" for text in PASSAGES]
    states = states_of(model, tokenizer, texts, 128)
    total = torch.zeros(len(PASSAGES))
    for view in range(4):
        passages = torch.stack([state[view] for state in states])
        with torch.inference_mode():
            pad = model.shared.weight[tokenizer.pad_token_id].view(1, 1, -1)
            seen = model.decoder(inputs_embeds=pad, encoder_hidden_states=passages.unsqueeze(0)).last_hidden_state
        total += passages @ seen[0, 0]
    [answer] = answers("mvp-base", under_their_names, "ranker.prompt_tokens=128")
    assert answer.scores == pytest.approx((total / 4).tolist(), abs=1e-5)
    assert answer.order[0] == int(total.argmax())


@pytest.fixture(scope="session")
def t5gemma(saved: Callable[..., Path]) -> Path:
    """A tiny T5Gemma 2, text alone as far as it is read, with Gemma's turns among its control tokens."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors

    control = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    words = [*control, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ye", "yes", "no"]
    bpe = tokenizers.Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("y", "e"), ("ye", "s"), ("n", "o")])
    )
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    bpe.add_special_tokens(control)
    bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer), "query_pre_attn_scalar": 8}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = transformers.T5Gemma2Config(
        encoder={"text_config": sizes, "vision_config": vision, "mm_tokens_per_image": 4},
        decoder=dict(sizes),
        image_token_index=1,
        eoi_token_index=1,
    )
    return saved("T5Gemma2ForConditionalGeneration", config, tokenizer)


@pytest.mark.parametrize("batched", ["model.exact=true", "model.exact=false"])
def test_kalm_pools_the_states_of_a_document_in_fours(t5gemma: Path, answers: Ranked, batched: str) -> None:
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    model, tokenizer = loaded(t5gemma)
    turns = (
        "<bos><start_of_turn>user\nJudge whether the Document meets the requirements based on the Query and the "
        'Instruct provided. Note that the answer can only be "yes" or "no".\n\n<Instruct>: Given a query, retrieve '
        f"documents that answer the query.\n<Query>: {QUERY}<end_of_turn>\n<start_of_turn>model\n\n\n\n"
    )
    decoder = tokenizer(turns, add_special_tokens=False, return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(decoder[0])[:2] == ["<bos>", "<start_of_turn>"]
    wanted = []
    for text in PASSAGES:
        ids = tokenizer(f"<Document>: {text}", add_special_tokens=False, return_tensors="pt").input_ids[:, :128]
        with torch.inference_mode():
            states = model.get_encoder()(input_ids=ids).last_hidden_state[0]
            pooled = torch.stack([states[start : start + 4].mean(0) for start in range(0, len(states), 4)])
            outputs = model(encoder_outputs=BaseModelOutput(pooled.unsqueeze(0)), decoder_input_ids=decoder)
        pair = outputs.logits[0, -1][[tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]]
        wanted.append(torch.softmax(pair, 0)[0].item())
    found = answers("kalm-reranker-nano", t5gemma, "ranker.prompt_tokens=128", batched)
    assert [answer.scores[0] for answer in found] == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 1e-3


def test_e2rank_compares_documents_with_a_query_that_lists_the_first_twenty(
    decoder: Callable[..., Path], answers: Ranked
) -> None:
    import torch

    folder = decoder("Qwen3")
    model, tokenizer = loaded(folder, "AutoModel")
    passages = [f"{text} number {number}" for number, text in enumerate(PASSAGES * 5)]

    def vector(text: str) -> Any:
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).last_hidden_state[0, -1]

    listed = "\n".join(f"[{number}] {text}" for number, text in enumerate(passages[:20], 1))
    asked = (
        "Given a web search query and some relevant documents, rerank the documents that answer the query:\n"
        f"Documents:\n{listed}\nSearch Query: {QUERY}"
    )
    query = vector(f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    wanted = [torch.cosine_similarity(query, vector(f"{text}<|endoftext|>"), 0).item() for text in passages]
    template = folder / "turns.jinja"
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n{% if not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    )
    [answer] = answers("e2rank-0.6b", folder, f"model.chat_template={template}", passages=passages)
    assert answer.scores == pytest.approx(wanted, abs=1e-5)


def test_a_decoder_is_refused_where_passages_are_read_by_an_encoder(
    decoder: Callable[..., Path], answers: Ranked
) -> None:
    with pytest.raises(InputError, match="prompt 'lit5_distill' is read by an encoder, passage by passage"):
        answers("lit5-distill-base", decoder("Qwen3"))
