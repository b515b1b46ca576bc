"""The place in the source at which an application is at present, for the log."""

from __future__ import annotations

import os
import selectors
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from types import CodeType
from typing import Any

# The thread in which an application's loop of asyncio runs.
THREAD_NAME = "rawws-application"

_ASYNCIO = tuple(os.path.join(sysconfig.get_path(name), "asyncio") + os.sep for name in ("stdlib", "platstdlib"))

_MOST_AWAITED = 1000  # a coroutine that awaits itself would have no end


def place_of_thread(thread: threading.Thread) -> str:
    """Return where a thread is, such as ``/srv/shop.py:12, in report``; empty if it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    last = traceback.extract_stack(frame)[-1]
    return f"{last.filename}:{last.lineno}, in {last.name}"


def place_of_blocked_loop() -> str:
    """Return where the thread of an application's loop is; empty if the loop waits for something, or there is none."""
    for thread in threading.enumerate():
        place = place_of_thread(thread) if thread.name == THREAD_NAME else ""
        if place and not place.startswith((selectors.__file__, *_ASYNCIO)):  # uvloop waits below asyncio's runner
            return place
    return ""


def place_of_coroutine(coroutine: Any) -> str:
    """Return where a coroutine waits: the innermost place outside asyncio. Empty if that isn't known.

    It may be another thread's: what is found may be a moment old.
    """
    place = ""
    for code, line in _awaiting(coroutine):
        if not code.co_filename.startswith(_ASYNCIO):
            place = f"{code.co_filename}:{line}, in {code.co_name}"
    return place


def _awaiting(coroutine: Any) -> Iterator[tuple[CodeType, int]]:
    for _ in range(_MOST_AWAITED):
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno
        coroutine = coroutine.cr_await
