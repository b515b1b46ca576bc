"""Timers: keepalive pings and their answers, closes that take too long, and the age of rooms' histories.

All peers are checked together, once a tick: ten thousand timers of their own would cost too much. `Timers` decides, and
does nothing itself. `Timers.due` returns the action for a peer. Nearly always that is None, and nothing is allocated.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping

import trio

from rawws import logs
from rawws.errors import Cause
from rawws.net.poller import READABLE
from rawws.relay.actions import CloseAndDrop, Drop, EndRest, PeerAction, SendDeferredClose, SendPing
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState
from rawws.relay.stats import Stats
from rawws.wire.session import State
from rawws.wire.trace import TIMER

# The time from one tick to the next. It is shorter if a limit needs that.
TICK_S = 1.0
# The same with a limit to messages per second: a peer that has exceeded it is read again at a tick.
RATE_TICK_S = 0.1
# The same with a bound to the memory.
MEMORY_TICK_S = 0.1
# In each tick, at most this many of the rooms that keep something are checked.
ROOMS_AT_ONCE = 5000
# A tick that is later than this is logged, since something blocks the loop.
BLOCKED_S = 0.5

KEEPALIVE = b"rawws"  # the payload of our own pings

OPEN = State.OPEN  # a global is found three times as fast as an Enum's member


class Timers:
    """The timers of all peers and rooms of a loop."""

    def __init__(self, peers: Mapping[int, Peer], stats: Stats) -> None:
        """``peers`` are the loop's, which changes them. ``stats`` gets the longest time that the loop was blocked."""
        self._peers = peers
        self._stats = stats
        # The rooms that keep something which grows old: a history, ids for clients that poll, or idempotency keys. The
        # room that was checked last comes last.
        self.aging: dict[RoomState, None] = {}
        self._tick_s = TICK_S
        self._memory_tick_s = math.inf
        self._ticked_at = trio.current_time()
        self._new_timers = trio.Event()

    def add(self, peer: Peer) -> None:
        """Watch a peer that the loop has taken over."""
        limits = peer.endpoint.limits
        peer.ping_at = trio.current_time() + limits.ping_interval_s
        timers = (limits.ping_interval_s, limits.ping_timeout_s, limits.close_timeout_s)
        tick_s = min([self._tick_s, *(seconds / 4 for seconds in timers)])
        if limits.messages_per_s != math.inf:
            tick_s = min(tick_s, RATE_TICK_S)
        if tick_s < self._tick_s or len(self._peers) == 1:
            self._tick_s = tick_s
            self._reschedule()

    def add_room(self, room: RoomState) -> None:
        """Watch a room until it keeps nothing that grows old."""
        if room not in self.aging:
            self.aging[room] = None
            self._reschedule()

    def watch_memory(self, *, is_bounded: bool) -> None:
        """Tick more often while there is a bound to the memory."""
        self._memory_tick_s = MEMORY_TICK_S if is_bounded else math.inf
        self._reschedule()

    def _reschedule(self) -> None:
        self._new_timers.set()

    async def wait_for_tick(self) -> float:
        """Wait until peers, rooms and the memory have to be checked, and return the time. Cancelling loses nothing."""
        while True:
            self._new_timers = trio.Event()
            is_idle = not (self._peers or self.aging) and self._memory_tick_s == math.inf
            tick_s = min(self._tick_s, self._memory_tick_s)
            # Counted from the last tick, so that a new timer doesn't delay the others.
            due = math.inf if is_idle else max(self._ticked_at + tick_s, trio.current_time())
            with trio.move_on_at(due):
                await self._new_timers.wait()
                if is_idle:
                    self._ticked_at = trio.current_time()
                continue
            now = self._ticked_at = trio.current_time()
            self._check_lateness(now - due)
            return now

    def _check_lateness(self, late_s: float) -> None:
        """Log that the loop was blocked, by a program that computes or a machine that swaps."""
        if late_s < BLOCKED_S:
            return
        self._stats.longest_block_s = max(self._stats.longest_block_s, late_s)
        message = (
            f"the event loop was blocked for at least {late_s:.1f} s "
            "(blocking call in this process, or an overloaded machine)"
        )
        logs.server_line(logging.WARNING, TIMER, message)

    def expire_rooms(self) -> None:
        """Expire the rooms that have waited longest for it.

        Readers never get a message that is too old. With very many rooms, each just frees its memory later.
        """
        for room in list(itertools.islice(self.aging, ROOMS_AT_ONCE)):
            self.expire(room)

    def expire(self, room: RoomState) -> None:
        """Have a room forget everything too old, and stop watching it if it keeps nothing that grows old."""
        del self.aging[room]
        if not room.expire():
            self.aging[room] = None

    def due(self, peer: Peer, now: float) -> PeerAction | None:
        """Return the action that is due for a peer now, if there is one.

        Read a peer that has missed a deadline before calling this: its answer may wait in our socket.
        """
        if peer.lost is not None:
            return self._due_when_lost(peer, now)
        if peer.session.state is not OPEN:
            return self._due_when_closing(peer, now)
        return self._due_when_open(peer, now)

    @staticmethod
    def _due_when_lost(peer: Peer, now: float) -> PeerAction | None:
        """Return the action for a peer that takes nothing more, and is read to its end."""
        assert peer.lost is not None
        if now >= peer.close_at:
            why = peer.lost.why
            if not peer.interest & READABLE:
                within = f"within {peer.endpoint.limits.close_timeout_s:g} s"
                unread = f"its last messages could not be published {within}, because its room or its rate made it wait"
                why = f"{why}; {unread}" if why else unread
            return Drop(peer, Cause.RESET, why)
        return EndRest(peer) if _rest_is_over(peer, now) else None

    @staticmethod
    def _due_when_closing(peer: Peer, now: float) -> PeerAction | None:
        """Return the action for a peer whose close has been sent or received."""
        if now < peer.close_at:
            return None
        if peer.inbox is not None and peer.inbox.deferred_close is not None:
            return SendDeferredClose(peer)
        them = peer.session.our_role.other.label
        within = f"within {peer.endpoint.limits.close_timeout_s:g} s"
        return Drop(peer, Cause.CLOSE_TIMEOUT, f"cut off, since the {them} has not closed {within}")

    @staticmethod
    def _due_when_open(peer: Peer, now: float) -> PeerAction | None:
        """Return the action for a peer whose connection is open: its keepalive."""
        if _rest_is_over(peer, now):
            return EndRest(peer)
        is_read = _is_read(peer)
        if peer.seen_since_ping or not is_read:  # every byte is a sign of life, and one may have arrived unread
            peer.pong_deadline = math.inf
        if not is_read:
            return None
        if now >= peer.pong_deadline:
            timeout = f"within {peer.endpoint.limits.ping_timeout_s:g} s"
            them = peer.session.our_role.other.label
            logs.line(logs.hub, logging.INFO, peer.number, TIMER, f"no byte {timeout} of a ping")
            reason = f"no answer to a ping {timeout}"
            return CloseAndDrop(peer, 1011, reason, Cause.PING_TIMEOUT, f"cut off, since the {them} no longer answers")
        if now >= peer.ping_at:
            return _start_ping(peer, now)
        return None


def _start_ping(peer: Peer, now: float) -> SendPing:
    """Set the deadlines of a ping, and return it."""
    limits = peer.endpoint.limits
    peer.ping_at = now + limits.ping_interval_s
    # The deadline is that of the oldest ping without an answer.
    if peer.pong_deadline == math.inf and peer.session.answers_pings:
        peer.seen_since_ping = False
        peer.pong_deadline = now + limits.ping_timeout_s
    if peer.inbox is not None and KEEPALIVE not in peer.inbox.pings:
        peer.inbox.add_ping(KEEPALIVE, now)
    return SendPing(peer, KEEPALIVE)


def _rest_is_over(peer: Peer, now: float) -> bool:
    """Return whether a peer that had sent too much may be read again now."""
    flow = peer.flow
    return flow is not None and 0.0 < flow.read_paused_until <= now


def _is_read(peer: Peer) -> bool:
    """Return whether the loop reads from an open peer, or would read if the peer accepted what it is sent."""
    if peer.inbox is not None and peer.inbox.paused:
        return False
    if peer.flow is not None and peer.flow.read_paused_until:
        return False
    return peer.held_back is None or peer.is_lagging
