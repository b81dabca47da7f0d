"""Reading replies: which label a text gives, and what scores become."""

import math

import pytest
from r2llm.rerankers.prompts import prompts
from r2llm.rerankers.prompts.answers import Reading, Reply, expected_value, read, read_label
from r2llm.rerankers.types import Answer, choose, score

ABCD = ("A", "B", "C", "D")

# Text as a model might write it: what is read by the rules strict, whole (llama) and last_character (T5); None where
# it cannot be read.
TEXTS: list[tuple[str, int | None, int | None, int | None]] = [
    ("A", 0, 0, 0),
    ("D", 3, 3, 3),
    ("b", 1, 1, None),
    (" C\n", 2, 2, 2),
    ("Passage B", 1, None, 1),
    ("passage b", 1, None, None),
    ("Passage: B", 1, None, 1),
    ("Passage [B].", 1, None, None),
    ("[c].", 2, None, None),
    ("(A)", 0, None, None),
    ("**A**", 0, None, None),
    ("**Passage A**", 0, None, None),
    ('"A"', 0, None, None),
    ("A:", 0, None, None),
    ("B.", 1, None, None),
    ("", None, None, None),
    (" \n", None, None, None),
    ("E", None, None, None),
    ("Z", None, None, None),
    ("Passage", None, None, None),
    ("Passage Z", None, None, None),
    ("Passages A", None, None, 0),
    ("passageA", None, None, 0),
    ("A and B", None, None, 1),
    ("A, B", None, None, 1),
    ("AB", None, None, 1),
    ("I think A", None, None, 0),
    ("The most relevant passage is D", None, None, 3),
    ("A is the most relevant", None, None, None),
    ("20 passages are provided", None, None, None),
    ("1", None, None, None),
    ("\uff21", None, None, None),
    ("[3] > [1]", None, None, None),
    ("Passage \u00b2", None, None, None),
]


@pytest.mark.parametrize(("text", "strict", "whole", "last"), TEXTS)
def test_the_label_that_a_text_gives(text: str, strict: int | None, whole: int | None, last: int | None) -> None:
    assert read_label(text, ABCD, "strict") == strict
    assert read_label(text, ABCD, "whole") == whole
    assert read_label(text, ABCD, "last_character") == last


@pytest.mark.parametrize(
    ("text", "index"),
    [("Yes", 0), ("yes.", 0), (" NO", 1), ("'No'", 1), ("Yes, it does", None), ("Not", None), ("Yes No", None)],
)
def test_labels_that_are_words(text: str, index: int | None) -> None:
    assert read_label(text, ("Yes", "No"), "strict") == index


@pytest.mark.parametrize("rule", ["strict", "whole", "last_character"])
def test_a_label_of_a_document_that_was_not_shown_is_not_read(rule) -> None:
    assert read_label("C", ("A", "B"), rule) is None
    assert read_label("C", ("A", "B", "C"), rule) == 2


def test_scores_choose_the_highest_and_of_equal_ones_the_first() -> None:
    ask = choose(["x", "y", "z"])
    prompt = prompts.load("setwise")
    reply = Reply(scores=(-2.0, -1.5, -1.5), prompt_tokens=17, completion_tokens=0)
    assert read(ask, prompt, reply, Reading()) == Answer(
        choice=1, scores=(-2.0, -1.5, -1.5), prompt_tokens=17, completion_tokens=0
    )


def test_a_text_chooses_and_one_that_cannot_be_read_gives_the_first_and_says_so() -> None:
    ask = choose(["x", "y"])
    prompt = prompts.load("setwise")
    assert read(ask, prompt, Reply(text="Passage B"), Reading()) == Answer(choice=1, text="Passage B")
    assert read(ask, prompt, Reply(text="C"), Reading()) == Answer(choice=0, text="C", parsed=False)
    assert read(ask, prompt, Reply(), Reading()) == Answer(choice=0, parsed=False)


def test_a_score_is_the_value_of_the_label_or_its_mean() -> None:
    prompt = prompts.load("yes_no")
    ask = score("x")
    assert read(ask, prompt, Reply(text="Yes"), Reading()).scores == (1.0,)
    assert read(ask, prompt, Reply(text="no"), Reading()).scores == (0.0,)
    unread = read(ask, prompt, Reply(text="perhaps"), Reading())
    assert (unread.scores, unread.parsed) == ((0.0,), False)
    [p] = read(ask, prompt, Reply(scores=(math.log(0.3), math.log(0.1))), Reading()).scores
    assert p == pytest.approx(0.75, abs=1e-15)


def test_the_mean_value_under_the_labels_probabilities() -> None:
    assert expected_value([0.0, 0.0], [1.0, 0.0]) == 0.5
    assert expected_value([-1000.0, -1000.0, -1000.0, -1000.0], [0.0, 1.0, 2.0, 3.0]) == 1.5
    assert expected_value([0.0, -1000.0], [1.0, 0.0]) == 1.0
    assert expected_value([-math.inf, 0.0], [1.0, 0.25]) == 0.25
    assert expected_value([math.log(0.2), math.log(0.1), math.log(0.1)], [2.0, 1.0, 0.0]) == pytest.approx(1.25)


def test_the_mean_value_tells_near_ties_apart() -> None:
    # As a sigmoid of the difference, in double precision: float32 logits that differ in their last bit stay apart.
    higher = expected_value([-17.250001907348633, -20.0], [1.0, 0.0])
    lower = expected_value([-17.250003814697266, -20.0], [1.0, 0.0])
    assert higher > lower
