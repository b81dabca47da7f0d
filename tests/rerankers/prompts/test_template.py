"""Prompts: what is refused, what a passage may say, and what makes two prompts the same."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers import catalog
from r2llm.rerankers.answers.reading import Reading, Reply, read
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Ask, score

PLAIN = """\
source: made for this test
asks: [choose]
messages:
  - {role: user, content: "Which fits {query}?\\n{passages}"}
passage: "{label}: {text}"
separator: " | "
labels: [A, B, C]
"""


def loaded(folder: Path, text: str, name: str = "own.yaml") -> prompts.Prompt:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return prompts.load(str(path))


def asked(docs: int) -> Ask:
    return Ask("choose", tuple(f"d{i}" for i in range(docs)))


def test_a_prompt_is_filled_in(tmp_path: Path) -> None:
    prompt = loaded(tmp_path, PLAIN)
    assert prompt.name == "own"
    assert prompt.labels == ("A", "B", "C")
    assert prompt.labels_of(asked(2)) == ("A", "B")
    [message] = prompt.render(asked(2), "moons", ["one", "two"])
    assert (message.role, message.content) == ("user", "Which fits moons?\nA: one | B: two")


@pytest.mark.parametrize("text", ["{query}", "{passages}", "{", "}}", "{0}", "{text!r}", "[3]", "%s", "\\n", "{label}"])
def test_what_a_passage_or_query_says_stays_text(tmp_path: Path, text: str) -> None:
    prompt = loaded(tmp_path, PLAIN)
    [message] = prompt.render(asked(2), text, [text, "b"])
    assert message.content == f"Which fits {text}?\nA: {text} | B: b"


@given(st.text(), st.lists(st.text(), min_size=1, max_size=3))
def test_any_text_stays_text(query: str, passages: list[str]) -> None:
    [message] = prompts.load("setwise").render(asked(len(passages)), query, passages)
    shown = "\n\n".join(f'Passage {label}: "{text}"' for label, text in zip("ABC", passages, strict=False))
    assert message.content == (
        f'Given a query "{query}", which of the following passages is the most relevant one to the query?\n\n'
        f"{shown}\n\nOutput only the passage label of the most relevant passage:"
    )


def test_numbers_in_brackets_are_no_identifiers_of_passages() -> None:
    prompt = prompts.load("rank_zephyr")
    shown = prompt.render(asked(2), "see [1]", ["as in [2], [x] and [12]", "[3"])[-1].content
    assert "search query: see (1)." in shown
    assert "\n[1] as in (2), [x] and (12)\n[2] [3\n" in shown


def test_the_words_of_yes_no() -> None:
    prompt = prompts.load("yes_no")
    [message] = prompt.render(asked(1), "moons of mars", ["Two."])
    assert (
        message.content
        == "Passage: Two.\nQuery: moons of mars\nDoes the passage answer the query? Answer 'Yes' or 'No'"
    )
    assert prompt.labels == {"Yes": 1.0, "No": 0.0}
    assert prompt.labels_of(asked(1)) == ("Yes", "No")


@pytest.mark.parametrize("name", catalog.names("prompt"))
def test_every_shipped_prompt_loads_renders_and_names_its_source(name: str) -> None:
    prompt = prompts.load(name)
    assert prompt.name == name
    assert len(prompt.source) > 20
    assert prompt.asks
    labels = prompt.labels_of(asked(2))
    assert len(set(labels)) == len(labels)
    assert (
        len(labels) > 1
        or prompt.target
        or prompt.answer.scored == "logit"
        or prompt.asks in (("write",), ("relevance",))
    )
    notes = dict.fromkeys(prompt.notes, "the note's words")
    turns = prompt.render(asked(1), "the query's words", ["the passage's words"], notes=notes)
    shown = " ".join(message.content for message in turns)
    fields = ("{passages}", "{text}")
    assert shown.count("the passage's words") == sum(field in str(prompt.messages) for field in fields)
    assert shown.count("the note's words") >= len(notes)
    assert "the query's words" in shown or prompt.target
    assert "{" not in shown.replace('{"[1]"', "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{query}",
            "{question}",
            "{question} is no field here; write {limit} or {names} or {num} or {passages} or {query}",
        ),
        (
            "{query}",
            "{query.id}",
            "{query.id} is no field here; write {limit} or {names} or {num} or {passages} or {query}",
        ),
        ("{query}", "{}", "{} is no field here; write {limit} or {names} or {num} or {passages} or {query}"),
        ("{query}", "{text}", "{text} is no field here; write {limit} or {names} or {num} or {passages} or {query}"),
        ("{text}", "{query}", "{query} is no field here; write {index} or {label} or {signal} or {text}"),
        ("{query}", "{query", "unexpected '{' in field name"),
        (
            "{query}",
            "{query!r}",
            "{query!r} is no field here; write {limit} or {names} or {num} or {passages} or {query}",
        ),
        (
            "{query}",
            "{query:>{x}}",
            "{query:>{x}} is no field here; write {limit} or {names} or {num} or {passages} or {query}",
        ),
        ("[choose]", "[score]", "asks: [score] needs labels with values, such as {'Yes': 1.0, 'No': 0.0}"),
        ("[A, B, C]", "{a: 1.0, b: 0.0}", "asks about several passages need a list of labels, one a passage"),
        ("asks: [choose]", "asks: [chose]", "asks.0: should be 'score', 'relevance', 'likelihood', 'compare'"),
        ("role: user", "role: a robot", "messages.0.role: String should match pattern"),
        ("separator", "seperator", "seperator: Extra inputs are not permitted"),
        ("labels: [A, B, C]", "labels: [1, 2, 3]", "labels"),
        ("labels: [A, B, C]", "labels: {Yes: 1.0, No: 0.0}", "labels"),
        ("source: made for this test\n", "", "source: Field required"),
    ],
)
def test_a_mistake_in_a_prompt_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAIN
    with pytest.raises(InputError) as raised:
        loaded(tmp_path, PLAIN.replace(old, new))
    assert str(raised.value).startswith(f"prompt {tmp_path / 'own.yaml'}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_turns_have_any_role_and_keep_their_last_blank_unless_stripped(tmp_path: Path) -> None:
    plain = PLAIN.replace("role: user", "role: query").replace("{passages}", "{passages}: ")
    prompt, stripped = loaded(tmp_path, plain), loaded(tmp_path, plain + "strip: true\n")
    [message] = prompt.render(asked(1), "moons", ["one"])
    assert (message.role, message.content) == ("query", "Which fits moons?\nA: one: ")
    assert stripped.render(asked(1), "moons", ["one"])[0].content == "Which fits moons?\nA: one:"
    assert loaded(tmp_path, plain + "strip: false\n").digest == prompt.digest != stripped.digest


def test_system_turns_are_folded_into_the_first_user_turn() -> None:
    def turns(*rows: tuple[str, str]) -> list[prompts.Message]:
        return [prompts.Message(role=role, content=content) for role, content in rows]

    def folded(*rows: tuple[str, str]) -> list[tuple[str, str]]:
        return [(turn.role, turn.content) for turn in prompts.folded(turns(*rows))]

    assert folded(("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")) == [
        ("user", "a\n\nb"),
        ("assistant", "c"),
        ("user", "d"),
    ]
    assert folded(("system", "a"), ("system", "b"), ("assistant", "c"), ("user", "d")) == [
        ("assistant", "c"),
        ("user", "a\n\nb\n\nd"),
    ]
    assert folded(("system", "a"), ("document", "b")) == [("user", "a"), ("document", "b")]
    assert folded(("user", "b")) == [("user", "b")]


@pytest.mark.parametrize("text", ["", "a list\n", "- a\n- b\n", "messages: [\n", "a: b: c\n", "\t- x"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not a YAML mapping") as raised:
        loaded(tmp_path, text)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        prompts.load(str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: cannot be read"):
        prompts.load(str(tmp_path / "latin.yaml"))
    with pytest.raises(InputError, match="unknown prompt 'setwize'; did you mean 'setwise'"):
        prompts.load("setwize")


def test_the_digest_follows_what_is_asked_and_not_what_it_is_called(tmp_path: Path) -> None:
    digest = loaded(tmp_path, PLAIN).digest
    assert loaded(tmp_path, PLAIN, "other.yaml").digest == digest
    assert loaded(tmp_path, PLAIN + "name: given\n").digest == digest
    assert loaded(tmp_path, PLAIN.replace("made for this test", "elsewhere")).digest == digest
    assert loaded(tmp_path, "# a comment\n" + PLAIN).digest == digest
    # What it serves is not what it says: the same prompt may come to serve more.
    assert loaded(tmp_path, PLAIN.replace("[choose]", "[choose, permute]")).digest == digest
    changes = [
        ("Which fits", "What fits"),
        ("{label}: {text}", "{label}) {text}"),
        (" | ", " / "),
        ("[A, B, C]", "[A, B]"),
        ("role: user", "role: system"),
        ("[A, B, C]", "[A, B, C]\nanswer: {prefix: {encoder_decoder: Passage}}"),
        ("[A, B, C]", "[A, B, C]\nanswer: {max_new_tokens: {decoder_only: 3}}"),
    ]
    digests = {loaded(tmp_path, PLAIN.replace(old, new)).digest for old, new in changes}
    assert len(digests | {digest}) == len(changes) + 1


def test_labels_and_truth_values_are_what_was_typed(tmp_path: Path) -> None:
    pointwise = (
        "source: s\nasks: [score]\nmessages: [{role: user, content: '{query} {passages}', each: no}]\nstrip: yes\n"
    )
    for first, second in (("yes", "no"), ("True", "False"), ("1", "0"), ("on", "null")):
        prompt = loaded(tmp_path, pointwise + f"labels: {{{first}: 1.0, {second}: 0.0}}\n")
        assert prompt.labels == {first: 1.0, second: 0.0}
        assert (prompt.strip, prompt.messages[0].each) == (True, False)
    assert loaded(tmp_path, PLAIN.replace("[A, B, C]", "[Yes, no, off]")).labels == ("Yes", "no", "off")


def test_umbrelas_prompt_is_the_published_one_to_the_byte() -> None:
    """castorini/umbrela at e2c4e41, `qrel_zeroshot_bing.yaml`, field `prefix_user`; three lines end in a blank."""
    [message] = prompts.load("umbrela").messages
    published = message.content.replace("{passages}", "{passage}").encode()
    assert hashlib.sha256(published).hexdigest() == "c92537a4f97293dfe1fd5f3dccc3f7dea44e3ace65061a74dbf8afc833441546"


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("It is similar to 2 others, so ##final score: 1", 1),
        ("Compared to 3 facts it says nothing. ##final score: 0", 0),
        ("The passage is about the moon and gives no grade", None),
        ("##M: 2\n##T: 3\n##final score: 2", 2),
        ("##final score: 3? No.\n## Final Score:**1**", 1),
        ("Format: ##final score: score\n##final score: 2", 2),
        ("<think>##final score: 3</think>##final score: 0", 0),
        ("<think>##final score: 3", None),
        ("2", 2),
        (" **3**. ", 3),
        ("2 of its 3 sentences answer the query", None),
        ("The score is 2", None),
        ("##final score: 10", None),
        ("##final score: 2.5", None),
        ("##final score: -1", None),
        ("##final score: 2-3", None),
        ("##final score: 4", None),
        ("1\n2", None),
        ("", None),
    ],
)
def test_umbrelas_grade_is_the_last_one_or_all_there_is(text: str, grade: int | None) -> None:
    """Its own reader takes the first number of 30 patterns, and 0 where there is none."""
    prompt = prompts.load("umbrela")
    answer = read(score("d"), prompt, Reply(text), Reading("whole", pattern=prompt.answer.pattern))
    assert (answer.scores[0] if answer.parsed else None) == grade
