"""Reading replies: which label a text gives, and what scores become."""

import math

import pytest
from r2llm.rerankers.answers.reading import Reading, Reply, expected_value, read
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Answer, choose, score


def test_scores_choose_the_highest_and_of_equal_ones_the_first() -> None:
    ask = choose(["x", "y", "z"])
    prompt = prompts.load("setwise")
    reply = Reply(scores=(-2.0, -1.5, -1.5), prompt_tokens=17, completion_tokens=0)
    assert read(ask, prompt, reply, Reading()) == Answer(choice=1, scores=(-2.0, -1.5, -1.5))


def test_a_text_chooses_and_one_that_cannot_be_read_gives_the_first_and_says_so() -> None:
    ask = choose(["x", "y"])
    prompt = prompts.load("setwise")
    assert read(ask, prompt, Reply(text="B"), Reading()) == Answer(choice=1, text="B", form="label")
    unread = Answer(choice=0, text="C", parsed=False, form="no_label")
    assert read(ask, prompt, Reply(text="C"), Reading()) == unread
    assert read(ask, prompt, Reply(), Reading()) == Answer(choice=0, parsed=False, form="empty")


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
