"""Rankers: what is refused, and what addresses an answer in the ledger."""

import dataclasses
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reply
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.ranker import Ranker, Requests
from r2llm.rerankers.types import Ask, Candidates, Doc, Query, choose, score


@pytest.fixture
def backend(rule_backend):
    made = rule_backend(lambda request: Reply(text="A"))
    made.simulated = False
    return made


def key(backend, candidates: Candidates, ask: Ask, attempt: int = 0, **options) -> bytes:
    ranker = Ranker.create({"method": "setwise.heapsort"} | options)
    return Requests(ranker, backend, candidates).request(ask, attempt).key


def test_the_defaults_are_the_methods_own() -> None:
    ranker = Ranker.create({"method": "setwise.heapsort"})
    assert (ranker.prompt.name, ranker.scoring) == ("setwise", "likelihood")
    assert ranker.params.model_dump() == {"k": 10, "num_child": 2, "num_permutation": 1, "seed": 0}
    assert ranker.options.model_dump() == {
        "method": "setwise.heapsort",
        "prompt": None,
        "scoring": None,
        "query_tokens": 128,
        "passage_tokens": 128,
        "prompt_tokens": None,
        "on_unparsed": "keep_order",
        "parse": None,
        "compat": None,
        "library_lengths": None,
        "model_settings": None,
        "special_tokens_twice": None,
        "count_pad": None,
        "max_new_tokens": None,
        "temperature": None,
        "top_p": None,
        "stop": None,
        "context_tokens": None,
        "passages": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "setwise.heapsrt"}, "unknown method 'setwise.heapsrt'; did you mean 'setwise.heapsort'"),
        ({"method": "setwise.heapsort", "prompt": "setwize"}, "unknown prompt 'setwize'; did you mean 'setwise' or "),
        (
            {"method": "setwise.heapsort", "prompt": "yes_no"},
            "prompt 'yes_no' cannot ask the question of setwise.heapsort (choose): it serves score",
        ),
        (
            {"method": "setwise.bubblesort", "num_child": 23},
            "setwise.bubblesort shows up to 24 documents, but prompt 'setwise' has labels for 23; show fewer "
            "at a time or name another prompt",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(options, message: str) -> None:
    with pytest.raises(InputError) as raised:
        Ranker.create(options)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "bad",
    [
        {"k": 0},
        {"num_child": 0},
        {"k": "ten"},
        {"k": 2.0},
        {"num_childs": 3},
        {"scoring": "guess"},
        {"query_tokens": 0},
        {"compat": "rank_llm"},
        {"on_unparsed": "ignore"},
    ],
)
def test_a_bad_parameter_is_refused(bad) -> None:
    with pytest.raises(ValidationError):
        Ranker.create({"method": "setwise.heapsort"} | bad)
    assert Ranker.create({"method": "setwise.heapsort", "num_child": 22}).params.most_docs == 23


def test_all_that_can_change_an_answer_is_in_its_key(backend, make_candidates, tmp_path: Path) -> None:
    texts = ["one", "two", "three"]
    plain = make_candidates(texts)
    ask = choose(["d00", "d01"])
    other_model = type(backend)(backend.reply)
    other_model.simulated = False
    other_model.identity = {"backend": "rule", "architecture": "encoder_decoder"}
    reworded = tmp_path / "reworded.yaml"
    reworded.write_text(catalog.prompt_file("setwise").read_text().replace("Given a query", "For a query"))
    keys = [
        key(backend, plain, ask),
        key(backend, plain, choose(["d01", "d00"])),
        key(backend, plain, choose(["d00", "d01", "d02"])),
        key(backend, plain, dataclasses.replace(ask, sample=1)),
        key(backend, plain, dataclasses.replace(ask, kind="permute")),
        key(backend, plain, dataclasses.replace(ask, notes=(("analysis", "of moons"),))),
        key(backend, plain, ask, attempt=1),
        key(backend, plain, ask, attempt=2),
        key(backend, make_candidates(["one", "too", "three"]), ask),
        key(backend, make_candidates(texts, query="how many rings"), ask),
        key(backend, plain, ask, scoring="generation"),
        key(backend, plain, ask, passage_tokens=64),
        key(backend, plain, ask, query_tokens=64),
        key(backend, plain, ask, compat="llm-rankers"),
        key(backend, plain, ask, prompt=str(reworded)),
        key(other_model, plain, ask),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(one) == 16 for one in keys)


def test_what_cannot_change_an_answer_is_not_in_its_key(backend, make_candidates, tmp_path: Path) -> None:
    plain = make_candidates(["one", "two", "three"])
    ask = choose(["d00", "d01"])
    renamed = tmp_path / "renamed.yaml"
    renamed.write_text(catalog.prompt_file("setwise").read_text().replace("source: ", "source: from "))
    elsewhere = Candidates(Query("q9", plain.query.text), (Doc("x", "two"), Doc("y", "one")), (2.0, 1.0))
    keys = {
        key(backend, plain, ask),
        key(backend, plain, ask, k=3),
        key(backend, plain, ask, num_child=5),
        key(backend, plain, ask, method="setwise.bubblesort"),
        key(backend, plain, ask, on_unparsed="retry"),
        key(backend, plain, ask, parse="digits"),
        key(backend, plain, ask, prompt=str(renamed)),
        key(backend, elsewhere, choose(["y", "x"])),
    }
    assert len(keys) == 1


def test_a_simulated_model_answers_by_identifier_so_its_keys_hold_them(backend, make_candidates) -> None:
    candidates = make_candidates(["same", "same", "same"])
    asks = [choose(["d00", "d01"]), choose(["d00", "d02"])]
    assert len({key(backend, candidates, ask) for ask in asks}) == 1
    backend.simulated = True
    assert len({key(backend, candidates, ask) for ask in asks}) == 2
    assert key(backend, make_candidates(["same"] * 3, query_id="q2"), asks[0]) != key(backend, candidates, asks[0])


def test_texts_that_run_into_each_other_have_keys_of_their_own(backend, make_candidates) -> None:
    ask = choose(["d00", "d01"])
    pairs = [["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"], ["a\0b", "c"], ["a", "b\0c"]]
    assert len({key(backend, make_candidates(texts), ask) for texts in pairs}) == len(pairs)
    assert key(backend, make_candidates(["\ud800", "b"]), ask) != key(backend, make_candidates(["?", "b"]), ask)


def test_a_request_carries_the_whole_texts_and_how_they_are_cut(backend, make_candidates) -> None:
    ranker = Ranker.create({"method": "pointwise.yes_no", "query_tokens": 7, "passage_tokens": None})
    requests = Requests(ranker, backend, make_candidates(["one", "two"], query_id="q7", query="moons"))
    request = requests.request(score("d01"))
    assert (request.query, request.passages) == (Query("q7", "moons"), ("two",))
    assert (request.terms.query_tokens, request.terms.passage_tokens, request.terms.count_pad) == (7, None, False)
    assert (request.scoring, request.labels) == ("likelihood", ("Yes", "No"))
    assert (request.terms.decoding.max_new_tokens, request.terms.decoding.temperature) == (3, 0.0)
    assert requests.request(score("d01"), attempt=1).terms.decoding.temperature == 1.0


def test_the_lengths_of_answers_are_those_of_the_models_architecture(rule_backend, make_candidates) -> None:
    lengths = {}
    for architecture in ("encoder_decoder", "decoder_only"):
        backend = rule_backend(lambda request: Reply(text="A"), architecture=architecture)
        requests = Requests(Ranker.create({"method": "setwise.heapsort"}), backend, make_candidates())
        lengths[architecture] = requests.request(choose(["d00", "d01"])).terms.decoding.max_new_tokens
    assert lengths == {"encoder_decoder": 2, "decoder_only": 1}


def test_a_length_that_is_given_holds_under_compat_too(rule_backend, make_candidates) -> None:
    backend = rule_backend(lambda request: Reply(text=""))
    ask = Ask("permute", ("d00", "d01"))
    for given, expected in (({}, 20), ({"max_new_tokens": 7}, 7)):
        ranker = Ranker.create({"method": "listwise.sliding", "compat": "llm-rankers"} | given)
        assert Requests(ranker, backend, make_candidates()).request(ask).terms.decoding.max_new_tokens == expected


def test_answers_are_read_strictly_unless_the_older_toolkits_way_is_asked_for(rule_backend) -> None:
    ask = choose(["a", "b"])
    read = {}
    for architecture in ("encoder_decoder", "decoder_only"):
        backend = rule_backend(lambda request: Reply(), architecture=architecture)
        for way in ({}, {"parse": "digits"}, {"compat": "llm-rankers"}, {"compat": "llm-rankers", "parse": "strict"}):
            ranker = Ranker.create({"method": "setwise.heapsort"} | way)
            answers = [ranker.read(ask, Reply(text=text), backend) for text in ("I think B", "Passage B", "b")]
            read[architecture, *way.values()] = [answer.choice if answer.parsed else None for answer in answers]
    strict, last_character, whole = [None, 1, 1], [1, 1, None], [None, None, 1]
    assert read == {
        ("encoder_decoder",): strict,
        ("encoder_decoder", "digits"): last_character,
        ("encoder_decoder", "llm-rankers"): last_character,
        ("encoder_decoder", "llm-rankers", "strict"): strict,
        ("decoder_only",): strict,
        ("decoder_only", "digits"): whole,
        ("decoder_only", "llm-rankers"): whole,
        ("decoder_only", "llm-rankers", "strict"): strict,
    }
    words = Ranker.create({"method": "pointwise.yes_no", "compat": "llm-rankers"})
    assert words.read(score("a"), Reply(text=" yes."), backend).scores == (1.0,)


@pytest.mark.parametrize("labels", ["{good: 1.0}", "{good: 1.0, fine: 1.0}"])
def test_labels_of_one_value_are_no_scores_by_likelihood(tmp_path: Path, labels: str) -> None:
    path = tmp_path / "one.yaml"
    messages = "[{role: user, content: '{query} {passages}'}]"
    path.write_text(f"source: a test\nasks: [score]\nmessages: {messages}\nlabels: {labels}\n", encoding="utf-8")
    options = {"method": "pointwise.yes_no", "prompt": str(path)}
    with pytest.raises(InputError, match=r"prompt 'one': its labels have one value.* labels of several values"):
        Ranker.create(options | {"scoring": "likelihood"})
    assert Ranker.create(options | {"scoring": "generation"}).prompt.name == "one"


def test_the_identity_of_a_ranker_is_what_can_change_its_rankings(tmp_path: Path) -> None:
    def identity(**options):
        return Ranker.create({"method": "setwise.heapsort"} | options).identity

    plain = identity()
    assert identity(prompt="setwise", scoring="likelihood", k=10) == plain
    assert sorted(plain) == ["method", "options", "params", "prompts", "scoring"]
    changes = [
        {"k": 3},
        {"num_child": 3},
        {"scoring": "generation"},
        {"on_unparsed": "retry"},
        {"parse": "digits"},
        {"compat": "llm-rankers"},
        {"query_tokens": 32},
        {"passage_tokens": None},
        {"method": "setwise.bubblesort"},
    ]
    assert all(identity(**change) != plain for change in changes)


def test_raw_logits_are_asked_only_of_a_backend_that_has_them(backend, make_candidates) -> None:
    backend.raw_logits = False
    score_by = partial(key, backend, make_candidates(2), score("d00"), method="pointwise.yes_no")
    assert score_by(prompt="prorank")  # a difference of two logits is one of log-probabilities
    assert score_by(prompt="zerank", scoring="generation")
    with pytest.raises(
        InputError, match=r"^prompt 'zerank' scores by raw logits or states, which this backend does not give; use "
    ):
        score_by(prompt="zerank")
