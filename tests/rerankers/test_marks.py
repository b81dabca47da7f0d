"""Marks on options: what may be a path, and what cannot change an answer."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from r2llm.rerankers import catalog
from r2llm.rerankers.backends.base import Setting
from r2llm.rerankers.marks import PathMark, SpeedMark, marks

OTHERS = {
    "simulated": {"answers": "hash", "noise": 0.2, "by_prompt": True},
    "openai": {"name": "other", "api": "chat", "tokenizer": None, "top_logprobs": 5, "group_scores": True}
    | {"reasoning_effort": "low", "extra_body": {"n": 1}, "omit": ["seed"]}
    | {"chat_template": "none", "chat_template_kwargs": {"thinking": True}},
    "transformers": {"dtype": "bfloat16", "rename": {"a": "b"}, "pooling": "cls"}
    | {"chat_template": "none", "chat_template_kwargs": {"thinking": True}},
}
"""For each backend, another value of every key that changes answers."""

BY_CONTENT = {"name", "gguf", "tokenizer", "revision", "adapter", "adapter_revision", "trust_remote_code"}
"""Keys that say which files a model in this process is read from: their content is in the identity."""


@pytest.mark.parametrize("backend", OTHERS)
def test_a_key_without_the_mark_of_speed_is_in_the_identity(backend: str, tiny_llama: Path) -> None:
    module = catalog.backend(backend)
    given = {"simulated": {"answers": "noisy"}, "openai": {"name": "model", "tokenizer": str(tiny_llama)}}
    plain = given.get(backend, {"name": str(tiny_llama), "dtype": "float32"})

    def identity(**other: object) -> Mapping[str, object]:
        return module.open(module.Options(**plain | other), Setting(grades={}, weights=False)).identity

    keys = module.Options.model_fields.keys() - marks(module.Options, SpeedMark).keys()
    assert keys - (BY_CONTENT if backend == "transformers" else set()) == OTHERS[backend].keys()
    assert [key for key, value in OTHERS[backend].items() if identity(**{key: value}) == identity()] == []


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
