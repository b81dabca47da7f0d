"""Studies of rankers and their answers: abstention, a model as judge, attacks."""

import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ...rerankers.errors import StoppedError
from ...rerankers.ledger import Ledger
from ..compare.statistics import Interval


def ends(interval: Interval) -> list[float] | None:
    """Return an interval as JSON has it, or None if a single value gives none."""
    return None if math.isnan(interval.low) else [interval.low, interval.high]


@contextmanager
def answers(path: Path) -> Iterator[Ledger]:
    """Open the ledger that a study's answers are kept in; on Ctrl-C, say what it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(Ledger(path)) as ledger:
        try:
            yield ledger
        except KeyboardInterrupt:
            kept = f"{len(ledger):,} answers are kept in {path}"
            raise StoppedError(f"stopped; {kept}; the same command again goes on") from None
