"""Where caches go, and that a large file is hashed once."""

import hashlib
import os
from pathlib import Path

import pytest
from r2llm.rerankers import hashing as digests
from r2llm.rerankers.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R2LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 0)
    return tmp_path


def test_the_environment_names_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert digests.cache_folder() == folder / "cache"
    monkeypatch.delenv("R2LLM_CACHE")
    assert digests.cache_folder().name == "r2llm"


def test_a_hash_is_remembered_until_the_file_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "corpus.jsonl"
    path.write_text("one")
    assert digests.file_digest(path) == hashlib.sha256(b"one").hexdigest()
    with monkeypatch.context() as patched:
        patched.setattr(digests, "_hash", lambda _: pytest.fail("hashed again"))
        assert digests.file_digest(path) == hashlib.sha256(b"one").hexdigest()
    path.write_text("two")
    os.utime(path, ns=(1, 1))
    assert digests.file_digest(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_cache_is_an_empty_one(folder: Path, damage: str) -> None:
    (folder / "a").write_text("one")
    digests.file_digest(folder / "a")
    [note] = (folder / "cache" / "digests").iterdir()
    note.write_text(damage)
    assert digests.file_digest(folder / "a") == hashlib.sha256(b"one").hexdigest()


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path) -> None:
    (folder / "cache").write_text("a file, no folder")
    (folder / "a").write_text("one")
    assert digests.file_digest(folder / "a") == hashlib.sha256(b"one").hexdigest()


def test_a_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none: cannot be read: No such file"):
        digests.file_digest(folder / "none")
