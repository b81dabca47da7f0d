"""The executions of a run: one that was killed and run again has several."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ...rerankers.types import plus


class Execution(BaseModel):
    """One execution, its times in UTC.

    One that was cut off ended with the last answer it wrote to the ledger, and took the whole seconds until then; its
    calls are the answers that it left there, None if it had a shared ledger, whose answers lie there too.
    """

    model_config = ConfigDict(extra="allow")

    status: str
    """`running`, `finished` or `interrupted`."""

    started: str
    ended: str | None = None
    calls: int | None = None
    answers_before: int = 0
    """The answers in the ledger when it began."""

    shared_ledger: bool = False
    seconds: float | None = None
    """The seconds of ranking."""

    joules: dict[str, float | None] = {}
    """The energy of ranking by device, None if not measurable; empty if nothing tracked it."""

    @classmethod
    def begin(cls, answers: int = 0, *, shared: bool = False) -> Execution:
        """Return the execution that begins now."""
        sharing = {"shared_ledger": True} if shared else {}
        return cls(status="running", started=now(), ended=None, calls=None, answers_before=answers, **sharing)

    def finish(self, calls: int, seconds: float | None = None, joules: dict[str, float | None] | None = None) -> None:
        """Note that it is done, the model's answers in it, and the seconds and joules of ranking."""
        self.status, self.ended, self.calls, self.seconds = "finished", now(), calls, seconds
        if joules:
            self.joules = joules

    def closed(self, answers: int, last_answer: str | None) -> Execution:
        """Return what is known of an earlier execution: one still `running` was cut off, for the lock is ours."""
        if self.status != "running":
            return self
        added = answers - self.answers_before
        ended, seconds = last_answer if added else None, None
        if ended:
            began, end = map(datetime.datetime.fromisoformat, (self.started, ended))
            seconds = max((end - began).total_seconds(), 0.0)
        calls = None if self.shared_ledger else added
        return self.model_copy(update={"status": "interrupted", "calls": calls, "ended": ended, "seconds": seconds})


def seconds(executions: Iterable[Execution]) -> float | None:
    """Return the seconds of ranking in all executions that asked anything, else in the last; None if unknown."""
    return reduce(plus, [execution.seconds for execution in _asking(executions)])


def joules(executions: Iterable[Execution]) -> dict[str, float | None]:
    """Return the energy of the same executions by device, None if unknown of one; {} if it was tracked in none."""
    asking = _asking(executions)
    devices = dict.fromkeys(device for execution in asking for device in execution.joules)
    return {device: reduce(plus, [execution.joules.get(device) for execution in asking]) for device in devices}


def _asking(executions: Iterable[Execution]) -> list[Execution]:
    *earlier, last = executions
    return [execution for execution in (*earlier, last) if execution.calls != 0] or [last]


def now() -> str:
    """Return the time in UTC, to the second."""
    return _written(datetime.datetime.now(datetime.UTC))


def last_change(ledger: Path) -> str | None:
    """Return the last time a closed ledger was written to, its write-ahead log included; None if there is none."""
    files = [path for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()]
    times = [path.stat().st_mtime for path in files]
    return _written(datetime.datetime.fromtimestamp(max(times), datetime.UTC)) if times else None


def _written(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")
