"""`r2llm schema`: the shipped schema, on stdout."""

from __future__ import annotations

from r2llm.pipeline.configs import json_schema as schema


def test_it_prints_the_shipped_file(r2llm) -> None:
    done = r2llm("schema")
    assert (done.code, done.err) == (0, "")
    assert done.out == schema.FILE.read_text(encoding="utf-8")
