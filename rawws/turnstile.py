"""Connections in their HTTP phase, let through a few at a time.

Each has a task of its own, and trio runs all tasks that are ready before it looks at any socket again. A hundred
requests that arrive together would have every peer wait until all of them are read: 150 ms, if they are made to be
slow to read. So each passes a turnstile with what it has received. Those that find it closed wait in line, and are let
through a few at a time, with everything else that is ready having its turn in between.
"""

from __future__ import annotations

import trio

# So many at a time: 2 ms for ordinary requests, 10 ms for the slowest.
AT_A_TIME = 8


class Turnstile:
    """Lets tasks through, for the loop."""

    def __init__(self) -> None:
        self._left = AT_A_TIME  # that may go through before the others have had their turn
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
            self._left = max(0, AT_A_TIME - len(self._line))
            self._line.unpark(count=AT_A_TIME)
            await trio.lowlevel.checkpoint()
