"""Where a sentence ends, and which sentences of a passage are taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.notes.spectral_summary import gather, split


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", [""]),
        ("no end", ["no end"]),
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ("It ends.  Here\n\nand goes on.", ["It ends.", "Here and goes on."]),
        ('He said "no." She left (at last.) Then', ['He said "no."', "She left (at last.)", "Then"]),
        ("Fruit, e.g. apples, costs 3.50 now. 20 more", ["Fruit, e.g. apples, costs 3.50 now.", "20 more"]),
        ("Dr. Who came", ["Dr.", "Who came"]),
    ],
)
def test_where_sentences_end(text: str, sentences: list[str]) -> None:
    assert list(split(text)) == sentences


@given(st.text(st.characters()))
def test_no_word_is_lost_or_moved(text: str) -> None:
    assert " ".join(split(text)).split() == text.split()


def sentence(name: str, length: int) -> str:
    """Three words and a full stop, of so many characters together."""
    return f"{name} is {'x' * (length - len(name) - 5)}."


def test_a_passage_gives_200_characters_or_more_where_the_first_are_short() -> None:
    def taken(*lengths: int) -> list[int]:
        return [len(s) for s in gather([" ".join(sentence(f"S{i}", n) for i, n in enumerate(lengths))])]

    assert taken(100, 100, 20) == [100, 100]
    assert taken(127, 300, 20) == [127, 300]
    assert taken(128, 300, 50, 50) == [128, 50]
    assert taken(900, 20) == [900]


def test_every_passage_begins_anew_but_gives_no_sentence_that_another_gave() -> None:
    first, second, third = (sentence(name, 150) for name in "ABC")
    assert gather([first, f"{first} {second} {third}", ""]) == [first, second]


def test_sentences_of_two_words_and_scripts_without_blanks_give_none() -> None:
    assert gather(["Two words. And three words!", "火星有两颗卫星。它们很小。"]) == ["And three words!"]
