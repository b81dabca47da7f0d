"""The energy of ranking in joules, by tirex-tracker, the extra `energy`.

Version 0.2.24 reads the counters `core-0` and `dram-0` of RAPL and that of the first NVIDIA GPU: what else runs on them
meanwhile is counted too, and nothing of other sockets, other GPUs and servers elsewhere. It has a process of its own,
which this file is: it takes signals, logs and calls drivers, and none of that may disturb a run.
"""

import faulthandler
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

DEVICES = ("cpu", "ram", "gpu")

BEGUN = "begun"

PATIENCE = 30
"""Seconds that the tracker may take to begin, and to end."""


@contextmanager
def tracking() -> Iterator[dict[str, float | None]]:
    """Yield what has each device's joules afterwards, None if not measurable; it stays empty without tirex-tracker."""
    joules: dict[str, float | None] = {}
    if find_spec("tirex_tracker") is None:
        yield joules
        return
    command, pipe = [sys.executable, "-P", __file__], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as tracker:  # noqa: S603
        any(line == f"{BEGUN}\n" for line in tracker.stdout or ())
        yield joules
        said, _ = tracker.communicate()
    joules |= dict.fromkeys(DEVICES)
    with suppress(ValueError, IndexError):
        joules |= json.loads(said.splitlines()[-1])


def _track() -> None:
    """Track until stdin ends, and write the joules on stdout."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    from tirex_tracker import Measure, tracking

    measures = {device: Measure[f"{device.upper()}_ENERGY_SYSTEM_JOULES"] for device in DEVICES}
    with tracking(measures.values()) as tracked:
        faulthandler.cancel_dump_traceback_later()
        sys.stdout.write(f"{BEGUN}\n")
        sys.stdout.flush()
        sys.stdin.read()
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
    # A counter that stands still is none.
    joules = {device: float(json.loads(tracked[measure].value) or 0) or None for device, measure in measures.items()}
    sys.stdout.write(f"{json.dumps(joules)}\n")


if __name__ == "__main__":
    _track()
