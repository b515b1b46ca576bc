"""Calls that one thread has another one make, with one wakeup for all that are handed over together.

Waking another thread's event loop takes a system call there and one here, and a switch of threads. It costs more than
the calls themselves, so it happens once for each batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Handover:
    """A queue of calls from one thread to another.

    One thread calls `post`. The other one makes the calls, in their order, when its event loop runs what ``wake`` was
    given. A call must not raise.
    """

    def __init__(self, wake: Callable[[Callable[[], None]], object]) -> None:
        """``wake`` has the other thread call a function soon; it is called in the thread that posts."""
        self._wake = wake
        self._calls: deque[Callable[[], object]] = deque()
        self._is_awake = False  # whether the other thread is about to look

    def post(self, call: Callable[[], object]) -> None:
        """Have the other thread make a call soon."""
        self._calls.append(call)
        if not self._is_awake:
            self._is_awake = True
            self._wake(self._make_calls)

    def _make_calls(self) -> None:
        # In this order: a call that is posted from here on wakes this thread again.
        self._is_awake = False
        for _ in range(len(self._calls)):
            self._calls.popleft()()
