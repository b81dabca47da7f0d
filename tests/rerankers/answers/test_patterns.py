"""What prompts' patterns capture of an answer, and the rules by which their authors' code reads orders."""

from __future__ import annotations

import pytest
from r2llm.rerankers.answers.orders import OrderRule, read_order
from r2llm.rerankers.answers.reading import Reading, Reply, read, span_of
from r2llm.rerankers.backends.base import Backend
from r2llm.rerankers.errors import InputError
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.ranker import Ranker
from r2llm.rerankers.types import choose, permute

FOUR = ("1", "2", "3", "4")


@pytest.mark.parametrize(
    ("prompt", "text", "captured"),
    [
        ("rank_r1", "<think>no [2]</think>\n<answer>[3]</answer>", "[3]"),
        ("rank_r1", "<THINK>x</THINK> <ANSWER> [3] </ANSWER>", " [3] "),  # their text is in lower case
        ("rank_r1", "<answer>[3]</answer>", None),  # no thought, no answer
        ("setwise_sft", "<answer>[3]</answer>", "[3]"),
        ("reasonrank", "<think>[1] > [2]</think><answer>[2] > [1]</answer> [4]", "[2] > [1]"),
        ("reasonrank", "<think>[1] > [2]</think> so <answer>[4]</answer><answer>[2] > [1]", "[2] > [1]"),
        ("reasonrank", "[2] > [1]", "[2] > [1]"),
        ("rearank", "<answer> [2] > [1] </answer><answer>[1]</answer>", " [2] > [1] "),
        ("rearank", "<think>[1]</think> then </think>[2] > [1]", "[2] > [1]"),
        ("rearank", "<think>[1] > [2]", "<think>[1] > [2]"),
        ("rank_k", "<think>\n[1]\n</think>\n\n[2] > [1] = [3]\n", "[2] > [1] = [3]"),
        ("dear_listwise", "a </think> [2] </think> [1]", " [2] </think> [1]"),
        ("rank_zephyr", "<think>[1]</think>[2] > [1]", "[2] > [1]"),
        ("rank_zephyr", "[2] > [1]", "[2] > [1]"),
    ],
)
def test_the_part_that_is_read(prompt: str, text: str, captured: str | None) -> None:
    pattern = prompts.load(prompt).answer.pattern
    assert pattern is not None
    span = span_of(pattern, text)
    assert (span and text[slice(*span)]) == captured


@pytest.mark.parametrize(
    ("rule", "text", "order"),
    [
        ("ties", "[3] > [2] > [4] = [1]", (2, 1, 3, 0)),
        ("ties", "[3] > [2] > [3] > [4]", (2, 1, 0, 3)),  # the first repeat ends it
        ("ties", "so [3] > 2 > [9] > [4]", (1, 3, 0, 2)),  # what is no label is passed over
        ("ties", "I cannot say", None),
        ("full", "Ranking: [4] > [2]>[1] > [3].", (3, 1, 0, 2)),
        ("full", "[4] > [2] > [1] > [3] > [4]", (3, 1, 0, 2)),
        ("full", "[4] > [2] > [1]", None),  # a full permutation or none
        ("full", "[4] > [2] > [2] > [1]", None),
        ("ascending", "3 1 4 2 1", (0, 1, 3, 2)),  # the last one best
        ("ascending", "4", (3, 0, 1, 2)),
        ("digits", "[\u00b2] > [\u2463] > \uff13", (1, 3, 2, 0)),  # superscript, circled, fullwidth
    ],
)
def test_the_rules_of_orders(rule: OrderRule, text: str, order: tuple[int, ...] | None) -> None:
    assert read_order(text, FOUR, rule).value == order


class Model(Backend):
    """A backend that is none but for what a reading asks of it."""

    def collect(self) -> list[tuple[object, Reply]]:  # type: ignore[override]
        return []


def test_a_label_must_be_all_that_a_pattern_captures() -> None:
    ranker = Ranker.create({"method": "setwise.heapsort", "prompt": "rank_r1", "scoring": "generation", "num_child": 2})
    ask, reading = choose("abc"), ranker.reading(choose("abc"), Model())
    assert reading == Reading("whole", "strict", ranker.prompt.answer.pattern)

    def chosen(text: str) -> tuple[int, bool, str]:
        answer = read(ask, ranker.prompt, Reply(f"<think>t</think><answer>{text}</answer>"), reading)
        return answer.choice, answer.parsed, answer.form

    assert chosen(" [3] ") == (2, True, "whole")
    assert chosen("3") == chosen("the answer is [3]") == chosen("[4]") == (0, False, "no_label")
    unread = read(ask, ranker.prompt, Reply("<think>[3]"), reading)
    assert (unread.choice, unread.parsed, unread.form) == (0, False, "no_match")


def test_an_order_without_a_match_keeps_the_documents_as_presented() -> None:
    reading = Reading(order="digits", pattern=r"<answer>(.*)</answer>")
    answer = read(permute("abc"), prompts.load("rank_zephyr"), Reply("[3] > [2]"), reading)
    assert (answer.order, answer.parsed) == ((0, 1, 2), False)


@pytest.mark.parametrize(
    ("pattern", "message"), [("'('", "no regular expression"), ("'<answer>.*'", "has no group (…) that captures")]
)
def test_a_pattern_that_is_none_is_refused(pattern: str, message: str, tmp_path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "source: made up\nasks: [permute]\nmessages: [{role: user, content: '{query} {passages}'}]\n"
        f"labels: numbers\nanswer: {{pattern: {pattern}}}\n"
    )
    with pytest.raises(InputError, match=r"answer\.pattern") as raised:
        prompts.load(str(path))
    assert message in str(raised.value)
