"""The freed memory that a process returns to the system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rawws.process.malloc import HeapTrimmer
from tests.serving.machine import PATIENCE_S, need

# Messages of all sizes are made and freed, but for a few. The last one stays, so the end of the heap is in use.
BUSY_HOUR = """
import os
from pathlib import Path
from rawws.process.malloc import HeapTrimmer, raise_trim_threshold

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

raise_trim_threshold()
freed = HeapTrimmer()
before = resident_bytes()
messages = [os.urandom(1000 + number % 9000) for number in range(20_000)]
kept = messages[::500] + messages[-1:]
del messages
held = resident_bytes() - before
was_trimmed = freed.trim()
print(held >> 20, was_trimmed, resident_bytes() - before >> 20, flush=True)
"""


def test_freed_memory_is_returned_to_the_system() -> None:
    need(Path("/proc/self/statm").exists(), "/proc")
    need(HeapTrimmer()._trim is not None, "malloc_trim of glibc")
    done = subprocess.run(
        [sys.executable, "-c", BUSY_HOUR], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    held, was_trimmed, left = done.stdout.split()
    assert int(held) > 80, "nothing is shown by this any more: it is given back anyway"
    assert was_trimmed == "True"
    assert int(left) < 16


def test_a_small_amount_of_free_memory_is_kept() -> None:
    script = "from rawws.process.malloc import HeapTrimmer; print(HeapTrimmer().trim())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "False\n"
