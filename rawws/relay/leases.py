"""Leases: peers whose connection ends at a time that is known when it begins.

Most peers have none, and cost nothing here. Many may end together, such as all users that have logged in at a full
hour: they are closed a few at a time, so that all other peers are served meanwhile.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import trio

from rawws.relay.peer import Peer

# At most this many connections end at a time, and then others are served: ten thousand take three to four seconds. An
# end costs 25 µs, and 100 more when the client answers (measured). With fifty in a row, the answers of all of them came
# together, and a message of others waited for 6 ms longer: see ``python -m benchmarks expiry``.
ENDS_AT_ONCE = 10
PAUSE_S = 0.002

# Ended connections are only removed when there are more than twice as many leases as peers, and this many besides.
_SPARE = 64


class LeaseEnd(NamedTuple):
    """The close that a connection ends with."""

    code: int
    reason: str


EXPIRED = LeaseEnd(4401, "the token has expired")
# By a change of what the connection was let in for, before the end of its time.
WITHDRAWN = LeaseEnd(4401, "the token has been withdrawn")
NO_READER_NOW = LeaseEnd(1008, "this client may no longer read in this room")
LIFETIME = LeaseEnd(1012, "the longest time for a connection is over; connect again")


class _Lease(NamedTuple):
    ends_at: float
    number: int  # decides between two that end together, and identifies the peer
    fd: int
    end: LeaseEnd


class Leases:
    """The leases of a loop's peers, the first to end first."""

    def __init__(self, peers: Mapping[int, Peer], close: Callable[[Peer, int, str], None]) -> None:
        """``peers`` are the loop's, by descriptor. ``close`` is called at the end of a lease."""
        self._peers = peers
        self._close = close
        self._heap: list[_Lease] = []
        self._earlier = trio.Event()  # set when a lease is added that ends before all others

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, peer: Peer, ends_at: float, end: LeaseEnd) -> None:
        """End a peer's connection at a time. A peer may have several leases; the first to end counts."""
        if len(self._heap) > 2 * len(self._peers) + _SPARE:
            self._heap = [lease for lease in self._heap if self._find(lease) is not None]
            heapq.heapify(self._heap)
        lease = _Lease(ends_at, peer.number, peer.transport.fileno(), end)
        heapq.heappush(self._heap, lease)
        if self._heap[0] is lease:
            self._earlier.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """End connections as their leases end, until cancelled."""
        while True:
            self._earlier = trio.Event()
            with trio.move_on_at(self._heap[0].ends_at if self._heap else math.inf):
                await self._earlier.wait()
                continue
            self._end_some(trio.current_time())
            await trio.sleep(PAUSE_S)

    def _end_some(self, now: float) -> None:
        left = ENDS_AT_ONCE
        while left and self._heap and self._heap[0].ends_at <= now:
            lease = heapq.heappop(self._heap)
            peer = self._find(lease)
            if peer is not None:
                self._close(peer, *lease.end)
                left -= 1

    def _find(self, lease: _Lease) -> Peer | None:
        """Return the peer of a lease, if it is still there: its descriptor may be that of another connection now."""
        peer = self._peers.get(lease.fd)
        return peer if peer is not None and peer.number == lease.number else None
