"""Every kind of ask has a row, and every row says all of it."""

from typing import get_args

import pytest
from r2llm.rerankers.answers.reading import Reading, Reply, describe, read
from r2llm.rerankers.asks import KINDS
from r2llm.rerankers.prompts import template as prompts
from r2llm.rerankers.types import Answer, Ask, AskKind

PROMPTS = {"score": "yes_no", "select": "tourrank", "permute": "rankgpt", "rate": "rebel", "write": "judgerank_query"}


def test_there_is_a_row_for_each_kind() -> None:
    assert set(KINDS) == set(get_args(AskKind))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"derive"}))
def test_an_unread_answer_is_the_neutral_one_and_the_reader_describes_itself(kind: AskKind) -> None:
    ask = Ask(kind, ("a",) if kind in ("score", "relevance", "likelihood") else ("a", "b"), limit=kind == "select")
    answer = read(ask, prompts.load(PROMPTS.get(kind, "setwise")), Reply("<think>A"), Reading())
    assert not answer.parsed
    neutral = Answer(**KINDS[kind].neutral(ask))
    assert (answer.choice, answer.order, answer.scores) == (neutral.choice, neutral.order, neutral.scores)
    assert describe(kind, Reading()).startswith((",", ":"))
    assert (KINDS[kind].scores is None) == (KINDS[kind].scoring == "generation")
