"""Classification heads: shipped systems give what their authors' code or formula gives, to 1e-5 in float32."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from .conftest import PASSAGES, QUERY

Scores = Callable[..., list[float]]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def close(expected: Any) -> Any:
    return pytest.approx(list(map(float, expected)), abs=1e-5)


@pytest.fixture(scope="session")
def encoder(saved: Callable[..., Path], tiny_bert: Path) -> Callable[..., Path]:
    """Save a tiny encoder of a class with a head, with BERT's kind of tokenizer."""

    def make(family: str, labels: int = 1, **more: Any) -> Path:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert, model_max_length=512)
        special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer), max_position_embeddings=512, num_labels=labels, **SIZES, **special, **more
        )
        return saved(f"{family}ForSequenceClassification", config, tokenizer)

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "family", "labels"),
    [
        ("minilm-l6", "Bert", 1),
        ("monoelectra-base", "Electra", 2),
        ("gte-reranker-modernbert", "ModernBert", 1),
        ("mxbai-rerank-base-v1", "DebertaV2", 1),
    ],
)
def test_heads_equal_cross_encoder(
    encoder: Callable[..., Path], scores: Scores, authors: Any, system: str, family: str, labels: int
) -> None:
    import torch

    folder = encoder(family, labels)
    model = authors("sentence-transformers", "sentence_transformers").CrossEncoder(str(folder), device="cpu")
    pairs = [(QUERY, passage) for passage in PASSAGES]
    expected = model.predict(pairs, activation_fn=torch.nn.Identity()).reshape(len(pairs), labels)[:, -1]
    assert scores(system, folder) == close(expected)


def test_monobert_gives_the_log_probability_of_the_second_label(encoder: Callable[..., Path], scores: Scores) -> None:
    import torch
    import transformers

    folder = encoder("Bert", 2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        rows = [model(**tokenizer(QUERY, passage, return_tensors="pt")).logits[0] for passage in PASSAGES]
    logits = torch.stack(rows)
    settings = f"model.tokenizer={folder}"
    assert scores("monobert-large", folder, settings) == close(logits.log_softmax(-1)[:, 1])
    # monoELECTRA's logit of the second label is another number.
    assert scores("monoelectra-base", folder) == close(logits[:, 1])


@pytest.mark.slow
def test_bge_equals_flag_reranker(saved: Callable[..., Path], scores: Scores, authors: Any) -> None:
    import transformers

    base = authors("FlagEmbedding", "FlagEmbedding.inference.reranker.encoder_only.base")
    words = ["red", "moon", "moons", "planet", "the", "of"]
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -5.0) for word in words]
    pieces += [(character, -9.0) for character in map(chr, range(33, 127))]
    tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=512)
    config = transformers.XLMRobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=514, num_labels=1, pad_token_id=1, **SIZES
    )
    folder = saved("XLMRobertaForSequenceClassification", config, tokenizer)
    theirs = base.BaseReranker(str(folder), devices=["cpu"], use_fp16=False)
    long = ["moon red " * 400, "of the planets, " * 60]  # cut: the passage alone, and inside of a word
    # Under transformers 5 it decodes a pair and tokenises it again, which makes five tokens of an unknown character.
    passages = [passage for passage in PASSAGES if passage.isascii()] + long
    expected = theirs.compute_score([(QUERY, passage) for passage in passages])
    assert scores("bge-reranker-v2-m3", folder, passages=passages) == close(expected)


def head_logits(folder: Path, rows: Sequence[Any]) -> list[float]:
    """A decoder's head at the last token of each row of ids."""
    import torch
    import transformers

    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return [float(model(input_ids=torch.tensor([list(ids)])).logits[0, 0]) for ids in rows]


def test_rankllama_reads_one_stripped_text_cut_at_196_tokens(
    decoder: Callable[..., Path], tiny_llama: Path, scores: Scores
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)  # it begins a text with one BOS
    folder = decoder("Llama", "ForSequenceClassification", tokenizer, num_labels=1)
    passages = [*PASSAGES, "moons of a planet " * 50, "red moon \n "]
    texts = [f"query:  {QUERY} document:  {passage}" for passage in passages]
    ids = [tokenizer(text.strip(), truncation=True, max_length=196)["input_ids"] for text in texts]
    assert max(map(len, ids)) == 196
    assert scores("rankllama-7b", folder, passages=passages) == close(head_logits(folder, ids))
    # A blank left at the end would be the token that is read.
    [unstripped] = head_logits(folder, [tokenizer(texts[-1])["input_ids"]])
    assert abs(unstripped - head_logits(folder, ids[-1:])[0]) > 1e-3


def test_dear_reads_a_pair_with_prefixes(decoder: Callable[..., Path], qwen_tokenizer: Any, scores: Scores) -> None:
    folder = decoder("Llama", "ForSequenceClassification", num_labels=1)
    pairs = [(f"query: {QUERY}", f"document: {passage}") for passage in PASSAGES]
    ids = [qwen_tokenizer(*pair, truncation="only_second", max_length=228)["input_ids"] for pair in pairs]
    assert scores("dear-8b-ce", folder) == close(head_logits(folder, ids))
    assert scores("dear-8b-ce", folder, "model.exact=false") == close(head_logits(folder, ids))


def test_code_of_a_model_runs_only_when_it_is_trusted(
    encoder: Callable[..., Path], scores: Scores, tmp_path: Path
) -> None:
    from r2llm.rerankers.errors import InputError

    plain = encoder("Bert")
    folder = Path(str(tmp_path / "remote"))
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n\n\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n\n\n"
        "class Own(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.Own"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": auto}))
    passages = PASSAGES[:2]
    assert scores("jina-reranker-v2", folder, passages=passages) == close(scores("minilm-l6", plain, passages=passages))
    with pytest.raises(
        InputError, match=r"^model\.name: .*code of its own; read that, and set model\.trust_remote_code: true"
    ):
        scores("jina-reranker-v2", folder, "model.trust_remote_code=false", passages=passages)
