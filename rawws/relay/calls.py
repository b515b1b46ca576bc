"""Calls into the program that wait until the turn is over.

A connection may end in the midst of a broadcast, or while another one is closed. A program that were told there and
then could close more connections, publish, and so get into work that is half done. So it is told afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

# At most this many calls are made in a row. Then other tasks run: ten thousand connections may end together.
CALLS_AT_ONCE = 100


class Calls:
    """The calls that wait, the oldest first."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` is called when there is a first call, so that `make_some` is called soon."""
        self._wake = wake
        self._waiting: deque[Callable[[], None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, call: Callable[[], None]) -> None:
        """Make a call soon. It must not raise."""
        self._waiting.append(call)
        if len(self._waiting) == 1:
            self._wake()

    def make_some(self) -> None:
        """Make the first calls, at most `CALLS_AT_ONCE`."""
        for _ in range(min(CALLS_AT_ONCE, len(self._waiting))):
            self._waiting.popleft()()

    def make_all(self) -> None:
        """Make all calls, and those that they lead to: nothing else will be done."""
        while self._waiting:
            self._waiting.popleft()()
