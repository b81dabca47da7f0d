"""Where caches go, and that a large file is hashed once."""

import hashlib
import os
from pathlib import Path

import pytest
from r2llm.pipeline import cache
from r2llm.rerankers.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_WORTH_REMEMBERING", 0)
    return tmp_path


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_folder() == folder / "cache"
    monkeypatch.delenv("R2LLM_CACHE")
    assert cache.cache_folder().name == "r2llm"


def test_a_hash_is_remembered_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "corpus.jsonl"
    path.write_text("one")
    assert cache.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(cache, "_hash", lambda _: pytest.fail("hashed again"))
        assert cache.file_sha256(path) == hashlib.sha256(b"one").hexdigest()
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert cache.file_sha256(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_cache_is_an_empty_one(folder: Path, damage: str) -> None:
    (folder / "cache").mkdir()
    (folder / "cache" / "file-hashes.json").write_text(damage)
    (folder / "a").write_text("one")
    assert cache.file_sha256(folder / "a") == hashlib.sha256(b"one").hexdigest()


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path) -> None:
    (folder / "cache").write_text("a file, no folder")
    (folder / "a").write_text("one")
    assert cache.file_sha256(folder / "a") == hashlib.sha256(b"one").hexdigest()


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read: No such file"):
        cache.file_sha256(folder / "none")
