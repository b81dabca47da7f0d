"""Prompts composed of components: the prompt study's variations, and what a name may choose."""

from pathlib import Path

import pytest
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Ask

ROLE = "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query. \n"


def shown(name: str) -> str:
    [message] = prompts.load(name).render(Ask("choose", ("a", "b")), "moons", ["one", "two"])
    return message.content


@pytest.mark.parametrize(
    ("name", "count", "kind"),
    [
        pytest.param("study_pointwise", 768, "score", marks=pytest.mark.slow),
        ("study_pairwise", 48, "compare"),
        ("study_setwise", 144, "choose"),
        ("study_listwise", 288, "permute"),
    ],
)
def test_the_studys_variations_load_and_differ(name: str, count: int, kind: str) -> None:
    # 1,248 in all, as the study counts them.
    names = prompts.variations(name)
    loaded = [prompts.load(variation) for variation in names]
    assert len(names) == len({prompt.digest for prompt in loaded}) == count
    assert all(kind in prompt.asks for prompt in loaded)
    assert [prompt.name for prompt in loaded] == names


def test_order_and_position_lay_out_the_parts() -> None:
    task, passages = 'Given a query "moons", which', 'Passage A: "one"\nPassage B: "two"'
    output = "Please Generate the passage label."
    base = "study_setwise/output=generate/tone=please/role=rankgpt"
    layouts = {
        "order=query_first/position=beginning": [task, passages, output],
        "order=query_first/position=ending": [output, task, passages],
        "order=passage_first/position=beginning": [passages, task, output],
        "order=passage_first/position=ending": [output, passages, task],
    }
    for choices, parts in layouts.items():
        text = shown(f"{base}/{choices}")
        assert text.startswith(ROLE)
        assert [text.index(part) for part in parts] == sorted(text.index(part) for part in parts)


def test_what_is_not_chosen_is_the_first_choice() -> None:
    prompt = prompts.load("study_pointwise")
    assert prompt.name == "study_pointwise"
    first = "task=answers/output=yes_no/tone=none/role=none/order=query_first/position=beginning"
    assert prompt.digest == prompts.load(f"study_pointwise/{first}").digest
    [message] = prompt.render(Ask("score", ("a",)), "moons", ["one"])
    assert message.content == (
        "Does the passage answer the query?\nQuery: moons\n\nPassage: one\nAnswer 'Yes' or 'No'. "
    )


def test_a_choice_brings_its_labels() -> None:
    assert prompts.load("study_pointwise").labels == {"Yes": 1.0, "No": 0.0}
    assert prompts.load("study_pointwise/output=true_false").labels == {"True": 1.0, "False": 0.0}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("study_setwise/tone=pleese", "component tone has no choice 'pleese'; did you mean 'please'?"),
        ("study_setwise/tune=please", "it has no component 'tune'; did you mean 'tone'?"),
        ("study_setwise/tone=only/tone=must", "chooses tone twice"),
        ("setwise/tone=only", "it has no component 'tone'"),
        ("study_setwize/tone=only", "unknown prompt 'study_setwize'; did you mean 'study_setwise'"),
    ],
)
def test_a_wrong_choice_is_named_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        prompts.load(name)
    assert message in str(raised.value)


def test_an_own_file_can_be_composed(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "source: made for this test\nasks: [choose]\nlabels: [A, B]\n"
        "messages: [{role: user, content: '{start} {query} {passages}'}]\n"
        "components: {start: {which: Which, what: What}}\n"
    )
    assert shown(str(path)).startswith("Which moons")
    assert shown(f"{path}/start=what").startswith("What moons")
    assert prompts.variations(str(path)) == [f"{path}/start=which", f"{path}/start=what"]
