"""Connections in their HTTP phase, let through a few at a time.

Each has a task of its own, and trio runs all tasks that are ready before it looks at any socket again. A hundred
requests that arrive together would have every peer wait until all of them are read: 150 ms, if they are made to be
slow to read. So each passes a turnstile with what it has received. Those that find it closed wait in line, and are let
through a few at a time, with everything else that is ready having its turn in between.
"""

from __future__ import annotations

import time

import trio

# So many go through at a time at least, and at most.
LEAST, MOST = 4, 16
# How many, depends on the time that the last ones took: of ordinary requests it is the most.
ROUND_S = 0.005


class Turnstile:
    """Lets tasks through, for the loop."""

    def __init__(self) -> None:
        self.at_a_time = LEAST
        self._left = LEAST  # that may go through before the others have had their turn
        self._line = trio.lowlevel.ParkingLot()
        self._keeper = trio.lowlevel.ParkingLot()  # where `run` waits for a line

    async def pass_through(self) -> None:
        """Wait for one's turn, if others are before. Cancelled, nothing has happened."""
        if self._left > 0 and not self._line:
            self._left -= 1
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._keeper.unpark_all()
        await self._line.park()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Open it again and again, while somebody waits, until cancelled."""
        while True:
            if not self._line:
                await self._keeper.park()
            self._left = max(0, self.at_a_time - len(self._line))
            began = time.thread_time()
            self._line.unpark(count=self.at_a_time)
            # In the first round those who were let through have had their turn, before this task or after it.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            took_s = time.thread_time() - began
            if took_s > ROUND_S:
                self.at_a_time = max(LEAST, self.at_a_time // 2)
            elif self._line:
                self.at_a_time = min(MOST, self.at_a_time * 2)
