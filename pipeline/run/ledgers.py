"""What can be done with a ledger besides running on it: copy it compactly, describe it, check it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...rerankers.errors import InputError
from ...rerankers.ledger import Ledger
from ...rerankers.types import plus
from ..io.files import reason, replacing


@dataclass(frozen=True)
class Info:
    """A ledger in numbers."""

    models: list[Mapping[str, object]]
    """The identities of the models that answered."""
    answers: int
    queries: int
    """Queries whose asks were the first to be answered; an equal ask of another query shares the answer."""
    texts: int
    """Answers that are generated text; the others are log-probabilities."""
    prompt_tokens: int | None
    """Tokens of all prompts; null where no tokenizer counted them."""
    completion_tokens: int | None
    bytes: int
    content: str
    """The SHA-256 of the content: that of its JSON lines."""


def export(source: Path, target: Path) -> int:
    """Copy a ledger to a JSON-lines or a compact SQLite file, by the target's suffix; return the number of answers.

    Both are ordered by key. The same content gives the same bytes of JSON lines, whose SHA-256 is the content hash;
    the SQLite file can be replayed. Raises `InputError` for another suffix, and where either file cannot be used.
    """
    if target.suffix not in (".jsonl", ".sqlite"):
        raise InputError(f"{target}: a ledger is exported to a file that ends in .jsonl or .sqlite")
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the ledger itself; export it to another file")
    with closing(_open(source)) as ledger:
        if target.suffix == ".jsonl":
            with replacing(target) as stream:
                stream.writelines(ledger.lines())
        else:
            _copy(ledger, target)
        return len(ledger)


def info(path: Path) -> Info:
    """Describe a ledger. Raises `InputError` where it is none, or damaged."""
    queries: set[str] = set()
    texts = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    with closing(_open(path)) as ledger:
        for _, query_id, reply in ledger.rows():
            queries.add(query_id)
            texts += reply.text is not None
            prompt_tokens = plus(prompt_tokens, reply.prompt_tokens)
            completion_tokens = plus(completion_tokens, reply.completion_tokens)
        return Info(
            models=ledger.models(),
            answers=len(ledger),
            queries=len(queries),
            texts=texts,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            bytes=path.stat().st_size,
            content=ledger.digest(),
        )


def faults(path: Path) -> list[str]:
    """What is wrong with a ledger: SQLite's own findings, and the first row that cannot be read; empty if all is well.

    Raises `InputError` where there is no such file.
    """
    _check_is_there(path)
    try:
        with closing(_open(path)) as ledger:
            found = ledger.faults()
            if not found:
                ledger.models()
                for _ in ledger.rows():  # each can be read
                    pass
            return found
    except InputError as error:
        return [str(error)]


def _open(path: Path) -> Ledger:
    _check_is_there(path)
    return Ledger(path, read_only=True)


def _check_is_there(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"ledger {path}: there is no such file; a run's is ledger.sqlite in its folder")


def _copy(ledger: Ledger, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        ledger.copy_to(temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written: {reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)
