"""What is to happen in time: pings, their answers, closes, and the end of a room's history.

Looked at every so often, all at once: a timer for each peer would cost too much.
"""

from __future__ import annotations

import itertools
import logging
import math
from typing import TYPE_CHECKING

import trio

from rawws import logs
from rawws.errors import Cause
from rawws.memory import MEMORY_TICK_S
from rawws.peer import Peer
from rawws.room_state import RoomState
from rawws.wire.session import State
from rawws.wire.trace import TIMER

if TYPE_CHECKING:
    from rawws.loop import Loop

# Deadlines are looked at this often, or more often if they are shorter.
TICK_S = 1.0
# Peers that have said too much are read again at one of these.
RATE_TICK_S = 0.1
# Of rooms that keep something, so many are looked at each time.
ROOMS_AT_ONCE = 5000
# When deadlines are looked at so late, something blocks.
BLOCKED_S = 0.5

KEEPALIVE = b"rawws"  # what our own pings carry

OPEN = State.OPEN


class Deadlines:
    """Those of all peers and rooms of a loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # Rooms that keep something, which grows old: a history, their ids for who polls, or keys for who publishes once
        # more. In the order in which they were looked at.
        self.aging: dict[RoomState, None] = {}
        self._tick_s = TICK_S
        self._new_timers = trio.Event()

    def add(self, peer: Peer) -> None:
        """Watch a peer that the loop has taken over."""
        limits = peer.endpoint.limits
        peer.ping_at = trio.current_time() + limits.ping_interval_s
        timers = (limits.ping_interval_s, limits.ping_timeout_s, limits.close_timeout_s)
        tick_s = min([self._tick_s, *(seconds / 4 for seconds in timers)])
        if limits.messages_per_s != math.inf:
            tick_s = min(tick_s, RATE_TICK_S)
        if tick_s < self._tick_s or len(self._loop.peers) == 1:
            self._tick_s = tick_s
            self.look_again()

    def keep(self, room: RoomState) -> None:
        """Look after what a room keeps, until it is too old."""
        if room not in self.aging:
            self.aging[room] = None
            self.look_again()

    def look_again(self) -> None:
        """There is something else to look at from now on."""
        self._new_timers.set()

    def expire(self, room: RoomState) -> None:
        """Have a room forget what is too old, and look after it no longer if nothing is left that will be."""
        del self.aging[room]
        if not room.expire():
            self.aging[room] = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        looked_at = trio.current_time()
        while True:
            self._new_timers = trio.Event()
            memory_is_bounded = self._loop.memory.max_bytes != math.inf
            tick_s = min(self._tick_s, MEMORY_TICK_S) if memory_is_bounded else self._tick_s
            rests = not (self._loop.peers or self.aging or memory_is_bounded)
            # From the last look on: what is new in between must not put off what was due.
            due = math.inf if rests else max(looked_at + tick_s, trio.current_time())
            with trio.move_on_at(due):
                await self._new_timers.wait()
                looked_at = trio.current_time() if rests else looked_at
                continue
            now = looked_at = trio.current_time()
            self._check_lateness(now - due)
            self._loop.memory.check()
            # What is too old is not told in any case: of very many rooms, each frees its memory a little later.
            for room in list(itertools.islice(self.aging, ROOMS_AT_ONCE)):
                self.expire(room)
            for peer in list(self._loop.peers.values()):
                try:
                    self._check(peer, now)
                except Exception:
                    self._loop.give_up(peer)

    def _check_lateness(self, late_s: float) -> None:
        """Say so when something has kept everybody waiting: a program that computes, or a machine that swaps."""
        if late_s < BLOCKED_S:
            return
        self._loop.traffic.longest_block_s = max(self._loop.traffic.longest_block_s, late_s)
        told = f"nobody was served for {late_s:.1f} s or more: something in this process, or on this machine, blocks"
        logs.line(logs.server, logging.WARNING, logs.SERVER, TIMER, told)

    def _check(self, peer: Peer, now: float) -> None:
        if peer.transport.fileno() < 0:
            return  # it was closed while another one was handled
        if now >= peer.answer_by or now >= peer.close_at:
            self._loop.hear(peer)  # its answer may be here, and only we are late
            if peer.transport.fileno() < 0:
                return
        if peer.lost:
            if now >= peer.close_at:
                self._loop.give_up_reading(peer)
            else:
                self._loop.slow.end_rest(peer, now)
            return
        limits = peer.endpoint.limits
        them = peer.session.our_role.other.label
        if peer.session.state is not OPEN:
            if now < peer.close_at:
                pass
            elif peer.inbox is not None and peer.inbox.last_words is not None:
                self._loop.finish(peer)
            else:
                self._loop.drop(
                    peer,
                    Cause.CLOSE_TIMEOUT,
                    f"cut off, since the {them} has not closed within {limits.close_timeout_s:g} s",
                )
            return
        # This comes first, since no peer is exempt, whether it answers pings or is read from.
        if peer.is_lagging or peer.pace is not None:
            self._loop.slow.check_progress(peer, now)
            if peer.session.state is not OPEN:
                return
        if peer.inbox is not None and peer.inbox.paused:
            peer.answer_by = math.inf  # an answer may have arrived unread
            return
        if self._loop.slow.end_rest(peer, now):
            peer.answer_by = math.inf
            return
        if peer.held_back and not peer.is_lagging:
            peer.answer_by = math.inf
            return
        if peer.heard:
            peer.answer_by = math.inf
        if now >= peer.answer_by:
            self._loop.log(peer, TIMER, f"no byte within {limits.ping_timeout_s:g} s of a ping")
            told = f"no answer to a ping within {limits.ping_timeout_s:g} s"
            # The close goes out if it can; there is nobody to wait for.
            self._loop.close(peer, 1011, told, Cause.PING_TIMEOUT, with_the_rest=False)
            self._loop.drop(peer, Cause.PING_TIMEOUT, f"cut off, since the {them} no longer answers")
        elif now >= peer.ping_at:
            self._keep_alive(peer, now)

    def _keep_alive(self, peer: Peer, now: float) -> None:
        limits = peer.endpoint.limits
        peer.session.ping(KEEPALIVE)
        peer.ping_at = now + limits.ping_interval_s
        # The oldest ping that nothing has answered counts.
        if peer.answer_by == math.inf and peer.session.answers_pings:
            peer.heard = False
            peer.answer_by = now + limits.ping_timeout_s
        if peer.inbox is not None and KEEPALIVE not in peer.inbox.pings:
            peer.inbox.add_ping(KEEPALIVE, now)
        self._loop.sending.send(peer, peer.session.data_to_send())
