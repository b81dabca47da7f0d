"""Ledgers by themselves: copied compactly, described, checked."""

from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

from ...rerankers.errors import InputError
from ...rerankers.ledger import Ledger
from ...rerankers.types import plus
from ..io.files import replacement, replacing


def export(source: Path, target: Path) -> int:
    """Copy a ledger, ordered by key, to a .jsonl or a compact .sqlite file; return the number of answers.

    The same content gives the same JSON lines, whose SHA-256 is the content hash; the SQLite file can be replayed.
    Raises `InputError` for another suffix, and if either file cannot be used.
    """
    if target.suffix not in (".jsonl", ".sqlite"):
        raise InputError(f"{target}: a ledger is exported to a file that ends in .jsonl or .sqlite")
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the ledger itself; export it to another file")
    with _open(source) as ledger:
        if target.suffix == ".jsonl":
            with replacing(target) as stream:
                stream.writelines(ledger.lines())
        else:
            with replacement(target) as temporary:
                ledger.copy_to(temporary)
        return len(ledger)


def info(path: Path) -> dict[str, Any]:
    """Return a ledger in numbers as JSON: `queries` whose asks came first, `texts` generated, tokens if counted.

    Raises `InputError` if it is none, or damaged.
    """
    with _open(path) as ledger:
        queries = set[str]()
        sums: dict[str, int | None] = {"texts": 0, "prompt_tokens": 0, "completion_tokens": 0}
        for _, query, reply in ledger.rows():
            queries.add(query)
            counts = (int(reply.text is not None), reply.prompt_tokens, reply.completion_tokens)
            sums = {name: plus(sums[name], count) for name, count in zip(sums, counts, strict=True)}
        facts = {"models": ledger.models(), "answers": len(ledger), "queries": len(queries), **sums}
        return {**facts, "bytes": path.stat().st_size, "content": ledger.digest()}


def faults(path: Path) -> list[str]:
    """Return what is wrong with a ledger: SQLite's findings, or the first row that cannot be read; none if it is sound.

    Raises `InputError` if there is no such file.
    """
    try:
        with _open(path) as ledger:
            faults = ledger.faults()
            if not faults:
                ledger.models()
                deque(ledger.rows(), maxlen=0)
            return faults
    except InputError as error:
        if not path.is_file():
            raise
        return [str(error)]


def _open(path: Path) -> closing[Ledger]:
    if not path.is_file():
        raise InputError(f"ledger {path}: there is no such file; a run's is ledger.sqlite in its folder")
    return closing(Ledger(path, read_only=True))
