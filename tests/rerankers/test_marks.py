"""Marks on options: what may be a path, and what cannot change an answer."""

from pathlib import Path

import pytest
from r2llm.rerankers import catalog
from r2llm.rerankers.marks import PathMark, SpeedMark, marks


def test_every_backend_marks_its_paths_and_what_is_only_speed() -> None:
    marked = {name: catalog.backend(name).Options for name in catalog.names("backend")}
    paths = {name: sorted(marks(options, PathMark)) for name, options in marked.items()}
    assert paths["simulated"] == []
    assert paths["replay"] == ["answers"]
    assert paths["transformers"] == ["adapter", "chat_template", "gguf", "name", "tokenizer"]
    assert paths["openai"] == ["chat_template", "name", "prices", "tokenizer"]
    assert {"device", "batch_size", "exact"} <= marks(marked["transformers"], SpeedMark).keys()
    assert {"base_url", "prices", "budget"} <= marks(marked["openai"], SpeedMark).keys()
    assert marks(marked["replay"], SpeedMark) == {}


@pytest.mark.parametrize(
    ("kind", "leads"),
    [
        ("file", ["plain", "named.txt"]),
        ("folder", ["folder"]),
        ("named file", ["named.txt"]),
        ("file or folder", ["folder", "plain", "named.txt"]),
        ("any", ["folder", "plain", "named.txt", "none"]),
    ],
)
def test_a_value_is_a_path_where_it_leads_somewhere(tmp_path: Path, kind, leads: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "plain").touch()
    (tmp_path / "named.txt").touch()
    names = ["folder", "plain", "named.txt", "none"]
    assert [name for name in names if PathMark(kind).leads(tmp_path / name)] == leads
