"""Logits at the last position: shipped systems give what their authors' code or formula gives, to 1e-5 in float32."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from r2llm.rerankers import catalog

from .conftest import PASSAGES, QUERY

Scores = Callable[..., list[float]]


def close(expected: Sequence[float]) -> Any:
    return pytest.approx(expected, abs=1e-5)


def pieces(tokenizer: Any, *texts: str) -> list[int]:
    return [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def last_logits(folder: Path, prompts: Sequence[Sequence[int]]) -> Any:
    """The logits at the last position of each prompt, read alone."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in map(list, prompts)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("monot5-base", ("▁false", "▁true")),
        ("mt5-base-mmarco", ("▁no", "▁yes")),
        ("monoptt5-base", ("▁Não", "▁Sim")),
        ("mt5-13b-mmarco", ("▁", "▁true")),
    ],
)
def test_mono_t5_and_its_kin_equal_t5_ranker(
    t5: Path, scores: Scores, system: str, words: tuple[str, str], authors
) -> None:
    t5ranker = authors("rerankers", "rerankers.models.t5ranker")
    false, true = words
    ranker = t5ranker.T5Ranker(str(t5), token_false=false, token_true=true, device="cpu", dtype="float32", verbose=0)
    assert scores(system, t5) == close(ranker._get_scores(QUERY, PASSAGES))


def test_rank_t5_gives_one_tokens_raw_logit(t5: Path, scores: Scores) -> None:
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(t5).eval()
    rows = []
    for passage in PASSAGES:
        ids = tokenizer(f"Query: {QUERY} Document: {passage}", return_tensors="pt").input_ids
        with torch.no_grad():
            rows.append(model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0])
    logits = torch.stack(rows)
    token = tokenizer.convert_tokens_to_ids("<extra_id_10>")
    assert scores("rankt5-base", t5) == close(logits[:, token].tolist())


@pytest.mark.slow
def test_bge_gemma_equals_flag_llm_reranker(decoder: Callable[..., Path], scores: Scores, authors) -> None:
    reranker = authors("FlagEmbedding", "FlagEmbedding.inference.reranker.decoder_only.base")
    folder = decoder("Gemma")
    theirs = reranker.BaseLLMReranker(str(folder), devices=["cpu"], batch_size=1)
    pairs = [(QUERY, passage) for passage in PASSAGES]
    assert scores("bge-reranker-v2-gemma", folder) == close(theirs.compute_score(pairs))


@pytest.mark.slow
def test_mxbai_v2_equals_mxbai_rerank(decoder: Callable[..., Path], scores: Scores, authors) -> None:
    mxbai = authors("mxbai-rerank", "mxbai_rerank.mxbai_rerank_v2")
    folder = decoder("Qwen2")
    theirs = mxbai.MxbaiRerankV2(str(folder), device="cpu", torch_dtype="float32")

    def prepare_for_model(ids: list[int], pair_ids: list[int], **_: object) -> dict[str, list[int]]:
        return {"input_ids": [*ids, *pair_ids]}  # transformers 5 has none; nothing is cut here

    theirs.tokenizer.prepare_for_model = prepare_for_model
    expected = [float(theirs.predict([QUERY], [passage])[0]) for passage in PASSAGES]
    assert scores("mxbai-rerank-base-v2", folder) == close(expected)
    assert scores("mxbai-rerank-base-v2", folder, "model.exact=false") == close(expected)
    # Without the system turn written out, or with its parts tokenised as one text, they are others.
    prompt = (catalog.prompt_file("prorank")).read_text()
    for number, other in enumerate((prompt.replace("You are Qwen", "You are"), prompt.replace("{|}", ""))):
        assert other != prompt
        (folder / f"other{number}.yaml").write_text(other)
        found = scores("mxbai-rerank-base-v2", folder, f"ranker.prompt={folder / f'other{number}.yaml'}")
        assert found != pytest.approx(expected, abs=1e-3)


SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the "
    'answer can only be "yes" or "no".'
)
TASK = "Given a web search query, retrieve relevant passages that answer the query"


def qwen3_pair(passage: str) -> str:
    return f"<Instruct>: {TASK}\n<Query>: {QUERY}\n<Document>: {passage}"


def qwen3_frame(tokenizer: Any, thought: str = "<think>\n\n</think>\n\n") -> tuple[list[int], list[int]]:
    """The tokens of Qwen3-Reranker's prefix and suffix, each tokenised alone, as its example does."""
    before = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
    return pieces(tokenizer, before), pieces(tokenizer, f"<|im_end|>\n<|im_start|>assistant\n{thought}")


def shares_of_yes(folder: Path, tokenizer: Any, prompts: list[list[int]]) -> list[float]:
    """The probability of yes over yes and no, at the last position of each prompt."""
    yes, no = pieces(tokenizer, "yes", "no")
    return last_logits(folder, prompts)[:, [no, yes]].softmax(-1)[:, 1].tolist()


def test_qwen3_reranker_is_a_softmax_over_two(
    decoder: Callable[..., Path], qwen_tokenizer: Any, scores: Scores
) -> None:
    folder = decoder("Qwen3")
    before, after = qwen3_frame(qwen_tokenizer)
    pairs = [pieces(qwen_tokenizer, qwen3_pair(passage)) for passage in PASSAGES]
    expected = shares_of_yes(folder, qwen_tokenizer, [before + pair + after for pair in pairs])
    assert scores("qwen3-reranker-0.6b", folder) == close(expected)
    assert scores("qwen3-reranker-0.6b", folder, "model.exact=false") == close(expected)
    # One line break lost behind the thought is another prompt.
    _, short = qwen3_frame(qwen_tokenizer, "<think>\n\n</think>\n")
    lost = shares_of_yes(folder, qwen_tokenizer, [before + pair + short for pair in pairs])
    assert lost != pytest.approx(expected, abs=1e-3)


def test_only_the_passage_is_cut_to_the_limit(
    decoder: Callable[..., Path], qwen_tokenizer: Any, scores: Scores
) -> None:
    folder = decoder("Qwen3")
    before, after = qwen3_frame(qwen_tokenizer)
    pair = pieces(qwen_tokenizer, qwen3_pair(PASSAGES[-1]))
    expected = shares_of_yes(folder, qwen_tokenizer, [[*before, *pair[:-20], *after]])
    limit = f"ranker.prompt_tokens={len(before) + len(pair) - 20 + len(after)}"
    assert scores("qwen3-reranker-0.6b", folder, limit, passages=PASSAGES[-1:]) == close(expected)


def test_zerank_gives_yes_its_raw_logit(decoder: Callable[..., Path], qwen_tokenizer: Any, scores: Scores) -> None:
    folder = decoder("Qwen3")
    form = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    logits = last_logits(folder, [pieces(qwen_tokenizer, form.format(QUERY, passage)) for passage in PASSAGES])
    [yes] = pieces(qwen_tokenizer, "Yes")
    assert scores("zerank-2", folder) == close(logits[:, yes].tolist())
    # The label's log-probability is another order: its normaliser differs by document.
    assert logits[:, yes].argsort().tolist() != logits.log_softmax(-1)[:, yes].argsort().tolist()


def test_ctxl_gives_token_0_its_raw_logit(decoder: Callable[..., Path], qwen_tokenizer: Any, scores: Scores) -> None:
    folder = decoder("Qwen3")
    form = (
        "Check whether a given document contains information helpful to answer the query.\n<Document> {}\n<Query> {} ??"
    )
    logits = last_logits(folder, [pieces(qwen_tokenizer, form.format(passage, QUERY)) for passage in PASSAGES])
    assert scores("ctxl-rerank-v2-1b", folder) == close(logits[:, 0].tolist())
