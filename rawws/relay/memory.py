"""The memory that all peers, rooms and requests hold together, and a bound to it.

Each of them is bounded by itself: a message's size, a peer's lag, the messages that wait for a program, a room's
history, a request's body, an answer that is read slowly. But very many of them, each just within its bound, are not. So
their memory is added up at intervals. While it is too much, the loop gives up:

1. first the histories of empty rooms, beginning with the room that has been quiet for longest. A client that comes back
   is sent a gap.
2. then the largest holder: a peer is closed for the data that waits for it alone or because of it, a room's history is
   forgotten, a request whose body is being received is refused, a connection that reads its answer slowly or is in
   its HTTP phase is cut off, or messages that wait for a program after their sender has gone are dropped.

`Memory` decides, and does nothing itself: it yields actions for the loop, and measures how much each of them has freed.

Objects are counted, not payloads: a pong of two bytes in a list of its own takes ninety. The sizes below were measured
with CPython 3.11 on 64 bits. ``tests/relay/test_memory.py`` compares the sum with the memory that the process uses, for
each way to make a server keep something. The sum is computed on demand, so queueing costs nothing extra.
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

# Adding up takes at most this share of the time. If there is much to add up, it isn't done at every tick.
MAX_TIME_SHARE = 0.02
# Giving up takes at most this long at a time, since nobody is served meanwhile. If ten thousand holders have a little
# each, the rest is given up at the next check.
CHECK_S = 0.02
# The least time between two log lines about histories.
LOG_INTERVAL_S = 60.0

# A connection that the loop serves: the peer, its session and transport, the socket, and the last frames it has sent.
PEER_BYTES = 1100
# An object's place in a list, and the allocator's overhead.
PLACE_BYTES = 24

OPEN = State.OPEN  # a global is found three times as fast as an Enum's member

FULL = "the server's memory is full"
CUT_OFF = "cut off, since the server's memory is full"

# Yields one action for the loop after the other, and returns how many bytes they have freed.
_Actions = Generator[Action, None, int]
# Something that can be given up: its size, the method that does it, and the object.
_Claim = tuple[int, Callable[..., _Actions], object]


class Memory:
    """Adds up the memory of a loop's peers, rooms and requests."""

    def __init__(self, peers: Mapping[int, Peer], aging: Collection[RoomState]) -> None:
        """``peers`` are the loop's, and ``aging`` the rooms that keep something. Others change both."""
        self._peers = peers
        self._aging = aging
        self.max_bytes = math.inf
        self.extra_usage: set[Callable[[], int]] = set()  # each returns the bytes of a backplane, for example
        # The bodies of requests that are being received, and of answers that are being sent. Clients may share an
        # answer.
        self._bodies: dict[trio.CancelScope, Callable[[], Iterable[bytes | bytearray]]] = {}
        self._connections: dict[trio.CancelScope, Callable[[], int]] = {}  # in their HTTP phase
        # The inboxes of peers that have gone. The program may still hold the WebSocket, the task of its handler, and
        # messages.
        self._orphans: weakref.WeakSet[Inbox] = weakref.WeakSet()
        self._logged_at = -math.inf
        self._next_check_at = -math.inf

    def used_bytes(self) -> int:
        """Return the bytes of all connections and rooms, with the data that waits for backplanes and programs.

        A connection that is being closed counts only for its waiting bytes, since the connection itself is about to go.
        """
        used = 0
        # The same object may be queued for many peers, and is counted once.
        shared = {id(piece): sys.getsizeof(piece) for held in self._bodies.values() for piece in held()}
        for peer in self._peers.values():  # a loop without calls, since there may be very many
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
        """Count what a program still holds of a peer that has gone."""
        if inbox.items or not inbox.is_released:
            self._orphans.add(inbox)

    def release(self, inbox: Inbox) -> None:
        """Count only the messages of a connection from now on: the program is done with it.

        The WebSocket itself is part of reference cycles, and lives until Python's garbage collection.
        """
        inbox.is_released = True
        if not inbox.items:
            self._orphans.discard(inbox)

    def _rooms(self) -> set[RoomState]:
        """Return the rooms that have members, or keep something for clients that come later."""
        return {*self._aging, *(room for peer in self._peers.values() for room in peer.rooms)}

    def excess(self) -> Iterator[Action]:
        """Yield actions that free memory while too much is held, beginning with the least harmful.

        Carry out each action before asking for the next: the memory that it has freed is measured in between.
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
            until = min(until, now + CHECK_S)  # counted from the first one, since finding the largest takes time too

    def _give_up(self, reason: str) -> Iterator[_Actions]:
        """Yield, for one holder after the other, the actions that give it up."""
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
    """Return the bytes that are held for a peer alone, including the connection itself."""
    own = PEER_BYTES + peer.transport.held_bytes + _waiting_bytes(peer)
    return own if peer.inbox is None else own + peer.inbox.own_bytes


def _waiting_bytes(peer: Peer) -> int:
    """Return the bytes that wait for a peer's socket, a message's rest, a slow peer of the room, or the program."""
    waiting = peer.session.memory_bytes
    waiting += _size_of(_unsent(peer))
    if peer.deferred_frames is not None:
        waiting += _size_of(peer.deferred_frames)
    return waiting if peer.inbox is None else waiting + peer.inbox.waiting_bytes


def _unsent(peer: Peer) -> list[bytes | bytearray]:
    """Return the objects that are kept until the peer's socket takes them, each once. A view keeps its object."""
    whole: Iterable[Any] = (piece.obj if isinstance(piece, memoryview) else piece for piece in peer.pieces())
    return list({id(piece): piece for piece in whole}.values())


def _size_of(pieces: Sequence[bytes | bytearray]) -> int:
    return sum(map(sys.getsizeof, pieces)) + PLACE_BYTES * len(pieces)


def unsent(peer: Peer) -> int:
    """Return how many bytes wait for a peer's socket: its own frames, and the messages of its rooms that it lacks."""
    return peer.queued_bytes + sum(room.policy.lag_bytes(lag) for room, lag in peer.lags())


def _orphan_bytes(inbox: Inbox) -> int:
    return inbox.waiting_bytes + (0 if inbox.is_released else PEER_BYTES + inbox.own_bytes)


def _weight(peer: Peer) -> int:
    """Return the most bytes that could be freed by closing a peer."""
    return own_bytes(peer) + sum(room.policy.lag_cost(lag) for room, lag in peer.lags())
