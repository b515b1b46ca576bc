"""A bounded number of turns, shared fairly among clients, so that no single one can keep all others waiting.

A client may have as many turns under way as are free after it (the "dynamic threshold" of shared buffers in switches,
with a factor of 1). So one client alone has half of them at most, two have a third each, and there is a free one for
a newcomer until there are as many clients as turns. Nobody has to say beforehand how many clients there will be.
"""

from __future__ import annotations

import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator

import trio


class FairTurns:
    """Turns that clients take, and wait for."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[trio.Event]] = OrderedDict()  # the client whose turn comes next is first

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it in the block."""
        if client not in self._waiting and self._may_take(client):
            self._take(client)
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._give_back(client)

    def _may_take(self, client: str) -> bool:
        return self._taken[client] < self._free

    def _take(self, client: str) -> None:
        self._free -= 1
        self._taken[client] += 1

    def _give_back(self, client: str) -> None:
        self._free += 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        while (lucky := next(filter(self._may_take, self._waiting), None)) is not None:
            ticket = self._waiting[lucky].popleft()
            self._waiting.move_to_end(lucky)
            self._forget_if_none_waits(lucky)
            self._take(lucky)
            ticket.set()

    async def _wait(self, client: str) -> None:
        ticket = trio.Event()
        self._waiting.setdefault(client, deque()).append(ticket)
        try:
            await ticket.wait()
        except trio.Cancelled:
            if ticket.is_set():
                self._give_back(client)
            else:
                self._waiting[client].remove(ticket)
                self._forget_if_none_waits(client)
            raise

    def _forget_if_none_waits(self, client: str) -> None:
        if not self._waiting[client]:
            del self._waiting[client]
