"""The bytes that all peers, rooms and requests hold together, and a bound to them.

Each is bounded by itself (a message's size, how far a peer may lag, how much waits for a program, a room's history, a
request's body, an answer that is read slowly); a crowd of them that are all just within their bounds is not. So what
they hold is added up every so often, and when it is too much, some of it is given up until it isn't:

1. the histories of rooms in which nobody is, those first that have been quiet for longest: whoever comes back is told
   of a gap;
2. then whatever is largest: a peer is closed for what waits for it alone or because of it, a room's history is
   forgotten, a request is refused whose body is being received, a connection is cut that reads its answer slowly.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

import trio

from rawws import logs
from rawws.errors import Cause
from rawws.peer import Peer
from rawws.room import Room
from rawws.wire.session import State
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.loop import Loop

# Looked at so often where there is a bound.
MEMORY_TICK_S = 0.1
# Less often where there is much to look at: adding up is to take so much of the time at most.
MOST_OF_THE_TIME = 0.02
# Things are given up for so long at most, since nobody is served meanwhile: of ten thousand that hold a little, the
# rest go next time.
CHECK_S = 0.02
# That histories are given up is told this often at most.
TOLD_EVERY_S = 60.0

# Of a message that waits for a program, beside its payload: the tuple, the head of the bytes, its place in the queue.
WAITING_BYTES = 120


class Memory:
    """Adds up, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.max_bytes = math.inf
        self.beside: set[Callable[[], int]] = set()  # what others hold for all of them, in bytes
        # Of requests that are being received, and of answers that are being sent, some of which many are sent.
        self._bodies: dict[trio.CancelScope, bytes | bytearray] = {}
        self._told_at = -math.inf
        self._look_at = -math.inf  # not before then

    def limit(self, max_bytes: float) -> None:
        """Set the bound."""
        self.max_bytes = max_bytes
        self._loop.deadlines.look_again()

    def used_bytes(self) -> int:
        """Return what logs, outboxes, inboxes, backplanes, and messages and bodies that are not whole hold, in bytes.

        What is held for those who are being closed is not counted: it goes with them.
        """
        stay = [peer for peer in self._loop.peers.values() if peer.session.state is State.OPEN]
        bodies = {id(body): len(body) for body in self._bodies.values()}
        logs_bytes = sum(room.held_bytes for room in self._rooms())
        beside_bytes = sum(held() for held in self.beside)
        return logs_bytes + sum(map(own_bytes, stay)) + sum(bodies.values()) + beside_bytes

    @contextlib.contextmanager
    def counting(self, body: bytes | bytearray) -> Iterator[trio.CancelScope]:
        """Count a body that is being received or sent, as long as that takes; its scope is cancelled if it must go."""
        with trio.CancelScope() as scope:
            self._bodies[scope] = body
            try:
                yield scope
            finally:
                self._bodies.pop(scope, None)

    def _rooms(self) -> set[Room]:
        """Return the rooms that somebody is in, or that keep something for who comes later."""
        return {*self._loop.deadlines.aging, *(room for peer in self._loop.peers.values() for room in peer.rooms)}

    def check(self) -> None:
        """Give up what is needed least, as long as it is too much."""
        began = time.perf_counter()
        if self.max_bytes == math.inf or began < self._look_at:
            return
        used = self.used_bytes()
        took_s = time.perf_counter() - began
        self._look_at = began + took_s / MOST_OF_THE_TIME
        if used <= self.max_bytes:
            return
        told = f"{used} bytes are held, over the server's limit of {self.max_bytes} (--max-memory)"
        until = math.inf
        for freed_bytes in self._free(told):
            used -= freed_bytes
            now = time.perf_counter()
            if used <= self.max_bytes or now > until:
                return
            until = min(until, now + CHECK_S)  # from the first on: finding out what is largest takes its time too

    def _free(self, told: str) -> Iterator[int]:
        """Give up one thing after the other, and yield how many bytes each has freed."""
        rooms = self._rooms()
        deserted = [room for room in rooms if not len(room)]
        for room in sorted(deserted, key=attrgetter("quiet_since")):
            yield self._end_history(room, told)
        claims: list[tuple[int, Callable[..., int], Room | Peer | trio.CancelScope]] = []
        claims += [(room.history_bytes, self._end_history, room) for room in rooms if len(room)]
        claims += [(_weight(peer), self._close, peer) for peer in self._loop.peers.values()]
        claims += [(len(body), self._refuse, scope) for scope, body in self._bodies.items()]
        claims.sort(key=itemgetter(0), reverse=True)
        for size, give_up, what in claims:
            if not size:
                return
            yield give_up(what, told)

    def _end_history(self, room: Room, told: str) -> int:
        now = trio.current_time()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            logs.line(logs.server, logging.WARNING, logs.SERVER, FAULT, f"{told}; histories of rooms are given up")
        before, aging = room.held_bytes, self._loop.deadlines.aging
        room.end_history()
        if room in aging:
            self._loop.deadlines.expire(room)
        return before - (room.held_bytes if room in aging or len(room) else 0)

    def _close(self, peer: Peer, told: str) -> int:
        if peer.session.state is not State.OPEN:
            return 0
        rooms, own = peer.rooms, own_bytes(peer)
        before = sum(room.held_bytes for room in rooms)
        why = f"is closed, since it holds {_weight(peer)} bytes: {told}"
        self._loop.log(peer, FAULT, why, logging.WARNING)
        self._loop.close(peer, 1013, "the server's memory is full", Cause.LIMIT, with_the_rest=False)
        return own + before - sum(room.held_bytes for room in rooms)

    def _refuse(self, body: trio.CancelScope, _: str) -> int:
        body.cancel()
        gone = self._bodies.pop(body)
        return 0 if any(other is gone for other in self._bodies.values()) else len(gone)


def own_bytes(peer: Peer) -> int:
    """Return what is held for a peer alone."""
    inbox = peer.inbox
    waiting = 0 if inbox is None else sum(len(item.payload) + WAITING_BYTES for item in inbox.items)
    kept = 0 if peer.kept is None else sum(map(len, peer.kept))
    return peer.outbox_bytes + peer.session.held_bytes + peer.transport.held_bytes + waiting + kept


def unsent(peer: Peer) -> int:
    """Return how many bytes wait for a peer's socket: its own, and what it lacks of its rooms."""
    if peer.cursors is None:
        return peer.outbox_bytes
    rooms = [(room, cursor) for room, cursor in peer.cursors.items() if not room.conflates]
    return peer.outbox_bytes + sum(room.log.lag_bytes(cursor, peer.form) for room, cursor in rooms)


def _weight(peer: Peer) -> int:
    """Return how much would not have to be held if it weren't for a peer, at most."""
    if peer.cursors is None:
        return own_bytes(peer)
    rooms = [(room, cursor) for room, cursor in peer.cursors.items() if not room.conflates]
    return own_bytes(peer) + sum(room.log.lag_cost(cursor, peer.form) for room, cursor in rooms)
