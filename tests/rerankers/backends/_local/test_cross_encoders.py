"""Cross-encoders: relevance equals what transformers' own use of the model gives, pair by pair."""

import json
import shutil
from pathlib import Path

import pytest
from r2llm.rerankers.backends import transformers as backend_module
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.errors import BackendError, InputError
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask

QUERY = "moons of a red planet"
PASSAGES = ["the red moon", "", "A planet, 日本.", "which of the moons is it? " * 9, "the [SEP] moon"]


def opened(folder: Path, **options):
    return backend_module.open(backend_module.Options(name=str(folder), device="cpu", **options), Setting())


@pytest.fixture
def scored(make_candidates):
    """The replies of a backend about each passage."""

    def score(backend, passages=PASSAGES, query=QUERY, **options):
        candidates = make_candidates(passages, query=query)
        ranker = Ranker.create({"method": "pointwise.cross_encoder"} | options)
        requests = Requests(ranker, backend, candidates)
        asked = [requests.request(Ask("relevance", (doc,))) for doc in candidates.ids]
        backend.submit(asked)
        replies = {}
        while len(replies) < len(asked):
            replies |= {request.ask.docs[0]: reply for request, reply in backend.collect()}
        backend.close()
        return [replies[doc] for doc in candidates.ids]

    return score


def plain(folder: Path, passages: list[str], query: str = QUERY):
    """The logits (a row a passage), and how many tokens were read, as transformers' documentation does it."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows, lengths = [], []
    for passage in passages:
        told = tokenizer([query], [passage], truncation="only_second", return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**told).logits[0].double())
        lengths.append(told["input_ids"].shape[1])
    return torch.stack(rows), lengths


@pytest.fixture
def with_labels(tmp_path: Path):
    """A copy of a model whose head has so many labels."""

    def make(folder: Path, labels: int) -> Path:
        import torch
        import transformers

        copied = Path(shutil.copytree(folder, tmp_path / f"{folder.name}-{labels}"))
        with torch.random.fork_rng():
            torch.manual_seed(labels)
            kind = transformers.AutoModelForSequenceClassification
            kind.from_pretrained(folder, num_labels=labels, ignore_mismatched_sizes=True).save_pretrained(copied)
        return copied

    return make


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def folder(request, with_labels) -> Path:
    """A model with a head of one label."""
    return with_labels(request.getfixturevalue(request.param), 1)


def without_control(passages: list[str]) -> list[str]:
    return [passage.replace("[SEP]", "sep") for passage in passages]


def test_one_label_gives_its_logit(folder: Path, scored) -> None:
    passages = without_control(PASSAGES)
    logits, lengths = plain(folder, passages)
    replies = scored(opened(folder), passages, query_tokens=None, passage_tokens=None)
    assert [reply.scores for reply in replies] == [(pytest.approx(x, abs=1e-5),) for x in logits[:, 0].tolist()]
    assert [reply.prompt_tokens for reply in replies] == lengths
    assert {reply.completion_tokens for reply in replies} == {0}
    assert {reply.text for reply in replies} == {None}


def test_two_labels_give_the_log_probability_of_the_second(tiny_bert: Path, scored, with_labels) -> None:
    folder = with_labels(tiny_bert, 2)
    passages = without_control(PASSAGES)
    expected = plain(folder, passages)[0].log_softmax(-1)[:, 1].tolist()
    replies = scored(opened(folder), passages, passage_tokens=None)
    assert [reply.scores[0] for reply in replies] == pytest.approx(expected, abs=1e-5)


def test_more_labels_are_refused(tiny_bert: Path, scored, with_labels) -> None:
    with pytest.raises(InputError, match=r"^model\.name: its classification head has 3 labels, and relevance is the "):
        scored(opened(with_labels(tiny_bert, 3)))


def test_a_batch_scores_what_each_pair_alone_does(folder: Path, scored) -> None:
    alone = scored(opened(folder))
    together = scored(opened(folder, exact=False, batch_size=8))
    assert [reply.scores[0] for reply in together] == pytest.approx([reply.scores[0] for reply in alone], abs=1e-5)


def test_a_text_that_ends_with_the_filling_token_is_read_to_its_end(tiny_llama: Path, scored, with_labels) -> None:
    folder = with_labels(tiny_llama, 1)
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text())
    settings.write_text(json.dumps(told | {"pad_token": told["eos_token"]}))
    prompt = folder / "ended.yaml"
    prompt.write_text(
        "source: here\nasks: [relevance]\nmessages:\n"
        "  - {role: user, content: 'query: {query} document: {passages}<|eot_id|>'}\n"
    )
    alone = scored(opened(folder), prompt=str(prompt))
    together = scored(opened(folder, exact=False, batch_size=8), prompt=str(prompt))
    assert [reply.scores[0] for reply in together] == pytest.approx([reply.scores[0] for reply in alone], abs=1e-5)
    assert len({reply.scores for reply in alone}) == len(PASSAGES)


def test_one_message_is_one_text(tiny_llama: Path, scored, with_labels, tmp_path: Path) -> None:
    import torch
    import transformers

    folder = with_labels(tiny_llama, 1)
    prompt = tmp_path / "one.yaml"
    prompt.write_text(
        "source: here\nasks: [relevance]\nmessages:\n  - {role: user, content: 'query: {query} document: {passages}'}\n"
    )
    [reply] = scored(opened(folder), ["the red moon"], prompt=str(prompt))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(f"query: {QUERY} document: the red moon", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = float(model(input_ids=ids).logits[0, 0])
    assert reply.scores == (pytest.approx(expected, abs=1e-5),)
    assert reply.prompt_tokens == ids.shape[1]


def test_three_messages_are_refused(tiny_bert: Path, scored, tmp_path: Path) -> None:
    prompt = tmp_path / "three.yaml"
    prompt.write_text(
        "source: here\nasks: [relevance]\nmessages:\n" + "  - {role: user, content: '{query}{passages}'}\n" * 3
    )
    with pytest.raises(InputError, match=r"^prompt 'three' has 3 messages, and a cross-encoder reads one text or two$"):
        scored(opened(tiny_bert), prompt=str(prompt))


def test_a_passage_that_is_too_long_loses_its_end(tiny_bert: Path, scored) -> None:
    long = ["moon " * 200, "moon " * 200 + "planet", "moon " * 30]
    logits, lengths = plain(tiny_bert, long)
    replies = scored(opened(tiny_bert), long, passage_tokens=None)
    assert lengths == [96, 96, 39]
    assert [reply.prompt_tokens for reply in replies] == lengths
    assert [reply.scores[0] for reply in replies] == pytest.approx(logits[:, 0].tolist(), abs=1e-5)
    assert replies[0].scores == replies[1].scores


def test_query_and_passage_are_cut_to_their_tokens(tiny_bert: Path, scored) -> None:
    logits, lengths = plain(tiny_bert, ["The red"], query="moon")
    [cut] = scored(opened(tiny_bert), ["The red moon 日本"], query="moons of", query_tokens=1, passage_tokens=2)
    assert cut.scores == (pytest.approx(float(logits[0, 0]), abs=1e-5),)
    assert [cut.prompt_tokens] == lengths == [6]


def test_a_query_that_leaves_no_room_is_refused(tiny_bert: Path, scored) -> None:
    with pytest.raises(InputError, match=r"^query q1: the limit of 96 tokens a prompt leaves no room for a passage; "):
        scored(opened(tiny_bert), ["moon"], query="moon " * 300)


def test_a_control_token_in_a_passage_is_text(tiny_bert: Path, scored) -> None:
    pairs = opened(tiny_bert).tokens.pairs
    [reply] = scored(opened(tiny_bert), ["the [SEP] moon"])
    [known] = scored(opened(tiny_bert), ["the moon"])
    assert reply.prompt_tokens == known.prompt_tokens + len(["[", "s", "##e", "##p", "]"])
    ids = pairs.tokenizer("red", "the moon")["input_ids"]
    assert pairs.token_types(ids) == pairs.tokenizer("red", "the moon")["token_type_ids"]


def test_a_model_without_a_head_is_no_cross_encoder(tiny_llama: Path, scored) -> None:
    with pytest.raises(InputError) as raised:
        scored(opened(tiny_llama))
    assert str(raised.value) == (
        f"model.name: {tiny_llama} cannot be loaded: its weights lack 1 of the parts that its architecture needs, "
        "score.weight for one; name a cross-encoder, with its classification head, or download it anew"
    )


def test_a_cross_encoder_writes_no_text(tiny_bert: Path, make_candidates) -> None:
    backend = opened(tiny_bert)
    candidates = make_candidates(2)
    requests = Requests(Ranker.create({"method": "pointwise.yes_no"}), backend, candidates)
    backend.submit([requests.request(ask) for ask in next(requests.ranker.steps(candidates))])
    with pytest.raises(InputError, match="for one; name a language model, or download it anew"):
        backend.collect()
    backend.close()


def test_scores_that_are_no_numbers_are_the_models_failure(tiny_bert: Path, scored, with_labels) -> None:
    from safetensors.torch import load_file, save_file

    folder = with_labels(tiny_bert, 1)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match=r"^query q1: the model's scores are not numbers in float32; use"):
        scored(opened(folder))


def test_the_ranking_is_that_of_the_scores(tiny_bert: Path, make_candidates, rank, scored) -> None:
    passages = without_control(PASSAGES)
    scores = [reply.scores[0] for reply in scored(opened(tiny_bert), passages)]
    backend = opened(tiny_bert)
    [(ranking, cost)] = rank({"method": "pointwise.cross_encoder"}, backend, [make_candidates(passages, query=QUERY)])
    backend.close()
    assert list(ranking.docs) == [f"d{i:02d}" for i in sorted(range(5), key=lambda i: -scores[i])]
    assert (cost.asks, cost.calls, cost.rounds, cost.comparisons, cost.completion_tokens) == (5, 5, 1, 0, 0)
