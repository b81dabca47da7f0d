"""Shipped systems on tiny random models of the real class, saved as a user's folder."""

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline.configs import load as configs
from r2llm.rerankers.api import open_model
from r2llm.rerankers.backends.base import Request
from r2llm.rerankers.ranker import Requests
from r2llm.rerankers.types import Candidates, Doc, Query

QUERY = "how many moons has the red planet?"
PASSAGES = [
    "The red planet has two moons.",
    "moons of a planet",
    "Which of the following is most relevant, 1 or 0?\n",
    "日本 — no.",
    "red moon " * 40 + "end.",
]
QWEN = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
]
"""Qwen's pattern of words, by which a full stop and a line break are one token, and its control tokens."""


@pytest.fixture
def posed(tmp_path: Path) -> Callable[..., tuple[Any, Any, list[Request]]]:
    """A shipped system whose model is this folder, as on the command line: ranker, backend and first requests."""

    def pose(system: str, folder: Path, *settings: str, passages: Sequence[str] = PASSAGES) -> Any:
        hits = [{"qid": "q", "docid": f"d{i}", "content": text, "score": -i} for i, text in enumerate(passages)]
        (tmp_path / "hits.json").write_text(json.dumps([{"query": QUERY, "hits": hits}]))
        file = tmp_path / "config.yaml"
        file.write_text(f"extends: systems/{system}.yaml\ndataset: {{candidates: hits.json}}\n")
        loaded = configs.load(str(file), [f"model.name={folder}", "model.device=cpu", "model.dtype=float32", *settings])
        [ranker], [stage] = loaded.rankers, loaded.stages
        backend = open_model(stage.model or {})
        docs = tuple(Doc(f"d{i}", text) for i, text in enumerate(passages))
        candidates = Candidates(Query("q", QUERY), docs, tuple(-float(i) for i in range(len(docs))))
        requests = Requests(ranker, backend, candidates)
        return ranker, backend, [requests.request(ask) for ask in next(ranker.steps(candidates))]

    return pose


@pytest.fixture
def scores(posed: Callable[..., tuple[Any, Any, list[Request]]]) -> Callable[..., list[float]]:
    """Each passage's score by a shipped system whose model is this folder, with settings as on the command line."""

    def run(system: str, folder: Path, *settings: str, passages: Sequence[str] = PASSAGES) -> list[float]:
        ranker, backend, requests = posed(system, folder, *settings, passages=passages)
        backend.submit(requests)
        replies: dict[str, float] = {}
        while len(replies) < len(passages):
            for request, reply in backend.collect():
                replies[request.ask.docs[0]] = ranker.read(request.ask, reply, backend).scores[0]
        backend.close()
        return [replies[f"d{i}"] for i in range(len(passages))]

    return run


@pytest.fixture
def authors(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Import a module of an installed package (extra `oracles`), whatever else has its name; skip without it."""

    def load(package: str, module: str) -> Any:
        try:
            monkeypatch.syspath_prepend(str(metadata.distribution(package).locate_file("")))
        except metadata.PackageNotFoundError:
            pytest.skip(f"{package} is not installed: pip install 'r2llm[oracles]'")
        for name in [name for name in sys.modules if name.partition(".")[0] == "rerankers"]:
            monkeypatch.delitem(sys.modules, name)
        return importlib.import_module(module)

    return load


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Any:
    """A tokenizer of Qwen's kind, with few words."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers

    pattern, control = QWEN
    merges: dict[tuple[str, str], None] = {(".", "Ċ"): None, ("?", "Ċ"): None}
    for word in ("Ġmoons", "Ġmoon", "Ġred", "Ġthe", "Yes", "yes", "no", "No", "query", "document"):
        merges |= {(word[:i], word[i]): None for i in range(1, len(word))}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys(["!", *alphabet, *map("".join, merges), *control])
    bpe = tokenizers.Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=control[2], pad_token=control[0], extra_special_tokens=control[1:2]
    )


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a random model of a class of transformers, with its tokenizer, as a folder."""

    def save(kind: str, config: Any, tokenizer: Any) -> Path:
        import torch
        import transformers

        folder = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(20261129)
            model = getattr(transformers, kind)(config)
            for parameter in model.parameters():
                parameter.data += torch.randn_like(parameter) * 0.15
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def t5(saved: Callable[..., Path], t5_tokenizer: Callable[[Sequence[str], str], Any]) -> Path:
    """A tiny T5 that knows the words of monoT5's kin, and prefers none to the true one by far."""
    import transformers

    words = ("true", "false", "yes", "no", "Não", "Sim", "Query:", "Document:", "Relevant:", "red", "moon", "moons")
    tokenizer = t5_tokenizer(words, "ã日本—")
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 0.4}
    config = transformers.T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes)
    return saved("T5ForConditionalGeneration", config, tokenizer)


@pytest.fixture(scope="session")
def decoder(saved: Callable[..., Path], qwen_tokenizer: Any) -> Callable[..., Path]:
    """Save a tiny decoder of a class, with a tokenizer of Qwen's kind unless given."""

    def make(family: str, kind: str = "ForCausalLM", tokenizer: Any = qwen_tokenizer, **more: Any) -> Path:
        import transformers

        config = getattr(transformers, f"{family}Config")(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            pad_token_id=tokenizer.pad_token_id,
            **more,
        )
        return saved(f"{family}{kind}", config, tokenizer)

    return make
