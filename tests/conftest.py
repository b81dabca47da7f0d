"""What several test files use: candidates, a way to rank them, and two tiny models, made here and seeded."""

import gc
import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# Before torch and the hub's client are imported: tests never ask the network, and two threads on a busy machine of two
# cores wait for each other longer than they compute.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
from r2llm.pipeline.run import environment
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.backends.base import Backend, Request
from r2llm.rerankers.ledger import Ledger
from r2llm.rerankers.prompts.template import Architecture
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.scheduler import Scheduler
from r2llm.rerankers.types import Candidates, Cost, Doc, Query, Ranking

# A sample by default; `pytest --hypothesis-profile=full` tries everything.
hypothesis.settings.register_profile("sample", deadline=None, max_examples=10)
hypothesis.settings.register_profile("full", deadline=None, max_examples=40)
hypothesis.settings.load_profile("sample")

WORDS = [
    "Passage",
    "Query",
    "Given",
    "query",
    "which",
    "of",
    "the",
    "following",
    "passages",
    "is",
    "most",
    "relevant",
    "one",
    "to",
    "Yes",
    "No",
    "yes",
    "no",
    "True",
    "False",
    "Not",
    "Somewhat",
    "Highly",
    "Relevant",
    *"012345",
    "red",
    "moon",
    "planet",
]
"""What the tiny models' tokenizers know as whole words; all else they spell."""

CHAT_TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    "Today Date: {{ date_string if date_string is defined else strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""The form of Llama 3's: control tokens around every turn, and a date that is today's unless it is told."""


SHARED = Path(os.environ.setdefault("R2LLM_SHARED", str(Path(__file__).resolve().parents[2] / "shared")))
"""Data beside the project that some tests use."""


def pytest_collection_finish() -> None:
    """Keep what is there before the first test, modules above all, from being looked through for garbage again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `shared` where the shared data is not."""
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"no shared data in {SHARED}"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for this session of tests, all its workers, instead of the user's.

    The disk is not forced; git, the machine and packages are asked once.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2LLM_CACHE", str(folder))
        patch.setattr(os, "fsync", lambda file: None)
        patch.setattr(environment, "_output", cache(environment._output))
        patch.setattr(environment.metadata, "version", cache(environment.metadata.version))
        patch.setattr(environment.platform, "processor", cache(environment.platform.processor))
        yield folder


@pytest.fixture(scope="session")
def make_candidates() -> Callable[..., Candidates]:
    """Candidates of one query: so many documents `d00`, `d01`, …, or those with the texts given."""

    def make(docs: int | Sequence[str] = 5, query_id: str = "q1", query: str = "how many moons has mars") -> Candidates:
        texts = [f"passage number {i} about moons" for i in range(docs)] if isinstance(docs, int) else docs
        return Candidates(
            query=Query(query_id, query),
            docs=tuple(Doc(f"d{i:02d}", text) for i, text in enumerate(texts)),
            scores=tuple(100.0 - i for i in range(len(texts))),
        )

    return make


@pytest.fixture(scope="session")
def rank() -> Callable[..., list[tuple[Ranking, Cost]]]:
    """Rank queries with a config's `ranker` section and a backend: one (ranking, cost) a query, as they are done."""

    def run(
        options: Mapping[str, Any],
        backend: Backend,
        queries: Sequence[Candidates],
        *,
        ledger: Ledger | None = None,
        pooled: bool = True,
    ) -> list[tuple[Ranking, Cost]]:
        memory = Ledger(None)
        try:
            kept = memory if ledger is None else ledger
            return list(Scheduler(Ranker.create(options), backend, kept, pooled=pooled).rank(queries))
        finally:
            memory.close()

    return run


class RuleBackend(Backend):
    """A backend whose replies are made by a function; it answers in the order and the portions it is told to.

    `asked` are the requests it was given and `answered` those it answered, in order.
    """

    simulated = True

    def __init__(
        self,
        reply: Callable[[Request], Reply],
        *,
        take: Callable[[list[Request]], list[Request]] = list,
        architecture: Architecture = "decoder_only",
    ) -> None:
        super().__init__()
        self.reply = reply
        self.choose = take
        self.architecture = architecture
        self.identity: Mapping[str, object] = {"backend": "rule", "architecture": architecture}
        self.asked: list[Request] = []
        self.answered: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        super().submit(requests)
        self.asked.extend(requests)

    def collect(self) -> list[tuple[Request, Reply]]:
        taken = self.choose(self.waiting)
        self.waiting = [request for request in self.waiting if not any(request is one for one in taken)]
        self.answered.extend(taken)
        return [(request, self.reply(request)) for request in taken]


@pytest.fixture(scope="session")
def rule_backend() -> type[RuleBackend]:
    """A backend that is made of a function from a request to a reply."""
    return RuleBackend


@pytest.fixture(scope="session")
def t5_tokenizer() -> Callable[[Sequence[str], str], Any]:
    """Make a tokenizer of T5's own kind that knows these words, and spells others in ASCII and these characters."""

    def make(words: Sequence[str], characters: str) -> Any:
        import transformers

        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
        pieces += [(f"▁{word}", -5.0) for word in words]
        pieces += [(character, -9.0) for character in [*map(chr, range(33, 127)), *characters]]
        pieces += [(f"<extra_id_{i}>", 0.0) for i in range(99, -1, -1)]
        return transformers.T5Tokenizer(vocab=pieces)

    return make


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory, t5_tokenizer: Callable[[Sequence[str], str], Any]) -> Path:
    """The folder of a random T5 of about 60,000 parameters, with T5's own kind of tokenizer."""
    import transformers

    tokenizer = t5_tokenizer((*WORDS, *string.ascii_uppercase[:23]), "éüÅ²ß日本語—")
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        initializer_factor=0.4,
        decoder_start_token_id=0,
    )
    return _saved(transformers.T5ForConditionalGeneration, config, tokenizer, tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of about 40,000 parameters, with byte-level BPE and a chat template."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors

    control = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|pad|>"]
    merges: dict[tuple[str, str], None] = {("Ġ", letter): None for letter in string.ascii_letters}
    for word in WORDS:
        merges |= {(f"Ġ{word[:i]}", word[i]): None for i in range(1, len(word))}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*control, *alphabet, *map("".join, merges)])}
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{control[0]} $A", special_tokens=[(control[0], vocabulary[control[0]])]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=control[0],
        eos_token=control[1],
        pad_token=control[4],
        extra_special_tokens=control[2:4],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=4,
    )
    return _saved(transformers.LlamaForCausalLM, config, tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random BERT of about 25,000 parameters with a head of one label, a cross-encoder."""
    import transformers

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.digits, *string.punctuation, *string.ascii_lowercase]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase]
    pieces += dict.fromkeys(word.lower() for word in WORDS if len(word) > 1)
    tokenizer = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=96)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=96,
        initializer_range=0.3,
        num_labels=1,
    )
    return _saved(transformers.BertForSequenceClassification, config, tokenizer, tmp_path_factory.mktemp("bert"))


def _saved(kind: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(20240714)
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
