"""The times at which a group has to look at its jobs, sans-IO.

The jobs that go out together are due together, so a time is kept once for all jobs that have it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable


class Timers:
    """Jobs by the time when they are due. A timer that has become meaningless is for the owner to pass over."""

    __slots__ = ("_numbers", "_times", "count")

    def __init__(self) -> None:
        self._times: list[float] = []  # a heap
        self._numbers: dict[float, list[int]] = {}  # the jobs of each time
        self.count = 0  # of jobs, each as often as it was set

    @property
    def next_due(self) -> float:
        """The first time; infinity if there is none."""
        return self._times[0] if self._times else math.inf

    def set(self, due: float, number: int) -> None:
        """Have a job be due at a time."""
        numbers = self._numbers.get(due)
        if numbers is None:
            numbers = self._numbers[due] = []
            heapq.heappush(self._times, due)
        numbers.append(number)
        self.count += 1

    def take(self, now: float) -> list[tuple[float, int]]:
        """Return the times that have come, with their jobs in order, and forget them."""
        taken: list[tuple[float, int]] = []
        while self._times and self._times[0] <= now:
            due = heapq.heappop(self._times)
            taken += ((due, number) for number in sorted(self._numbers.pop(due)))
        self.count -= len(taken)
        return taken

    def replace(self, timers: Iterable[tuple[float, int]]) -> None:
        """Have these times and jobs, and no others."""
        self._times.clear()
        self._numbers.clear()
        self.count = 0
        for due, number in timers:
            self.set(due, number)
