"""The memory that all peers, rooms and requests hold together, and a bound to it.

Each is bounded by itself (a message's size, how far a peer may lag, how much waits for a program, a room's history, a
request's body, an answer that is read slowly); a crowd of them that are all just within their bounds is not. So their
memory is added up every so often. While it is too much, the loop gives up:

1. the histories of rooms in which nobody is, those first that have been quiet for longest: a client that comes back is
   sent a gap;
2. then whatever is largest: a peer is closed for what waits for it alone or because of it, a room's history is
   forgotten, a request whose body is being received is refused, a connection that reads its answer slowly or is in
   its HTTP phase is cut, and messages that wait for a program after their sender has gone are dropped.

`Memory` decides and does nothing itself: it yields actions for the loop, and measures what each of them has freed.

Objects are counted, not payloads: a pong of two bytes in a list of its own takes ninety. The sizes below were measured
with CPython 3.11 on 64 bits. ``tests/relay/test_memory.py`` compares the sum with the memory that the process has in
use, for each way to make a server keep something. The sum is computed on demand, so queueing costs nothing more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any

import trio

from rawws import logs
from rawws.errors import Cause
from rawws.relay.actions import Action, Cancel, Close, Drop, EndHistory, ForgetMessages
from rawws.relay.peer import Inbox, Peer
from rawws.relay.room_state import RoomState
from rawws.wire.session import State
from rawws.wire.trace import FAULT

# Adding up takes at most this share of the time: where there is much to add up, it is done less often than each tick.
MAX_TIME_SHARE = 0.02
# Things are given up for at most this long at a time, since nobody is served meanwhile. With ten thousand that hold a
# little each, the rest goes next time.
CHECK_S = 0.02
# The least time between two log lines about histories.
LOG_INTERVAL_S = 60.0

# A connection that the loop serves: the peer, its session and transport, the socket, and the last frames it has sent.
PEER_BYTES = 1100
# An object's place in a list, and what the allocator adds to it.
PLACE_BYTES = 24

OPEN = State.OPEN  # a global is found three times as fast as an Enum's member

FULL = "the server's memory is full"
CUT_OFF = "cut off, since the server's memory is full"

# Yields what the loop is to do, one action after the other, and returns how many bytes that has freed.
_Actions = Generator[Action, None, int]
# Something that can be given up: its size, the method that does it, and the object.
_Claim = tuple[int, Callable[..., _Actions], object]


class Memory:
    """Adds up what a loop's peers, rooms and requests hold."""

    def __init__(self, peers: Mapping[int, Peer], aging: Collection[RoomState]) -> None:
        """``peers`` are the loop's, ``aging`` the rooms that keep something: others change both, and they are read."""
        self._peers = peers
        self._aging = aging
        self.max_bytes = math.inf
        self.extra_usage: set[Callable[[], int]] = set()  # each returns the bytes that something else holds for all
        # Of requests that are being received, and of answers that are being sent, some of which many are sent.
        self._bodies: dict[trio.CancelScope, Callable[[], Iterable[bytes | bytearray]]] = {}
        self._connections: dict[trio.CancelScope, Callable[[], int]] = {}  # in their HTTP phase
        # The inboxes of peers that have gone. The program may still hold what it had of them: the WebSocket, the task
        # of its handler, and messages.
        self._orphans: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._logged_at = -math.inf
        self._next_check_at = -math.inf

    def used_bytes(self) -> int:
        """Return what all connections and rooms hold in memory, and what waits for backplanes and programs, in bytes.

        A connection that is being closed counts only for its waiting bytes: the connection itself is about to go.
        """
        used = 0
        # The same object may be queued for many peers, and is counted once.
        shared = {id(piece): sys.getsizeof(piece) for held in self._bodies.values() for piece in held()}
        for peer in self._peers.values():  # written out, since there may be very many
            session, inbox = peer.session, peer.inbox
            used += session.memory_bytes
            if session.state is OPEN:
                used += PEER_BYTES + peer.transport.held_bytes
                if inbox is not None:
                    used += inbox.own_bytes
            if inbox is not None:
                used += inbox.waiting_bytes
            if peer.deferred_frames is not None:
                used += _size_of(peer.deferred_frames)
            if peer.pieces():
                shared |= {id(piece): sys.getsizeof(piece) + PLACE_BYTES for piece in _unsent(peer)}
        used += sum(shared.values())
        used += sum(room.held_bytes for room in self._rooms())
        used += sum(held() for held in self._connections.values())
        used += sum(map(_orphan_bytes, self._orphans))
        return used + sum(held() for held in self.extra_usage)

    @contextlib.contextmanager
    def track(self, held: Callable[[], Iterable[bytes | bytearray]]) -> Iterator[trio.CancelScope]:
        """Count a body while it is being received or sent. Its scope is cancelled when its memory is needed.

        ``held`` returns the objects that are kept for it.
        """
        with trio.CancelScope() as scope:
            self._bodies[scope] = held
            try:
                yield scope
            finally:
                self._bodies.pop(scope, None)

    @contextlib.contextmanager
    def track_connection(self, held_bytes: Callable[[], int]) -> Iterator[trio.CancelScope]:
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
        """Return the rooms that have members, or keep something for clients that come later."""
        return {*self._aging, *(room for peer in self._peers.values() for room in peer.rooms)}

    def excess(self) -> Iterator[Action]:
        """Yield what is to be given up while too much is held, what is needed least first.

        Each action is to be carried out before the next one is asked for: the memory that it has freed is measured in
        between.
        """
        started_at = time.perf_counter()
        if self.max_bytes == math.inf or started_at < self._next_check_at:
            return
        used = self.used_bytes()
        took_s = time.perf_counter() - started_at
        self._next_check_at = started_at + took_s / MAX_TIME_SHARE
        if used <= self.max_bytes:
            return
        reason = f"memory limit exceeded: {used} of {self.max_bytes} bytes (--max-memory)"
        until = math.inf
        for actions in self._give_up(reason):
            used -= yield from actions
            now = time.perf_counter()
            if used <= self.max_bytes or now > until:
                return
            until = min(until, now + CHECK_S)  # after the first one: finding the largest takes its time too

    def _give_up(self, reason: str) -> Iterator[_Actions]:
        """Yield the actions that give up one thing, then those for the next."""
        rooms = self._rooms()
        deserted = [room for room in rooms if not len(room)]
        for room in sorted(deserted, key=attrgetter("quiet_since")):
            yield self._end_history(room, reason)
        claims: list[_Claim] = []
        claims += [(room.history_bytes, self._end_history, room) for room in rooms if len(room)]
        claims += [(_weight(peer), self._close, peer) for peer in self._peers.values()]
        claims += [(sum(map(sys.getsizeof, held())), self._refuse, scope) for scope, held in self._bodies.items()]
        claims += [(held(), self._cut, scope) for scope, held in self._connections.items()]
        claims += [(inbox.waiting_bytes, self._empty, inbox) for inbox in self._orphans if inbox.items]
        claims.sort(key=itemgetter(0), reverse=True)
        for size, give_up, holder in claims:
            if not size:
                return
            yield give_up(holder, reason)

    def _end_history(self, room: RoomState, reason: str) -> _Actions:
        now = trio.current_time()
        if now - self._logged_at >= LOG_INTERVAL_S:
            self._logged_at = now
            logs.server_line(logging.WARNING, FAULT, f"{reason}; dropping room history")
        held = room.held_bytes
        yield EndHistory(room)
        return held - self._still_held(room)

    def _still_held(self, room: RoomState) -> int:
        return room.held_bytes if len(room) or room in self._aging else 0

    def _close(self, peer: Peer, reason: str) -> _Actions:
        """Close a peer, and drop what waits for its program. A peer that is being closed already is cut off."""
        weight, waiting = _weight(peer), _waiting_bytes(peer)
        if peer.session.state is not OPEN:
            if not waiting:
                return 0
            message = f"is cut off while it is being closed, since it holds {waiting} bytes; {reason}"
            logs.line(logs.hub, logging.WARNING, peer.number, FAULT, message)
            yield Drop(peer, Cause.LIMIT, CUT_OFF)
            if peer.inbox is not None:
                yield ForgetMessages(peer.inbox)
            return waiting
        rooms, own = peer.rooms, own_bytes(peer)
        held = sum(room.held_bytes for room in rooms)
        message = f"is closed, since it holds {weight} bytes; {reason}"
        logs.line(logs.hub, logging.WARNING, peer.number, FAULT, message)
        yield Close(peer, 1013, FULL, Cause.LIMIT)
        if peer.inbox is not None:
            yield ForgetMessages(peer.inbox)
        if peer.has_queued and _waiting_bytes(peer) * 2 > weight:  # its socket takes nothing, not even the close
            yield Drop(peer, Cause.LIMIT, CUT_OFF)
        return own - _waiting_bytes(peer) + held - sum(map(self._still_held, rooms))

    def _empty(self, inbox: Inbox, reason: str) -> _Actions:
        size = inbox.waiting_bytes
        number = logs.SERVER if inbox.owner is None else inbox.owner.id
        message = f"has gone; dropping {size} bytes that it sent and the program has not taken; {reason}"
        logs.line(logs.hub, logging.WARNING, number, FAULT, message)
        yield ForgetMessages(inbox)
        return size - inbox.waiting_bytes

    def _cut(self, connection: trio.CancelScope, _: str) -> _Actions:
        yield Cancel(connection)
        return self._connections.pop(connection)()

    def _refuse(self, body: trio.CancelScope, _: str) -> _Actions:
        yield Cancel(body)
        freed = {id(piece): sys.getsizeof(piece) for piece in self._bodies.pop(body)()}
        shared = {id(piece) for held in self._bodies.values() for piece in held()}
        return sum(size for piece, size in freed.items() if piece not in shared)


def own_bytes(peer: Peer) -> int:
    """Return what is held for a peer alone, the connection itself included."""
    own = PEER_BYTES + peer.transport.held_bytes + _waiting_bytes(peer)
    return own if peer.inbox is None else own + peer.inbox.own_bytes


def _waiting_bytes(peer: Peer) -> int:
    """Return what waits: for the peer's socket, for the rest of a message, for the room's slowest, for the program."""
    waiting = peer.session.memory_bytes
    waiting += _size_of(_unsent(peer))
    if peer.deferred_frames is not None:
        waiting += _size_of(peer.deferred_frames)
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
