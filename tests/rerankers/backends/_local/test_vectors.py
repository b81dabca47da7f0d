"""Vectors: the similarity of two texts is what sentence-transformers gives for a folder, or its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prompts.template import load
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, permute

QUERY = "moons of a red planet"
PASSAGES = ["the red moon", "", "A planet, 42.", "which of the moons is it? " * 30, "the old moon"]


@pytest.fixture
def scored(make_candidates):
    """The scores of a folder's model for each passage."""

    def score(folder: Path, **options) -> list[float]:
        backend = backend_module.open(backend_module.Options(name=str(folder), device="cpu", **options), Setting())
        candidates = make_candidates(PASSAGES, query=QUERY)
        ranker = Ranker.create({"method": "pointwise.bi_encoder", "query_tokens": None, "passage_tokens": None})
        requests = Requests(ranker, backend, candidates)
        backend.submit([requests.request(Ask("relevance", (doc,))) for doc in candidates.ids])
        replies = {}
        while len(replies) < len(PASSAGES):
            replies |= {request.ask.docs[0]: reply.scores[0] for request, reply in backend.collect()}
        backend.close()
        return [replies[doc] for doc in candidates.ids]

    return score


def modules(folder: Path, pooling: str, dense: bool = False) -> Path:
    """Make a model's folder one of sentence-transformers."""
    import safetensors.torch
    import torch

    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds[1:], 1))]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 96, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    about = {"word_embedding_dimension": 32} | {
        f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(about))
    if dense:
        (folder / "2_Dense").mkdir()
        about = {"in_features": 32, "out_features": 8, "bias": True}
        about |= {"activation_function": "torch.nn.modules.activation.Tanh"}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(about))
        dice = torch.Generator().manual_seed(5)
        weights = {"linear.weight": torch.randn(8, 32, generator=dice), "linear.bias": torch.randn(8, generator=dice)}
        safetensors.torch.save_file(weights, folder / "2_Dense" / "model.safetensors")
    return folder


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """The body of a random BERT and its tokenizer."""
    import transformers

    transformers.AutoModel.from_pretrained(tiny_bert).save_pretrained(tmp_path / "body")
    transformers.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "body")
    return tmp_path / "body"


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize("kind", ["folder", "tiny_llama"])
def test_scores_are_the_formula(pooling: str, kind: str, request, scored) -> None:
    import torch
    import transformers

    folder = request.getfixturevalue(kind)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def vector(text: str) -> torch.Tensor:
        told = tokenizer(text, truncation=True, return_tensors="pt")
        states = model(input_ids=told["input_ids"]).last_hidden_state[0]
        return {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling]

    with torch.inference_mode():
        wanted = [float(torch.cosine_similarity(vector(QUERY), vector(text), dim=0)) for text in PASSAGES]
    assert scored(folder, pooling=pooling) == pytest.approx(wanted, abs=1e-5)
    assert scored(folder, pooling=pooling, exact=False) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "dense"), [("mean_tokens", True), ("cls_token", False), ("lasttoken", False)])
def test_scores_are_those_of_sentence_transformers(pooling: str, dense: bool, folder: Path, scored) -> None:
    ours = pytest.importorskip("sentence_transformers")
    model = ours.SentenceTransformer(str(modules(folder, pooling, dense)), device="cpu")
    queries, passages = model.encode([QUERY]), model.encode(PASSAGES)
    wanted = model.similarity(queries, passages)[0].tolist()
    assert scored(folder) == pytest.approx(wanted, abs=1e-5)
    assert scored(folder, exact=False) == pytest.approx(wanted, abs=1e-5)


def test_a_folder_says_how_it_pools_and_a_change_of_that_is_another_model(folder: Path, scored) -> None:
    mean = scored(folder)
    modules(folder, "cls_token")
    options = backend_module.Options(name=str(folder), device="cpu")
    before = backend_module.open(options, Setting()).identity
    assert scored(folder) != mean
    assert scored(folder, pooling="mean") == mean
    config = folder / "1_Pooling" / "config.json"
    config.write_text(config.read_text().replace("32", "32.0"))
    assert backend_module.open(options, Setting()).identity != before


def test_what_cannot_be_read_is_refused(folder: Path, scored) -> None:
    modules(folder, "max_tokens")
    with pytest.raises(InputError, match=r"model\.name: 1_Pooling pools by another rule; cls, mean, lasttoken can be"):
        scored(folder)
    listed = folder / "modules.json"
    listed.write_text(listed.read_text().replace("models.Normalize", "models.LSTM"))
    with pytest.raises(InputError, match=r"modules\.json has a LSTM, which is not read here"):
        scored(folder, pooling="mean")


# Marked tokens of one prompt


@pytest.fixture
def marked_folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A random Qwen3 with a projector of two matrices, and a tokenizer that knows the marker tokens."""
    import safetensors.torch
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|embed_token|>", "<|rerank_token|>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, **sizes
    )
    folder = tmp_path / "marked"
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
        projector = {"projector.0.weight": torch.randn(16, 32), "projector.2.weight": torch.randn(16, 16)}
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(weights | projector, folder / "model.safetensors", {"format": "pt"})
    return folder


def marked_asks(folder: Path, make_candidates, passages: list[str], prompt=None, longest=None, **options):
    """The backend, and the request that shows all passages at once."""
    backend = backend_module.open(backend_module.Options(name=str(folder), device="cpu", **options), Setting())
    candidates = make_candidates(passages, query=QUERY)
    settings = {"method": "listwise.full", "scoring": "likelihood", "prompt": "jina_v3", "passage_tokens": longest}
    ranker = Ranker.create(settings)
    requests = Requests(replace(ranker, prompt=prompt or ranker.prompt), backend, candidates)
    backend.submit([requests.request(permute(candidates.ids))])
    return backend


def projected(folder: Path, ids: list[int]) -> tuple[Any, Any]:
    """The projected states of the query's marker and of the passages', a row each."""
    import safetensors.torch
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    with torch.inference_mode():
        states = transformers.AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]

    def rows(marker: str) -> Any:
        token = tokenizer.convert_tokens_to_ids(marker)
        marked = states[[place for place, one in enumerate(ids) if one == token]]
        return torch.relu(marked @ weights["projector.0.weight"].T) @ weights["projector.2.weight"].T

    return rows("<|rerank_token|>"), rows("<|embed_token|>")


def test_marked_tokens_give_the_cosines_of_the_formula(marked_folder: Path, make_candidates) -> None:
    import torch

    passages = [*PASSAGES, "it says <|embed_token|> and no more", *(f"moon {number}" for number in range(20))]
    backend = marked_asks(marked_folder, make_candidates, passages)
    [(request, reply)] = backend.collect()
    ids = backend.tokens.prompt(request)[1]
    shown = backend.tokens.tokenizer.decode(ids)
    assert shown.count("<|embed_token|>\n</passage>") == len(passages)
    assert f'<passage id="0">\n{passages[0]}<|embed_token|>\n</passage>\n<passage id="1">' in shown
    assert shown.count(f"<query>\n{QUERY}<|rerank_token|>\n</query>") == 1
    wanted = torch.cosine_similarity(*projected(marked_folder, ids)).tolist()
    assert len(wanted) == len(passages)
    assert reply.scores == pytest.approx(wanted, abs=1e-5)


def test_more_passages_than_a_prompt_shows_make_blocks_with_one_query(marked_folder: Path, make_candidates) -> None:
    import torch

    passages = [f"moon {number} {'red ' * (number % 5)}" for number in range(30)]
    prompt = load("jina_v3")
    assert (prompt.answer.marked.block, prompt.answer.marked.context) == (125, 131072)
    marked = prompt.answer.marked.model_copy(update={"block": 8})
    blocks_of_8 = prompt.model_copy(update={"answer": prompt.answer.model_copy(update={"marked": marked})})
    [(request, reply)] = marked_asks(marked_folder, make_candidates, passages, prompt=blocks_of_8).collect()
    vectors = []
    for start in range(0, 30, 8):
        [(_, alone)] = marked_asks(marked_folder, make_candidates, passages[start : start + 8]).collect()
        vectors.append(alone)
    # Of each block: its cosines weigh its query vector, and all passages meet the mean of the query vectors.
    backend = marked_asks(marked_folder, make_candidates, passages, prompt=blocks_of_8)
    blocks = [ids for _, ids in backend.tokens.blocks(request)]
    assert [len(alone.scores) for alone in vectors] == [8, 8, 8, 6]
    assert reply.prompt_tokens == sum(map(len, blocks)) == sum(alone.prompt_tokens for alone in vectors)
    queries, documents = zip(*(projected(marked_folder, ids) for ids in blocks), strict=True)
    weights = [(1 + max(alone.scores)) / 2 for alone in vectors]
    query = sum(weight * vector for weight, vector in zip(weights, queries, strict=True)) / sum(weights)
    wanted = torch.cosine_similarity(query, torch.cat(documents)).tolist()
    assert reply.scores == pytest.approx(wanted, abs=1e-5)


def test_a_block_ends_where_the_context_would_not_hold_a_further_passage(marked_folder: Path, make_candidates) -> None:
    prompt, passages = load("jina_v3"), ["red moon " * 30] * 6
    tokenizer = marked_asks(marked_folder, make_candidates, passages).tokens.tokenizer
    query, longest = len(tokenizer.tokenize(QUERY)), len(tokenizer.tokenize(passages[0]))
    room = 2 * query + 3 * longest  # behind two passages a third would just fit
    for context, sizes in ((None, [6]), (room, [2, 2, 2]), (room + 1, [3, 3]), (40, [1] * 6)):
        marked = prompt.answer.marked.model_copy(update={"block": None, "context": context})
        changed = prompt.model_copy(update={"answer": prompt.answer.model_copy(update={"marked": marked})})
        backend = marked_asks(marked_folder, make_candidates, passages, prompt=changed, longest=longest)
        token = tokenizer.convert_tokens_to_ids("<|embed_token|>")
        assert [ids.count(token) for _, ids in backend.tokens.blocks(backend.waiting[0])] == sizes


def test_a_model_without_the_marker_tokens_is_refused(tiny_llama: Path, make_candidates) -> None:
    with pytest.raises(InputError, match=r"the prompt has 0 <\|rerank_token\|> and 0 <\|embed_token\|>, not 1 and 5"):
        marked_asks(tiny_llama, make_candidates, PASSAGES).collect()
