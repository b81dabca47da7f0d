"""Memory that was freed is taken again without asking the system for it."""

import os
import platform
import subprocess
import sys

import pytest

COMMAND = """
import resource, torch
from r2llm.rerankers.backends.models.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        parts = [torch.ones(1_000_000) for _ in range(30)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
once = faults()
keep_freed_memory()
faults()
print(once, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept() -> None:
    # By itself glibc hands back what it sees fit; told so, every block of this size or more.
    told = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)}
    shown = subprocess.run([sys.executable, "-c", COMMAND], env=told, capture_output=True, text=True, check=True).stdout
    handed_back, kept = map(int, shown.split())
    assert kept < handed_back / 100
