"""`r2llm prompt`: the prompt between two lines of its own, and how the answer is read."""

from __future__ import annotations

from pathlib import Path


def test_a_prompt_without_a_tokenizer(r2llm, toy: Path) -> None:
    done = r2llm("prompt", "--config", "toy.yaml", "--query", "q1", "--quiet")
    assert (done.code, done.err) == (0, "")
    before, _, rest = done.out.partition("----- prompt: no tokenizer, so nothing is cut or counted\n")
    prompt, _, after = rest.partition("----- end of the prompt\n")
    assert before.splitlines() == [
        "query q1: why is the sea salt",
        "ask: choose d1, d2, d3 (the first of 1 in the first round)",
        "method: setwise.heapsort; prompt: setwise; form: decoder_only",
    ]
    assert prompt.startswith('[user]\nGiven a query "why is the sea salt"')
    assert after.splitlines()[:2] == [
        "the answer begins with ' Passage:', at the prompt's end",
        "labels: A = d1, B = d2, C = d3",
    ]


def test_a_later_stage_of_a_cascade(r2llm, toy: Path) -> None:
    stages = "stages=[{ranker: {method: pointwise.yes_no}}, {ranker: {method: setwise.heapsort}, depth: 2}]"
    words = ("prompt", "--config", "toy.yaml", "--query", "q1", "--quiet", "--set", stages)
    assert "stage: 1 of 2\nmethod: pointwise.yes_no;" in r2llm(*words).out
    later = r2llm(*words, "--stage", "2").out
    assert "ask: choose d1, d2 (the first" in later
    assert "stage: 2 of 2; its documents as the first stage found them" in later
    refused = r2llm(*words, "--stage", "3")
    assert (refused.code, refused.err) == (2, "error: --stage 3: config toy has 2 stages\n")


def test_a_prompt_of_a_real_model(r2llm, toy: Path, tiny_t5: Path) -> None:
    words = ("--set", f"model={{backend: transformers, name: {tiny_t5}}}", "--set", "ranker.scoring=generation")
    done = r2llm("prompt", "--config", "toy.yaml", "--query", "q1", *words)
    assert done.code == 0
    assert " tokens\nGiven a query" in done.out
    assert "the answer begins with 'Passage', after the decoder's start token (tokens 3)" in done.out
    assert "at most 2 new tokens; what cannot be read: keep_order" in done.out


def test_as_json_with_the_tokens(r2llm, toy: Path, tiny_t5: Path) -> None:
    model = f"model={{backend: transformers, name: {tiny_t5}}}"
    found = r2llm("prompt", "--config", "toy.yaml", "--query", "q1", "--set", model, "--json").json
    assert found["query"] == {"id": "q1", "text": "why is the sea salt"}
    assert found["docs"] == ["d1", "d2", "d3"]
    assert found["labels"][0].keys() == {"label", "meaning", "tokens"}
    assert len(found["shown"]["tokens"]) > 10


def test_an_unknown_query_is_one_line(r2llm, toy: Path) -> None:
    done = r2llm("prompt", "--config", "toy.yaml", "--query", "q7")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: queries.ids: q7 not among the dataset's 2 queries\n"
