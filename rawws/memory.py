"""The bytes that all peers, rooms and requests hold together, and a bound to them.

Each is bounded by itself (a message's size, how far a peer may lag, how much waits for a program, a room's history, a
request's body, an answer that is read slowly); a crowd of them that are all just within their bounds is not. So what
they hold is added up every so often, and when it is too much, some of it is given up until it isn't:

1. the histories of rooms in which nobody is, those first that have been quiet for longest: whoever comes back is told
   of a gap;
2. then whatever is largest: a peer is closed for what waits for it alone or because of it, a room's history is
   forgotten, a request whose body is being received is refused, a connection that reads its answer slowly or is in
   its HTTP phase is cut, and messages that wait for a program after their sender has gone are dropped.

Objects are counted, not payloads: a pong of two bytes in a list of its own takes ninety. The sizes below were measured
with CPython 3.11 on 64 bits. ``tests/test_memory.py`` compares the sum with the memory that the process has in use, for
each way to make a server keep something. The sum is computed on demand, so queueing costs nothing more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import trio

from rawws import logs
from rawws.errors import Cause
from rawws.peer import Inbox, Peer
from rawws.room_state import RoomState
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

# A connection that the loop serves: the peer, its session and transport, the socket, and the last frames it has sent.
PEER_BYTES = 1100
# An object's place in a list, and what the allocator adds to it.
PLACE_BYTES = 24

OPEN = State.OPEN  # a global is found three times as fast as an Enum's member

# Something that can be given up: its size, the method that does it, and the object.
_Claim = tuple[int, Callable[..., int], object]


class Memory:
    """Adds up, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.max_bytes = math.inf
        self.beside: set[Callable[[], int]] = set()  # what others hold for all of them, in bytes
        # Of requests that are being received, and of answers that are being sent, some of which many are sent.
        self._bodies: dict[trio.CancelScope, Callable[[], Iterable[bytes | bytearray]]] = {}
        self._connections: dict[trio.CancelScope, Callable[[], int]] = {}  # in their HTTP phase
        # The peers of these have gone. The program may still hold what it had of them: the WebSocket, the task of its
        # handler, and messages.
        self._orphans: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._told_at = -math.inf
        self._look_at = -math.inf  # not before then

    def limit(self, max_bytes: float) -> None:
        """Set the bound."""
        self.max_bytes = max_bytes
        self._loop.deadlines.look_again()

    def used_bytes(self) -> int:
        """Return what all connections and rooms hold in memory, and what waits for backplanes and programs, in bytes.

        A connection that is being closed counts only for its waiting bytes: the connection itself is about to go.
        """
        used = 0
        # The same object may be queued for many peers, and is counted once.
        shared = {id(piece): sys.getsizeof(piece) for held in self._bodies.values() for piece in held()}
        for peer in self._loop.peers.values():  # written out, since there may be very many
            session, inbox = peer.session, peer.inbox
            used += session.memory_bytes
            if session.state is OPEN:
                used += PEER_BYTES + peer.transport.held_bytes
                if inbox is not None:
                    used += inbox.own_bytes
            if inbox is not None:
                used += inbox.waiting_bytes
            if peer.kept is not None:
                used += _size_of(peer.kept)
            if peer.pieces():
                shared |= {id(piece): sys.getsizeof(piece) + PLACE_BYTES for piece in _unsent(peer)}
        used += sum(shared.values())
        used += sum(room.held_bytes for room in self._rooms())
        used += sum(held() for held in self._connections.values())
        used += sum(map(_orphan_bytes, self._orphans))
        return used + sum(held() for held in self.beside)

    @contextlib.contextmanager
    def counting(self, held: Callable[[], Iterable[bytes | bytearray]]) -> Iterator[trio.CancelScope]:
        """Count a body that is being received or sent, as long as that takes; its scope is cancelled if it must go.

        ``held`` returns the objects that are kept for it.
        """
        with trio.CancelScope() as scope:
            self._bodies[scope] = held
            try:
                yield scope
            finally:
                self._bodies.pop(scope, None)

    @contextlib.contextmanager
    def counting_connection(self, held_bytes: Callable[[], int]) -> Iterator[trio.CancelScope]:
        """Count a connection during its HTTP phase. Its scope is cancelled when its memory is needed."""
        with trio.CancelScope() as scope:
            self._connections[scope] = held_bytes
            try:
                yield scope
            finally:
                self._connections.pop(scope, None)

    def adopt(self, inbox: Inbox) -> None:
        """Count what a program holds of a peer that has gone, as long as it does."""
        if inbox.items or not inbox.is_released:
            self._orphans.add(inbox)

    def release(self, inbox: Inbox) -> None:
        """Count no more than the messages of a connection with which the program is done.

        The WebSocket is part of reference cycles, so that it lives on until Python's garbage collection.
        """
        inbox.is_released = True
        if not inbox.items:
            self._orphans.discard(inbox)

    def _rooms(self) -> set[RoomState]:
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
        reason = f"{used} bytes are held, over the server's limit of {self.max_bytes} (--max-memory)"
        until = math.inf
        for freed_bytes in self._free(reason):
            used -= freed_bytes
            now = time.perf_counter()
            if used <= self.max_bytes or now > until:
                return
            until = min(until, now + CHECK_S)  # from the first on: finding out what is largest takes its time too

    def _free(self, reason: str) -> Iterator[int]:
        """Give up one thing after the other, and yield how many bytes each has freed."""
        rooms = self._rooms()
        deserted = [room for room in rooms if not len(room)]
        for room in sorted(deserted, key=attrgetter("quiet_since")):
            yield self._end_history(room, reason)
        claims: list[_Claim] = []
        claims += [(room.history_bytes, self._end_history, room) for room in rooms if len(room)]
        claims += [(_weight(peer), self._close, peer) for peer in self._loop.peers.values()]
        claims += [(sum(map(sys.getsizeof, held())), self._refuse, scope) for scope, held in self._bodies.items()]
        claims += [(held(), self._cut, scope) for scope, held in self._connections.items()]
        claims += [(inbox.waiting_bytes, self._empty, inbox) for inbox in self._orphans if inbox.items]
        claims.sort(key=itemgetter(0), reverse=True)
        for size, give_up, what in claims:
            if not size:
                return
            yield give_up(what, reason)

    def _end_history(self, room: RoomState, reason: str) -> int:
        now = trio.current_time()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            logs.line(logs.server, logging.WARNING, logs.SERVER, FAULT, f"{reason}; histories of rooms are given up")
        before, aging = room.held_bytes, self._loop.deadlines.aging
        room.end_history()
        if room in aging:
            self._loop.deadlines.expire(room)
        return before - self._still_held(room)

    def _still_held(self, room: RoomState) -> int:
        return room.held_bytes if len(room) or room in self._loop.deadlines.aging else 0

    def _close(self, peer: Peer, reason: str) -> int:
        """Close a peer, and drop what waits for its program. A peer that is being closed already is cut off."""
        weight, waiting = _weight(peer), _waiting_bytes(peer)
        if peer.session.state is not OPEN:
            if not waiting:
                return 0
            why = f"is cut off while it is being closed, since it holds {waiting} bytes: {reason}"
            self._loop.log(peer, FAULT, why, logging.WARNING)
            self._loop.drop(peer, Cause.LIMIT, "cut off, since the server's memory is full")
            if peer.inbox is not None:
                peer.inbox.forget()
            return waiting
        rooms, own = peer.rooms, own_bytes(peer)
        before = sum(room.held_bytes for room in rooms)
        self._loop.log(peer, FAULT, f"is closed, since it holds {weight} bytes: {reason}", logging.WARNING)
        self._loop.close(peer, 1013, "the server's memory is full", Cause.LIMIT, with_the_rest=False)
        if peer.inbox is not None:
            peer.inbox.forget()
        if peer.has_queued and _waiting_bytes(peer) * 2 > weight:  # its socket takes nothing, not even the close
            self._loop.drop(peer, Cause.LIMIT, "cut off, since the server's memory is full")
        return own - _waiting_bytes(peer) + before - sum(map(self._still_held, rooms))

    def _empty(self, inbox: Inbox, reason: str) -> int:
        size = inbox.waiting_bytes
        number = logs.SERVER if inbox.websocket is None else inbox.websocket.id
        why = f"has gone, and {size} bytes that it sent still wait for the program; they are dropped: {reason}"
        logs.line(logs.hub, logging.WARNING, number, FAULT, why)
        inbox.forget()
        return size - inbox.waiting_bytes

    def _cut(self, connection: trio.CancelScope, _: str) -> int:
        connection.cancel()
        return self._connections.pop(connection)()

    def _refuse(self, body: trio.CancelScope, _: str) -> int:
        body.cancel()
        gone = {id(piece): sys.getsizeof(piece) for piece in self._bodies.pop(body)()}
        stays = {id(piece) for held in self._bodies.values() for piece in held()}
        return sum(size for piece, size in gone.items() if piece not in stays)


def own_bytes(peer: Peer) -> int:
    """Return what is held for a peer alone, the connection itself included."""
    own = PEER_BYTES + peer.transport.held_bytes + _waiting_bytes(peer)
    return own if peer.inbox is None else own + peer.inbox.own_bytes


def _waiting_bytes(peer: Peer) -> int:
    """Return what waits: for the peer's socket, for the rest of a message, for the room's slowest, for the program."""
    waiting = peer.session.memory_bytes
    waiting += _size_of(_unsent(peer))
    if peer.kept is not None:
        waiting += _size_of(peer.kept)
    return waiting if peer.inbox is None else waiting + peer.inbox.waiting_bytes


def _unsent(peer: Peer) -> list[bytes | bytearray]:
    """Return the objects that are kept until the peer's socket takes them, each once. A view keeps what it shows."""
    whole: Iterable[Any] = (piece.obj if isinstance(piece, memoryview) else piece for piece in peer.pieces())
    return list({id(piece): piece for piece in whole}.values())


def _size_of(pieces: Sequence[bytes | bytearray]) -> int:
    return sum(map(sys.getsizeof, pieces)) + PLACE_BYTES * len(pieces)


def unsent(peer: Peer) -> int:
    """Return how many bytes wait for a peer's socket: its own, and what it lacks of its rooms."""
    return peer.queued_bytes + sum(room.policy.lag_bytes(lag) for room, lag in peer.lags())


def _orphan_bytes(inbox: Inbox) -> int:
    return inbox.waiting_bytes + (0 if inbox.is_released else PEER_BYTES + inbox.own_bytes)


def _weight(peer: Peer) -> int:
    """Return how much would not have to be held if it weren't for a peer, at most."""
    return own_bytes(peer) + sum(room.policy.lag_cost(lag) for room, lag in peer.lags())
