"""The executions of a run: one that was killed and run again tells of each."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...rerankers.types import plus


class Executions:
    """All earlier executions of a run, and the one that begins now.

    Each has `status` (running, finished, interrupted), `started` and `ended` in UTC, `calls`, the `seconds` of ranking,
    and `answers_before`, the answers in the ledger when it began. One that was cut off ended with the last answer it
    wrote to the ledger, and took the whole seconds until then; its calls are the answers that it left there, null where
    it had a `shared_ledger`, whose answers lie there too.
    """

    def __init__(
        self, earlier: Sequence[Mapping[str, Any]], answers: int, last_answer: str | None, *, shared: bool = False
    ) -> None:
        self._earlier = [_closed(execution, answers, last_answer) for execution in earlier]
        self._current: dict[str, Any] = {
            "status": "running",
            "started": now(),
            "ended": None,
            "calls": None,
            "answers_before": answers,
        }
        if shared:
            self._current["shared_ledger"] = True

    def finish(self, calls: int, seconds: float | None = None) -> None:
        """Note that this execution is done, how many asks the model really answered, and how long ranking took."""
        self._current |= {"status": "finished", "ended": now(), "calls": calls, "seconds": seconds}

    @property
    def seconds(self) -> float | None:
        """How long ranking took in all executions that asked anything; None where that of one is not known."""
        asking = [execution for execution in self.listed() if execution["calls"] != 0] or [self._current]
        total: float | None = 0.0
        for execution in asking:
            total = plus(total, execution.get("seconds"))
        return total

    def listed(self) -> list[dict[str, Any]]:
        """All executions, this one last."""
        return [*self._earlier, dict(self._current)]


def now() -> str:
    """The time in UTC, to the second."""
    return _written(datetime.datetime.now(datetime.UTC))


def _closed(execution: Mapping[str, Any], answers: int, last_answer: str | None) -> dict[str, Any]:
    """An earlier execution: the folder's lock is ours, so one that seems to be running was cut off."""
    if execution["status"] != "running":
        return dict(execution)
    added = answers - execution["answers_before"]
    calls = None if execution.get("shared_ledger") else added
    ended = last_answer if added else None
    seconds = None
    if ended is not None:
        began, end = map(datetime.datetime.fromisoformat, (execution["started"], ended))
        seconds = max((end - began).total_seconds(), 0.0)
    return {**execution, "status": "interrupted", "ended": ended, "calls": calls, "seconds": seconds}


def last_change(ledger: Path) -> str | None:
    """When a ledger that is not open was last written to, its write-ahead log included; None where there is none."""
    files = [path for path in (ledger, ledger.with_name(f"{ledger.name}-wal")) if path.exists()]
    times = [path.stat().st_mtime for path in files]
    return _written(datetime.datetime.fromtimestamp(max(times), datetime.UTC)) if times else None


def _written(time: datetime.datetime) -> str:
    return time.isoformat(timespec="seconds")
