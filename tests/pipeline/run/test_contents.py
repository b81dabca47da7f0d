"""Content hashes: what they are of, so that those of earlier runs stay what they were."""

from __future__ import annotations

import pytest
from r2llm.pipeline.run import contents
from r2llm.rerankers.types import Query


@pytest.mark.parametrize("texts", [[], ["one"], ['with "quotes", é and \u2028', "", "\\"]])
def test_the_hash_of_queries_is_that_of_their_json_list(texts: list[str]) -> None:
    chosen = {f"q{number}": Query(f"q{number}", text) for number, text in enumerate(texts)}
    assert contents.queries(chosen) == contents.digest([[query.id, query.text] for query in chosen.values()])
