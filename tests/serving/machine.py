"""The machine that the tests run on: its address, what it lacks, and its pace."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
import trio

LOOPBACK = "127.0.0.1"

# No test needs a tenth of it on an idle machine. It ends a test that hangs, and is long enough for a machine that is
# slower, whose cores are busy with other programs, or whose disk takes a tenth of a second to sync.
PATIENCE_S = 120.0

# Until a token ends that is not to end during a run. Some are made when their test module is imported.
FOR_THIS_RUN_S = 86_400.0


def pace() -> float:
    """Return how many times longer something takes than on an idle machine: the programs per core that want to run."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1.0, os.getloadavg()[0] / cores)


def need(present: object, what: str) -> None:
    """Skip the test if a program that it needs is missing; fail it where everything has to be installed."""
    if present:
        return
    reason = f"{what} is not installed"
    if os.environ.get("RAWWS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and RAWWS_REQUIRE_ALL=1 wants every test run")
    pytest.skip(reason)


async def watch_the_clock(over: threading.Event, patience_s: float) -> None:
    """Fail the test if it takes too long by the wall clock, which a mock clock doesn't stop.

    A machine that has become busy since the test began gets more time.
    """
    began = time.monotonic()
    while (left_s := began + patience_s * pace() - time.monotonic()) > 0:
        if await trio.to_thread.run_sync(over.wait, left_s, abandon_on_cancel=True):
            return
    raise AssertionError(f"the test hangs: it is not over after {time.monotonic() - began:.0f} s")
