"""The preview shows what a run sends: the same tokens, the same labels, read in the same way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r2llm.pipeline import experiment
from r2llm.pipeline.configs import load as config
from r2llm.pipeline.inspect import preview
from r2llm.pipeline.io.progress import Listener
from r2llm.rerankers.backends._tokens.tokens import SEAM, Tokens
from r2llm.rerankers.errors import InputError

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(toy: Path) -> Look:
    """The preview of the toy experiment's q1 with some settings."""

    def look(*settings: str, query: str = "q1") -> dict[str, Any]:
        return preview("toy.yaml", settings, query, Listener())

    return look


def model(folder: Path, more: str = "") -> str:
    return f"model={{backend: transformers, name: {folder}{more}}}"


def without_weights(folder: Path, place: Path) -> Path:
    """A copy of a model that cannot be loaded: its weights are not there."""
    return Path(shutil.copytree(folder, place / "no-weights", ignore=shutil.ignore_patterns("*.safetensors")))


# What is sent


@pytest.mark.parametrize("method", ["setwise.heapsort", "pairwise.heapsort", "listwise.sliding", "pointwise.qlm"])
@pytest.mark.parametrize("kind", ["tiny_t5", "tiny_llama"])
def test_it_is_what_a_run_sends(
    look: Look, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, method: str
) -> None:
    settings = (model(request.getfixturevalue(kind)), f"ranker={{method: {method}, passage_tokens: 5}}")
    found = look(*settings)
    sent: list[tuple[str, list[int]]] = []
    prompt = Tokens.prompt
    monkeypatch.setattr(Tokens, "prompt", lambda *args: sent.append(prompt(*args)) or sent[-1])
    loaded = config.load("toy.yaml", [*settings, "queries.ids=[q1]"])
    experiment.rerank(loaded, Path("run"), Listener())
    assert (found["shown"]["text"], list(found["shown"]["tokens"] or ())) == sent[0]


def test_no_weights_are_loaded_and_no_gpu_is_needed(look: Look, tiny_llama: Path, tmp_path: Path) -> None:
    folder = without_weights(tiny_llama, tmp_path)
    found = look(model(folder, ", device: 'cuda:3', dtype: bfloat16"))
    assert found["shown"]["tokens"]
    assert found["shown"]["text"].startswith("<|begin_of_text|><|start_header_id|>system")
    assert found["shown"]["text"].endswith(" Passage:")


def test_a_control_token_in_a_passage_is_shown_as_the_model_reads_it(
    look: Look, write: Callable[[str, str], Path], tiny_t5: Path
) -> None:
    docs = Path("docs.jsonl").read_text(encoding="utf-8").replace("Sea water is salt.", "end </s> of text")
    write("docs.jsonl", docs)
    found = look(model(tiny_t5), "first_stage.depth=2")
    assert "</s> of text" in found["shown"]["text"]
    assert SEAM not in found["shown"]["text"]


def test_a_limit_on_the_prompt_is_told(look: Look, tiny_t5: Path) -> None:
    settings = (model(tiny_t5), "ranker.method=listwise.sliding", "ranker.compat=llm-rankers", "ranker.window=4")
    assert look(*settings, "ranker.stride=2")["prompt_tokens_limit"] == 512
    assert look(model(tiny_t5))["prompt_tokens_limit"] is None


def test_without_a_tokenizer_the_messages_are_shown_uncut(look: Look) -> None:
    found = look("ranker.passage_tokens=1", "ranker.query_tokens=1")
    assert found["shown"]["tokens"] is None
    assert found["shown"]["text"].startswith('[user]\nGiven a query "why is the sea salt", which')
    assert 'Passage A: "Sea water is salt."' in found["shown"]["text"]
    assert (found["answer_prefix"], found["prefix_tokens"]) == (" Passage:", None)


def test_a_conversation_is_shown_turn_by_turn(look: Look) -> None:
    found = look("ranker.method=listwise.sliding")
    assert found["shown"]["text"].count("[assistant]") == 5
    assert found["shown"]["text"].startswith("[system]\nYou are RankGPT")


# What is asked, and how the answer is read


def test_the_first_ask_is_the_methods(look: Look) -> None:
    found = look()
    assert (found["method"], found["kind"], found["docs"], found["asks_in_round"]) == (
        "setwise.heapsort",
        "choose",
        ("d2", "d4"),
        1,
    )
    everything = look("ranker.method=pointwise.yes_no")
    assert (everything["kind"], everything["docs"], everything["asks_in_round"]) == ("score", ("d1",), 4)


def test_labels_are_read_at_the_tokens_that_begin_them(look: Look, tiny_t5: Path) -> None:
    import transformers

    found = look(model(tiny_t5))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_t5)
    assert found["architecture"] == "encoder_decoder"
    assert [(label["label"], label["meaning"]) for label in found["labels"]] == [("A", "d2"), ("B", "d4")]
    assert [label["tokens"] for label in found["labels"]] == [
        (i,) for i in tokenizer.convert_tokens_to_ids(["▁A", "▁B"])
    ]
    assert found["prefix_tokens"] == tuple(tokenizer.convert_tokens_to_ids(["▁Passage"]))


def test_labels_with_values_stand_for_relevance(look: Look) -> None:
    found = look("ranker.method=pointwise.yes_no")
    assert [(label["label"], label["meaning"]) for label in found["labels"]] == [("Yes", "1"), ("No", "0")]
    assert "the mean of their values" in found["reading"]


@pytest.mark.parametrize(
    ("settings", "reading", "new_tokens"),
    [
        ((), "in one forward pass; the most probable one is the choice", None),
        (("ranker.scoring=generation",), "by the rule 'strict': a label, with nothing around it", 1),
        (("ranker.scoring=generation", "ranker.compat=llm-rankers"), "by the rule 'whole'", 1),
        (("ranker.method=listwise.sliding",), "by the rule 'strict': the longest chain", 200),
        (("ranker.method=listwise.sliding", "ranker.parse=digits"), "by the rule 'digits': every number", 200),
        (("ranker.method=listwise.sliding", "ranker.scoring=likelihood"), "the order is that of", None),
        (("ranker.method=pointwise.qlm",), "the log-probability of the query as the answer, summed", None),
        (("ranker.method=pointwise.cross_encoder",), "the number that a cross-encoder's head gives", None),
    ],
)
def test_how_the_answer_is_read(look: Look, settings: tuple[str, ...], reading: str, new_tokens: int | None) -> None:
    found = look(*settings)
    assert reading in found["reading"]
    assert found["max_new_tokens"] == new_tokens
    assert found["on_unparsed"] == "keep_order"


def test_of_a_text_whose_probability_is_asked_for_the_tokens_are_counted(look: Look, tiny_t5: Path) -> None:
    found = look("ranker.method=pointwise.qlm", model(tiny_t5))
    assert found["labels"] == []
    assert "summed over its " in found["reading"]


# What cannot be


def test_a_query_that_is_not_there_is_refused(look: Look) -> None:
    with pytest.raises(InputError, match=r"queries\.ids: q9 not among the dataset's 3 queries"):
        look(query="q9")


def test_an_id_that_yaml_would_take_for_something_else_is_an_id(look: Look) -> None:
    with pytest.raises(InputError, match=r"queries\.ids: no not among"):
        look(query="no")


def test_a_method_that_asks_nothing_says_so(look: Look) -> None:
    with pytest.raises(InputError, match=r"query q1: setwise\.heapsort asks nothing about its 1 candidates"):
        look("first_stage.depth=1")


def test_a_config_without_a_model_is_refused(look: Look) -> None:
    with pytest.raises(InputError, match="has no `model`"):
        look("model=null")
