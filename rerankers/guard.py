"""Processes that do not outlive the one that started them, however it ends."""

import subprocess
import sys
from collections.abc import Sequence

# Kills processes when its input closes: when whoever started it is gone, for whatever reason.
GUARD = """
import os, signal, sys
sys.stdin.read()
for process in sys.argv[1:]:
    try:
        os.kill(int(process), signal.SIGKILL)
    except ProcessLookupError:
        pass
"""


def guard(processes: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start a process that kills those with these ids when this one is gone; Ctrl-C is not for it."""
    command = [sys.executable, "-I", "-S", "-c", GUARD, *map(str, processes)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603 - the program is ours
