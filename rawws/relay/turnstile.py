"""Connections in their HTTP phase, let through a few at a time.

Each has a task of its own, and trio runs all tasks that are ready before it looks at any socket again. If a hundred
requests arrive together, every peer would wait until all of them are read: 150 ms, for requests made to be slow to
read. So each task passes a turnstile after it has received data. If the turnstile is closed, the task waits in line.
A few tasks are let through at a time, and in between everything else that is ready runs.
"""

from __future__ import annotations

import time

import trio

# The smallest and the largest number that go through at a time.
LEAST, MOST = 4, 16
# The number is halved after a round that takes longer than this. Ordinary requests go through at the largest.
ROUND_S = 0.005


class Turnstile:
    """Lets tasks through a few at a time, for the loop."""

    def __init__(self) -> None:
        self.at_a_time = LEAST
        self._left = LEAST  # the number of tasks that may still go through in this round
        self._line = trio.lowlevel.ParkingLot()
        self._keeper = trio.lowlevel.ParkingLot()  # where `run` waits for a line

    async def pass_through(self) -> None:
        """Wait in line, if others are waiting. Cancelling it has no effect on the others."""
        if self._left > 0 and not self._line:
            self._left -= 1
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._keeper.unpark_all()
        await self._line.park()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Open the turnstile again and again while tasks wait, until cancelled."""
        while True:
            if not self._line:
                await self._keeper.park()
            self._left = max(0, self.at_a_time - len(self._line))
            began = time.thread_time()
            self._line.unpark(count=self.at_a_time)
            # After the first checkpoint all tasks that were let through have run, before this task or after it.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            took_s = time.thread_time() - began
            if took_s > ROUND_S:
                self.at_a_time = max(LEAST, self.at_a_time // 2)
            elif self._line:
                self.at_a_time = min(MOST, self.at_a_time * 2)
