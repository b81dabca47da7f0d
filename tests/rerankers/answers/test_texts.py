"""Text becomes answers: labels, orders, selections, ratings; what is prose becomes none."""

import gc
import random
import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r2llm.rerankers.answers.labels import Found, read_label
from r2llm.rerankers.answers.orders import read_order, read_selection
from r2llm.rerankers.answers.ratings import read_ratings
from r2llm.rerankers.answers.thinking import after_thinking, opened_thought

ONE_TO_20 = tuple(str(i) for i in range(1, 21))
THREE = ("1", "2", "3")
ABC = ("A", "B", "C")
YES_NO = ("Yes", "No")
GRADES = ("Not Relevant", "Somewhat Relevant", "Highly Relevant")
SCALE = ("0", "1", "2", "3", "4")
LABEL_SETS = [("1",), ("1", "2"), THREE, ONE_TO_20, ABC, ("A",), YES_NO, GRADES, SCALE, ("true", "false"), ()]

# Thoughts


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[2] > [1]", "[2] > [1]"),
        ("", ""),
        ("<think>[1] > [2]</think>[2] > [1]", "[2] > [1]"),
        ("<THINK>x</Think> y", " y"),
        ("the template opened it</think> y", " y"),
        ("<think>\n\n</think>\n\ny", "\n\ny"),
        ("<thinking>x</thinking>y", "y"),
        ("<think>never closed", None),
        ("<think>a</think> b <think>again", None),
        ("<think>draft <answer>[1]</answer> but", None),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("<think><think>a</think>d", "d"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("b<think>c</think>\n", "b"),
        ("a</think>", ""),
        ("<think>a</think>", ""),
        ("<think>x</think><answer>[2]</answer>", "[2]"),
        ("<think>x</think>So: <ANSWER>[2]</answer> done", "[2]"),
        ("<think><answer>1</answer></think><answer>2</answer>", "2"),
        ("<answer>1</answer> no: <answer>2</answer>", "2"),
        ("<answer>1</answer> no: <answer>", "1"),
        ("<answer><answer>2</answer></answer>", "2"),
        ("<answer>2", "2"),
        ("2</answer>", "2"),
    ],
)
def test_the_answer_follows_the_thought(text: str, answer: str | None) -> None:
    assert after_thinking(text) == answer


MARKS = [
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ("<Thought>", "</Thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|think|>", "<|/think|>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>", "<|end_of_thought|><|begin_of_solution|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>"),
    ("<|channel|>commentary<|message|>", "<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("analysis\n", "\nassistant\nfinal\n"),
    ("Here is my thought process:", "Here is my response:"),
]


@pytest.mark.parametrize(("begin", "end"), MARKS)
def test_a_thought_in_any_marks_is_never_the_answer_and_what_follows_it_is(begin: str, end: str) -> None:
    thought = "We rank. A first guess is [1] > [2] > [3] but wait"
    unfinished = Found(None, "unfinished_thought")
    assert read_order(begin + thought, THREE) == unfinished
    assert read_selection(f"{begin}We select.\nDocument 3, Document 1", THREE, 2) == unfinished
    assert read_label(f"{begin}We choose.\nAnswer: A\nB", ABC) == unfinished
    assert read_ratings(f"{begin}We rate. [1]: 8", THREE) == unfinished
    for text in (begin + thought + end, thought + end):  # a chat template may have written the beginning
        assert read_order(f"{text}[2] > [1]", THREE) == Found((1, 0, 2), "chain")
        assert read_order(f"{text}[2] > [1]<|return|>", THREE) == Found((1, 0, 2), "chain")
        assert read_order(f"{text}unsure", THREE) == Found(None, "prose")
        assert read_label(f"{text}B", ABC) == Found(1, "label")


def test_a_thought_ends_with_its_own_mark_alone() -> None:
    assert read_order("<think>[THINK]x[/THINK] [1] > [2]", THREE).form == "unfinished_thought"
    assert read_order("[THINK]x</think> [1] > [2]", THREE).form == "unfinished_thought"
    assert read_order("analysisWe <think>x</think> [1] > [2]", THREE).form == "unfinished_thought"
    assert read_order("<think>[THINK]x</think> [1] > [2]", THREE).form == "chain"
    assert read_order("[2] > [1]<|end|>", THREE) == Found((1, 0, 2), "chain")
    assert read_order("analysis of passages: [2] > [1]", THREE) == Found((1, 0, 2), "chain")


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("[/INST][THINK]", "[THINK]"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("<think>" * 2 + " of a passage", ""),
        ("", ""),
    ],
)
def test_a_thought_that_the_prompt_begins_is_part_of_the_reply(prompt: str, mark: str) -> None:
    assert opened_thought(prompt) == mark


# Labels

LABELS: list[tuple[tuple[str, ...], str, int | None, str]] = [
    (ABC, "A", 0, "label"),
    (ABC, " b\n", 1, "label"),
    (ABC, "[c].", 2, "label"),
    (ABC, "**A**", 0, "label"),
    (ABC, "`B`", 1, "label"),
    (ABC, "Passage B", 1, "lead_in"),
    (ABC, "passage b", 1, "lead_in"),
    (ABC, "**Passage [B]**.", 1, "lead_in"),
    (ABC, "Answer: B", 1, "lead_in"),
    (ABC, "The final answer is: Passage C", 2, "lead_in"),
    (ABC, "The most relevant passage is C.", 2, "lead_in"),
    (ABC, "<think>A or B?</think>\n<answer>B</answer>", 1, "label"),
    (ABC, "Passage A is close, but no.\n\nAnswer: B", 1, "answer"),
    (ABC, "A: about x\nB: about y\nAnswer: C", 2, "answer"),
    (ABC, "B\nA passage about fleas is what was asked for.", 1, "own_line"),
    (ABC, "It must be short.\nPassage B", 1, "own_line"),
    (ABC, "B - it explains the cycle", 1, "explained"),
    (ABC, "I think that the most relevant passage is C because A is old.", 2, "sentence"),
    (ABC, "Passage C is the most relevant to the query.", 2, "sentence"),
    (ABC, "Of these, passage C is more relevant than passage A.", 2, "sentence"),
    (ABC, "A passage about fleas", None, "no_label"),
    (ABC, "A", 0, "label"),
    (ABC, "The best answer is a", None, "no_label"),
    (ABC, "The passage is a", None, "no_label"),
    (ABC, "I think B", None, "no_label"),
    (ABC, "A is the most relevant", None, "no_label"),
    (ABC, "Passages A", None, "no_label"),
    (ABC, "passageA", None, "no_label"),
    (ABC, 'Passage A: "The life cycle of fleas"', None, "no_label"),
    (ABC, "A. Fleas are small.\nB. Fleas jump.", None, "no_label"),
    (ABC, "A. Fleas are", None, "no_label"),
    (ABC, "A and B", None, "no_label"),
    (ABC, "Answer: A or B", None, "no_label"),
    (ABC, "The most relevant passage is C, B", None, "no_label"),
    (ABC, "Passage C is not the most relevant", None, "no_label"),
    (ABC, "A\nB\nC", None, "ambiguous"),
    (ABC, "Answer: A\nAnswer: B", None, "ambiguous"),
    (ABC, "D", None, "no_label"),
    (ABC, "\uff21", 0, "label"),
    (ONE_TO_20, "\uff12", 1, "label"),
    (ABC, "", None, "empty"),
    (ABC, "<think></think> \n", None, "empty"),
    (ABC, "<think>A", None, "unfinished_thought"),
    (ONE_TO_20, "[3]", 2, "label"),
    (ONE_TO_20, "3.", 2, "label"),
    (ONE_TO_20, "<think>[1]?</think> <answer>[3]</answer>", 2, "label"),
    (ONE_TO_20, "Document 3 is the most relevant", 2, "sentence"),
    (ONE_TO_20, "20 passages are provided.", None, "no_label"),
    (ONE_TO_20, "3. The passage", None, "no_label"),
    (ONE_TO_20, "3 - 5 passages", None, "no_label"),
    (ONE_TO_20, "Answer: 3.5", None, "no_label"),
    (ONE_TO_20, "-3", None, "no_label"),
    (ONE_TO_20, ".5", None, "no_label"),
    (ONE_TO_20, "\u00b2", None, "no_label"),
    (ONE_TO_20, "\u0663", None, "no_label"),
    (ONE_TO_20, "[3] > [1]", None, "no_label"),
    (SCALE, "0", 0, "label"),
    (SCALE, "Score: 3", 3, "lead_in"),
    (SCALE, "4 - Perfectly relevant", 4, "explained"),
    (SCALE, "From 0 to 4, 3", None, "no_label"),
    (SCALE, "3/4", None, "no_label"),
    (GRADES, "not relevant", 0, "label"),
    (GRADES, "**Highly  Relevant**.", 2, "label"),
    (GRADES, "Output: 'Somewhat Relevant'", 1, "lead_in"),
    (GRADES, "Highly Relevant. The passage says so.", 2, "explained"),
    (GRADES, "Overall, the passage is not relevant to the query.", 0, "sentence"),
    (GRADES, "Relevant", None, "no_label"),
    (GRADES, "Somewhat", None, "no_label"),
    (GRADES, "Not Relevant or Highly Relevant", None, "no_label"),
    (("Relevant", "Not Relevant"), "Not Relevant", 1, "label"),
    (("Relevant", "Not Relevant"), "Relevant", 0, "label"),
    (("Relevant", "Not Relevant"), "Not Relevant. It is about dogs.", 1, "explained"),
    (("Relevant", "Not Relevant"), "The passage is not relevant.", 1, "lead_in"),
    (("true", "false"), " True", 0, "label"),
    (("true", "false"), "<think>Is it true?</think> false", 1, "label"),
    (("true", "false"), "untrue", None, "no_label"),
    (("true", "false"), "true\nfalse", None, "ambiguous"),
    (YES_NO, "The final answer is: Yes", 0, "lead_in"),
    (YES_NO, "No. It says Yes to nothing.", 1, "explained"),
    (YES_NO, "No. Yes", None, "ambiguous"),
    (YES_NO, "Yes, it does", 0, "explained"),
    (YES_NO, "Yes, the passage says that it is no moth.", 0, "explained"),
    (YES_NO, "**No**, the passage is about dogs.", 1, "explained"),
    (YES_NO, "Answer: No, it is about dogs", 1, "answer"),
    (YES_NO, "Yes, no", None, "no_label"),
    (YES_NO, "Yes, or no, who knows", None, "no_label"),
    (YES_NO, "Yes, it is.\nNo, it is not.", None, "ambiguous"),
    (YES_NO, "Answer: Yes, No", None, "no_label"),
    (("true", "false"), "True, as the passage says so", 0, "explained"),
    (GRADES, "Somewhat Relevant, as it names fleas", 1, "explained"),
    (GRADES, "Not Relevant, Somewhat Relevant, or Highly Relevant", None, "no_label"),
    (ABC, "A, the first one", None, "no_label"),
    (ABC, "\u3010B\u3011", 1, "label"),
    (ABC, '```json\n{"answer": "B"}\n```', 1, "lead_in"),
    (YES_NO, "Yes No", None, "no_label"),
    (YES_NO, "Ye\u017f", None, "no_label"),
]


@pytest.mark.parametrize(("labels", "text", "index", "form"), LABELS)
def test_the_label_that_a_text_gives(labels: tuple[str, ...], text: str, index: int | None, form: str) -> None:
    assert read_label(text, labels) == Found(index, form)


@pytest.mark.parametrize(
    ("rule", "text", "index"),
    [
        ("last_character", "Passages A", 0),
        ("last_character", "Passage [B].", None),
        ("last_character", "<think>A", 0),
        ("exact", " B", 1),
        ("exact", "B ", None),
        ("exact", "b", None),
        ("whole", " b\n", 1),
        ("whole", "Passage B", None),
        ("whole", "", None),
    ],
)
def test_the_older_toolkits_read_the_raw_text(rule, text: str, index: int | None) -> None:
    assert read_label(text, ABC, rule) == Found(index, "no_label" if index is None else rule)


# Orders

ORDERS: list[tuple[tuple[str, ...], str, list[int] | None, str]] = [
    (THREE, "[2] > [3] > [1]", [1, 2, 0], "chain"),
    (THREE, "[2] > [3] = [1]", [1, 2, 0], "chain"),
    (THREE, "[2]>[1]", [1, 0, 2], "chain"),
    (THREE, "**[3]** > **[1]**", [2, 0, 1], "chain"),
    (THREE, "[3] >\n[1] >\n[2]", [2, 0, 1], "chain"),
    (THREE, "[3] [1] > [2]", [2, 0, 1], "chain"),
    (THREE, "Passage 3 > Passage 1", [2, 0, 1], "chain"),
    (THREE, "[3] &gt; [1]", [2, 0, 1], "chain"),
    (THREE, r"\boxed{[3] > [1]}", [2, 0, 1], "chain"),
    (THREE, "[3] > [1] > [2", [2, 0, 1], "chain"),
    (THREE, "[03] > [01]", [2, 0, 1], "chain"),
    (THREE, "[3] > [3] > [9] > [1]", [2, 0, 1], "chain"),
    (THREE, "100% of them: [3] > [2] > [1]", [2, 1, 0], "chain"),
    (THREE, "I find [3] > [2] > [1], as asked.", [2, 1, 0], "chain"),
    (THREE, "<think>[1] > [2] > [3]</think> <answer>[3] > [1]</answer>", [2, 0, 1], "chain"),
    (THREE, "[1] > [2] > ... > [3]", [0, 1, 2], "chain"),
    (THREE, "3] > [1] > [2]", [2, 0, 1], "mixed_chain"),
    (THREE, "3 > [1] > [2]", [2, 0, 1], "mixed_chain"),
    (THREE, "3 > 1", [2, 0, 1], "bare_chain"),
    (THREE, "The ranking is 3 > 1 > 2.", [2, 0, 1], "bare_chain"),
    (THREE, "Ranking: 3 > 1", [2, 0, 1], "bare_chain"),
    (THREE, "[3], [1]", [2, 0, 1], "list"),
    (THREE, "[3]\n[1]\n[2]", [2, 0, 1], "list"),
    (THREE, "- [3]\n- [1]", [2, 0, 1], "list"),
    (THREE, '["[3]", "[1]"]', [2, 0, 1], "list"),
    (THREE, "PASSAGE3, PASSAGE1", [2, 0, 1], "list"),
    (THREE, "SORTED_PASSAGES = [PASSAGE3, PASSAGE1]", [2, 0, 1], "list"),
    (THREE, "1. [3]\n2. [1]", [2, 0, 1], "numbered_list"),
    (THREE, "1. [3] > 2. [1] > 3", [2, 0, 1], "numbered_list"),
    (THREE, "1. [3] - on fleas\n2. [1]: on dogs", [2, 0, 1], "numbered_list"),
    (THREE, "1. Passage 3\n2. Passage 1", [2, 0, 1], "numbered_list"),
    (THREE, "1. 3\n2. 1", [2, 0, 1], "numbered_list"),
    (THREE, "3, 1, 2", [2, 0, 1], "comma_list"),
    (THREE, "[3, 1, 2]", [2, 0, 1], "comma_list"),
    (THREE, "Answer: 3, 1", [2, 0, 1], "comma_list"),
    (THREE, '{"ranking": [3, 1, 2]}', [2, 0, 1], "comma_list"),
    (THREE, '```json\n{"ranking": ["3", "1"]}\n```', [2, 0, 1], "comma_list"),
    (THREE, "```json\n[3, 1, 2]\n```", [2, 0, 1], "comma_list"),
    (THREE, "#3, #1, #2", [2, 0, 1], "comma_list"),
    (THREE, "#3 > #1", [2, 0, 1], "bare_chain"),
    (THREE, "Passage #3 > Passage #1", [2, 0, 1], "chain"),
    (THREE, "3 \u2265 1", [2, 0, 1], "bare_chain"),
    (THREE, "[3] \u2265 [1]", [2, 0, 1], "chain"),
    (THREE, "[3] \u226b [1] \uff1e [2]", [2, 0, 1], "chain"),
    (THREE, "[3] -> [1]", [2, 0, 1], "chain"),
    (THREE, "\uff3b3\uff3d > \uff3b1\uff3d", [2, 0, 1], "chain"),
    (THREE, "\uff3b\uff12\uff3d > [1]", [1, 0, 2], "chain"),
    (THREE, "\u30103\u3011\u30101\u3011", [2, 0, 1], "list"),
    (THREE, "<3>, <1>", [2, 0, 1], "bare_chain"),
    (THREE, "| Rank | Passage |\n|---|---|\n| 1 | [3] |\n| 2 | **[1]** |", [2, 0, 1], "numbered_list"),
    (THREE, "| 1 | Passage 3 | on fleas |\n| 2 | Passage 1 | on [2] |", [2, 0, 1], "numbered_list"),
    (THREE, "1. **[3]** \u2013 on fleas\n2. **Passage 1**: on dogs", [2, 0, 1], "numbered_list"),
    (THREE, "**1.** [3]\n**2.** [1]", [2, 0, 1], "numbered_list"),
    (THREE, "[3]", [2, 0, 1], "single"),
    (THREE, "3", [2, 0, 1], "single"),
    (ABC, "[B] > [A]", [1, 0, 2], "chain"),
    (ABC, "B > A", [1, 0, 2], "bare_chain"),
    (ABC, "B, A, C", [1, 0, 2], "comma_list"),
    (ABC, "1. B\n2. A", [1, 0, 2], "numbered_list"),
    (ABC, "I think A > B is so", None, "prose"),
    (ABC, "A passage is a passage", None, "prose"),
    (THREE, "3 passages are provided.", None, "prose"),
    (THREE, "3 passages, so the ranking should be from 3 to 1.", None, "prose"),
    (THREE, "See [3], [1] and [2] for this.", None, "prose"),
    (THREE, "[3] is more relevant than [1]", None, "prose"),
    (THREE, "[3] The life of fleas\n[1] The life of dogs", None, "prose"),
    (THREE, "Passage 3 is the best. Passage 1 is worse.", None, "prose"),
    (THREE, "[1] - [3]", None, "prose"),
    (THREE, "3 - 1", None, "prose"),
    (THREE, "there, 3 > 1 holds", None, "prose"),
    (THREE, "it is 3 = 2", None, "prose"),
    (THREE, "1,000", None, "prose"),
    (THREE, "3.5 > 2", None, "prose"),
    (THREE, "[] > []", None, "prose"),
    (THREE, "[\u00b2] > [\u00b3]", None, "prose"),
    (THREE, "[\u0663] > [\uff12]", None, "prose"),
    (THREE, "| 1 | 3 |\n| 2 | 1 |\n| 3 | 2 |", None, "prose"),
    (THREE, "1 | 3\n2 | 1\n3 | 2", None, "prose"),
    (THREE, "1 3\n2 1\n3 2", None, "prose"),
    (THREE, "[1] [3]\n[2] [1]", None, "prose"),
    (THREE, "| [3] | 1 |\n| [1] | 2 |", None, "prose"),
    (THREE, "| [1] | 7 |\n| [2] | 9 |", None, "prose"),
    (THREE, "#1 [3]\n#2 [1]", None, "prose"),
    (THREE, "#1: 3\n#2: 1", None, "prose"),
    (THREE, "Rank 1: [3]\nRank 2: [1]", None, "prose"),
    (THREE, "3. [1]\n2. [2]\n1. [3]", None, "prose"),
    (THREE, "2. [1]\n1. [3]", None, "prose"),
    (THREE, "[1] < [2] < [3]", None, "prose"),
    (THREE, "1 <= 2", None, "prose"),
    (THREE, '[{"rank": 1, "id": 3}, {"rank": 2, "id": 1}]', None, "prose"),
    (THREE, '{"3": 1, "1": 2}', None, "prose"),
    (THREE, "[9] > [8]", None, "out_of_range"),
    (THREE, "[-1] > [0]", None, "prose"),
    (THREE, "\0 \n", None, "empty"),
    (THREE, "<think>[3] > [1]", None, "unfinished_thought"),
]


@pytest.mark.parametrize(("labels", "text", "order", "form"), ORDERS)
def test_the_order_that_a_text_gives(labels: tuple[str, ...], text: str, order: list[int] | None, form: str) -> None:
    assert read_order(text, labels) == Found(None if order is None else tuple(order), form)


def test_of_several_chains_the_longest_is_read_and_of_equal_ones_the_last() -> None:
    assert read_order("The form is [1] > [2]. So: [3] > [2] > [1]", THREE).value == (2, 1, 0)
    assert read_order("[3] > [2] > [1]\n\nThis is as in the example, [1] > [2].", THREE).value == (2, 1, 0)
    assert read_order("First [1] > [2] > [3]; better [3] > [1] > [2].", THREE).value == (2, 0, 1)
    assert read_order("1. [1] > [2] 2. [1] > [3] 3", THREE).value == (0, 1, 2)


def test_the_rule_digits_takes_every_number() -> None:
    assert read_order("3 passages are provided.", THREE, "digits") == Found((2, 0, 1), "digits")
    assert read_order("1. [3] > 2. [1]", THREE, "digits").value == (0, 2, 1)
    assert read_order("none", THREE, "digits").value == (0, 1, 2)
    assert read_order("<think>2</think> 007 [03] \u00b2 0", THREE, "digits").value == (1, 2, 0)
    assert read_order("9" * 10_000 + " 2", THREE, "digits").value == (1, 0, 2)


@given(st.permutations(range(20)), st.integers(1, 20))
def test_a_full_chain_reads_as_itself(order: list[int], n: int) -> None:
    order = [i for i in order if i < n]
    for labels in (ONE_TO_20[:n], tuple("ABCDEFGHIJKLMNOPQRST")[:n]):
        text = " > ".join(f"[{labels[i]}]" for i in order)
        assert read_order(text, labels).value == tuple(order)
        assert read_order(f"So the answer is:\n\n**{text}**\n", labels).value == tuple(order)


# Selections

SELECTIONS: list[tuple[str, list[int] | None, str]] = [
    ("Document 3, ..., Document 1", [2, 0], "list"),
    ("The top 2 documents are:\nDocument 3, Document 1.", [2, 0], "list"),
    ("Document 1, Document 2\nDocument 3, Document 2", [2, 1], "list"),
    ("Document 3,\nDocument 2", [2, 1], "list"),
    ("Document 3\nDocument 2", [2, 1], "list"),
    ("1. Document 3\n2. Document 2", [2, 1], "numbered_list"),
    ("Document 3, Document 2, Document 1", [2, 1], "list"),
    ("Document 3, Document 3, Document 9", [2, 0], "list"),
    ("Document 3", [2, 0], "single"),
    ("3, 2", [2, 1], "comma_list"),
    ("[3] > [2] > [1]", [2, 1], "chain"),
    ("<think>Document 1</think>Document 3, Document 2", [2, 1], "list"),
    ("1. **[3]** - on fleas\n2. **[2]** - on dogs", [2, 1], "numbered_list"),
    ("The last one:\nDocument 3", [2, 0], "single"),
    ("Document 3 is about fleas.", None, "prose"),
    ("1: [3]\n2: [2]", None, "prose"),
    ("3. [1]\n2. [2]\n1. [3]", None, "prose"),
    ('[{"id": 3}, {"id": 2}]', None, "prose"),
    ("None of the 3 documents", None, "prose"),
    ("Document 7, Document 8", None, "out_of_range"),
    ("", None, "empty"),
]


@pytest.mark.parametrize(("text", "chosen", "form"), SELECTIONS)
def test_the_documents_that_a_text_selects(text: str, chosen: list[int] | None, form: str) -> None:
    assert read_selection(text, THREE, 2) == Found(None if chosen is None else tuple(chosen), form)


# Ratings

RATINGS: list[tuple[str, list[float | None] | None, str]] = [
    ('{"[1]": 8, "[3]": 2.5}', [8.0, None, 2.5], "json"),
    ('```json\n{\n "[1]": "7", "[2]": NaN, "[3]": 1e999, "[9]": 4\n}\n```', [7.0, None, None], "json"),
    ('<answer>{"1": 8, "Document 2": 0}</answer>', [8.0, 0.0, None], "json"),
    ('such as {"[1]": 1}: {"[1]": 8, "[2]": 7}', [8.0, 7.0, None], "json"),
    ('{"[1]": 8, "[2]": 7, "[3]": 1', [8.0, 7.0, None], "json"),
    ('{"[1]": 8, "[1]": 3}', [3.0, None, None], "json"),
    ("Doc: 1, Relevance: 7\nDoc: 3, Relevance: 9", [7.0, None, 9.0], "relevance"),
    ("Doc: 1, Relevance: 7; Doc: 2, Relevance: high; Doc: 3, Relevance: 9", [7.0, None, 9.0], "relevance"),
    ("**Doc: 1**, **Relevance: 7/10**", [7.0, None, None], "relevance"),
    (
        "Doc: 1, Relevance: 7, Depth: 3, Final Score: 7 + 0.5 * 3 = 8.5\nDoc: 2, Relevance: 4",
        [8.5, 4.0, None],
        "relevance",
    ),
    ("[1]: 8\n[2]: 7.5", [8.0, 7.5, None], "pairs"),
    ("1: 8\n- 2: 3", [8.0, 3.0, None], "pairs"),
    ("Passage 2: 8/10.", [None, 8.0, None], "pairs"),
    ("[1]: 8 passages are here", None, "prose"),
    ("at 1: 30 there were 3 passages", None, "prose"),
    ('{"[9]": 8}', None, "prose"),
    ("[1]: " + "9" * 5000, None, "prose"),
    ("", None, "empty"),
    ('<think>{"[1]": 8}', None, "unfinished_thought"),
]


@pytest.mark.parametrize(("text", "scores", "form"), RATINGS)
def test_the_scores_that_a_text_gives(text: str, scores: list[float | None] | None, form: str) -> None:
    assert read_ratings(text, THREE) == Found(None if scores is None else tuple(scores), form)


def test_ratings_by_letters() -> None:
    assert read_ratings('{"[A]": 8, "B": 3}', ABC) == Found((8.0, 3.0, None), "json")


# Any text at all

FRAGMENTS = [
    *"0123456789[]><=,.:;-()*'\"{}/ \n\t",
    *["10", "20", "21", "[1]", "[2]", "[20]", "[21]", " > ", " > [", "] > ", "1. ", "2. ", "...", "&gt;", "9" * 5000],
    *[
        "Passage ",
        "PASSAGE",
        "Document ",
        "A",
        "B",
        "I",
        "a ",
        "[A]",
        "[B]",
        "the ",
        " is the most relevant",
        "Answer: ",
    ],
    *["Yes", "No", "Not Relevant", "true", "Relevant", "Doc: 1, Relevance: 7", "final", '"[1]": 8', "nan", "1e999"],
    *["<think>", "</think>", "<answer>", "</answer>", "20 passages are provided. ", "\\boxed{"],
    *["\0", "\ud800", "\u202e", "\u00e9", "\u00b2", "\u0663", "\uff12", "\u017f", "\x1c", "\u2028", "\U0001f60a"],
]


@pytest.mark.slow
def test_of_100_000_texts_each_gives_a_permutation_or_nothing() -> None:
    source = random.Random(7)
    read = 0
    for number in range(100_000):
        labels = LABEL_SETS[number % 6]
        order = read_order("".join(source.choices(FRAGMENTS, k=source.randint(0, 10))), labels).value
        assert order is None or sorted(order) == list(range(len(labels)))
        if order is not None:
            read += 1
            chain = " > ".join(f"[{labels[i]}]" for i in order)
            assert read_order(chain, labels).value == order
    assert read > 2_000


@given(st.text() | st.lists(st.sampled_from(FRAGMENTS)).map("".join), st.sampled_from(LABEL_SETS), st.integers(0, 5))
def test_no_text_is_an_error(text: str, labels: tuple[str, ...], limit: int) -> None:
    for rule in ("strict", "exact", "whole", "last_character"):
        index = read_label(text, labels, rule).value
        assert index is None or 0 <= index < len(labels)
    for order in (read_order(text, labels).value, read_order(text, labels, "digits").value):
        assert order is None or sorted(order) == list(range(len(labels)))
    chosen = read_selection(text, labels, limit).value
    assert chosen is None or len(chosen) == len(set(chosen)) == min(limit, len(labels))
    scores = read_ratings(text, labels).value
    assert scores is None or (len(scores) == len(labels) and any(score is not None for score in scores))


WORDS = ["passages", "the", "A", "a", "I", "relevant", "of", "in", "fleas", "about", "and", "are", "than", "percent"]


@given(st.lists(st.sampled_from(WORDS) | st.integers(0, 30).map(str)), st.sampled_from(["", ".", "?", ", so"]))
def test_a_number_in_prose_orders_selects_and_labels_nothing(words: list[str], end: str) -> None:
    text = " ".join(["there", *words, "fleas"]) + end
    for labels in (ONE_TO_20, ABC):
        assert read_order(text, labels) == Found(None, "prose")
        assert read_selection(text, labels, 3) == Found(None, "prose")
        assert read_label(text, labels) == Found(None, "no_label")
        assert read_ratings(text, labels) == Found(None, "prose")


HOSTILE = ["[", "<", " ", "1", "[1] > [2] > ", "1, 2, ", "1. [1]\n", "1: 8\n", "</answer><answer>", "passage ", "\0"]
HOSTILE += ['{"[1]": 8, ', "Doc: 1, Relevance: 7, Final: ", "the final answer is ", "[1] [2] x ", "[1]" + " " * 50]


def seconds(read: Callable[[str, Sequence[str]], object], text: str, labels: Sequence[str]) -> float:
    """What reading takes of the processor, without what the collector finds to do in this process and other threads."""
    gc.disable()
    try:
        begun = time.thread_time()
        read(text, labels)
        return time.thread_time() - begun
    finally:
        gc.enable()


@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
def test_a_quarter_of_a_megabyte_takes_less_than_a_second(piece: str) -> None:
    text = (piece * 250_000)[:250_000]
    for read in (read_label, read_order, read_ratings, partial(read_selection, limit=5)):
        assert seconds(read, text, ONE_TO_20) < 1


@pytest.mark.parametrize("piece", ["A B ", "A > B > ", "A\n"])
def test_a_quarter_of_a_megabyte_of_letters_takes_less_than_a_second(piece: str) -> None:
    text = piece * (250_000 // len(piece))
    for read in (read_label, read_order):
        assert seconds(read, text, ABC) < 1


def test_of_a_long_text_the_end_is_read() -> None:
    far, near = "x " * 30_000, "x " * 20_000
    assert read_order(f"[2] > [1] > [3]\n{near}", THREE) == Found((1, 0, 2), "chain")
    assert read_order(f"[2] > [1] > [3]\n{far}", THREE) == Found(None, "prose")
    assert read_order(f"[2] > [1] > [3]\n{far}\n[3] > [1]", THREE) == Found((2, 0, 1), "chain")
    assert read_ratings(f"[1]: 3\n{far}[2]: 4", THREE) == Found((3.0, 4.0, None), "pairs")
    assert read_ratings(f"[1]: 3\n{far * 4}[2]: 4", THREE) == Found((None, 4.0, None), "pairs")


def test_numbers_of_many_digits_are_read_as_text() -> None:
    many = "1" + "0" * 100_000
    assert read_order(f"[{many}] > [2]", THREE).value == (1, 0, 2)
    assert read_order(f"[{'0' * 100}2] > [1]", THREE).value == (1, 0, 2)
    assert read_label(many, THREE).value is None
    assert read_ratings(f'{{"[1]": {many}, "[2]": 3}}', THREE).value == (None, 3.0, None)
