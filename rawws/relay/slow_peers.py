"""Peers that can't keep up: some read too slowly, and some send too much.

The room of a slow reader has a policy (`rawws.relay.lag_policies`), and `SlowPeers` carries out its decisions. A peer
moves only from one boundary between messages to another, and frames for it alone go out in any case.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import assert_never

import trio

from rawws import logs
from rawws.broadcast.encodings import PLAIN
from rawws.broadcast.log import Cursor
from rawws.errors import Cause
from rawws.relay.lag_policies import Block, Close, JumpTo, Keep, Lag
from rawws.relay.peer import FlowControl, Peer
from rawws.relay.peer_control import PeerControl
from rawws.relay.room_state import RoomState
from rawws.relay.stats import Stats
from rawws.wire.session import State
from rawws.wire.trace import FAULT

OPEN = State.OPEN
_SLOW = "slow"


class SlowPeers:
    """Carries out the decisions of the rooms' policies, and makes publishers wait."""

    def __init__(self, control: PeerControl, stats: Stats) -> None:
        self._control = control
        self._stats = stats
        # The peers that are held back, by the room that makes them wait. A lost peer is no longer in that room.
        self._held_back: dict[RoomState, dict[Peer, None]] = {}

    # Peers that read too slowly

    def check_all(self, room: RoomState) -> None:
        """Carry out what a room's policy decides about the peers that lag too far there."""
        log = room.log
        # If all that the log keeps is within the limit, each peer is too.
        if not room.lagging or room.policy.lag_cost(Lag(log, Cursor(log.first), PLAIN)) <= room.settings.max_lag_bytes:
            return
        for peer in list(room.lagging):
            if peer.is_lagging:  # it may have gone since
                self._check(peer, room)

    def _check(self, peer: Peer, room: RoomState) -> None:
        if peer.awaits_encoding:  # the delay is ours
            return
        lag = peer.lag(room)
        lag_bytes, limit = room.policy.lag_cost(lag), room.settings.max_lag_bytes
        if lag_bytes <= limit or peer.session.state is not OPEN:
            return
        reason = f"{lag_bytes} bytes behind, over the limit of {limit} (--max-lag)"
        match action := room.policy.on_lag(lag):
            case Keep():
                pass
            case Close():
                self._close(peer, reason)
            case JumpTo():
                self._skip(peer, room, action.number, reason)
            case Block():
                self._block_publishers(room, peer, reason)
            case _:
                assert_never(action)

    def check_notices(self, peer: Peer, room: RoomState, size: int) -> None:
        """Close a peer if too many joins and leaves wait for it. ``size`` bytes of them have just been queued."""
        flow = peer.flow = peer.flow or FlowControl()
        flow.notice_bytes = min(flow.notice_bytes + size, peer.queued_bytes)
        limit = room.settings.max_lag_bytes
        if flow.notice_bytes > limit and peer.session.state is OPEN:
            self._close(peer, f"{flow.notice_bytes} bytes behind, over the limit of {limit} (--max-lag)")

    def _close(self, peer: Peer, reason: str) -> None:
        _warn(peer, f"reads too slowly: {reason}")
        self._control.close(peer, 1013, reason, Cause.SLOW_PEER, with_the_rest=False)

    def _skip(self, peer: Peer, room: RoomState, number: int, reason: str) -> None:
        """Have a peer go on with a later segment after its current message."""
        skipped, gaps = peer.jump_to(room, number)
        self.record_skipped(peer, skipped, reason)
        if skipped > 0:
            self._notify_skipped(peer, skipped)
        for gap in gaps:
            if control := room.log.segment(gap, peer.encoding):
                peer.queue_apart(control)
        self._control.watch(peer, done=False)

    @staticmethod
    def _notify_skipped(peer: Peer, count: int) -> None:
        """Queue a notification of skipped messages. One that hasn't been sent yet is replaced, and its count added."""
        flow = peer.flow
        assert flow is not None
        if peer.withdraw(flow.notice):
            count += flow.noticed
        flow.notice, flow.noticed = peer.encoding.encode_control({"skipped": count}), count
        if flow.notice:
            peer.queue_apart(flow.notice)

    def record_skipped(self, peer: Peer, count: int, reason: str) -> None:
        """Count messages that a peer will never get. The first ones are logged, and the total at the connection's end.

        A count of 0 or less is ignored.
        """
        if count <= 0:
            return
        flow = peer.flow = peer.flow or FlowControl()
        if not flow.skipped:
            _warn(peer, f"reads too slowly: {reason}; {count} messages are skipped")
        flow.skipped += count
        self._stats.messages_skipped += count

    def _block_publishers(self, room: RoomState, slow: Peer, reason: str) -> None:
        """Read nothing more from a room's publishers until its slowest peer has caught up."""
        if _SLOW in room.holds:
            return
        patience_s = slow.endpoint.limits.ping_timeout_s
        until = (
            "it catches up, with no time limit (--ping-timeout 0)"
            if patience_s == math.inf
            else f"it catches up or has taken nothing for {patience_s:g} s (--ping-timeout)"
        )
        _warn(slow, f"reads too slowly: {reason}; publishers are held back until {until}")
        room.holds.add(_SLOW)

    @staticmethod
    def note_progress(peer: Peer) -> None:
        """Record that a lagging peer takes data. This is a sign of life, since the peer may not be read from now."""
        if any(room.is_held for room in peer.rooms):
            peer.seen_since_ping = True
        if peer.flow is not None and peer.flow.last_progress_at != math.inf:
            peer.flow.last_progress_at = trio.current_time()

    def check_progress(self, peer: Peer, now: float) -> None:
        """Close a peer that takes nothing while its room waits for it. Its pongs alone are not enough.

        This is called for every peer at every tick. The clock runs for each peer that lags in such a room, not only for
        the one that made it wait: after that one has caught up, the room may have to wait for another.
        """
        flow = peer.flow
        if not peer.is_lagging or not any(_SLOW in room.holds for room in peer.rooms):
            if flow is not None:
                flow.last_progress_at = math.inf
            return
        flow = peer.flow = flow or FlowControl()
        flow.last_progress_at = min(flow.last_progress_at, now)
        patience_s = peer.endpoint.limits.ping_timeout_s
        if now - flow.last_progress_at >= patience_s and any(self._waits_for(room, peer) for room in peer.rooms):
            self._close(peer, f"nothing taken for {patience_s:g} s, while publishers wait for it")

    @staticmethod
    def _waits_for(room: RoomState, peer: Peer) -> bool:
        """Return whether a peer lags so far in a room that the publishers there have to wait."""
        if _SLOW not in room.holds or peer.session.state is not OPEN:
            return False
        return room.policy.lag_cost(peer.lag(room)) > room.settings.max_lag_bytes // 2

    def hold_back(self, peer: Peer, room: RoomState, frames: Sequence[bytes | bytearray]) -> None:
        """Defer a peer's messages while its room's publishers have to wait, and stop reading from it."""
        peer.held_back = room
        self._held_back.setdefault(room, {})[peer] = None
        peer.deferred_frames = [*(peer.deferred_frames or ()), *frames]
        self._control.watch(peer, done=not peer.is_blocked)

    def forget(self, peer: Peer) -> None:
        """Drop the deferred messages of a peer that can't publish any more. Harmless when there are none."""
        peer.deferred_frames = None
        if peer.held_back is not None:
            self._is_free(peer, peer.held_back)

    def _is_free(self, peer: Peer, room: RoomState) -> None:
        peer.held_back = None
        others = self._held_back[room]
        del others[peer]
        if not others:
            del self._held_back[room]

    def unblock(self, room: RoomState, why: str) -> None:
        """Let a room's publishers go on, unless they have to wait for another reason."""
        room.holds.discard(why)
        if room.holds:
            return
        for peer in list(self._held_back.get(room, ())):
            if peer.held_back is room:  # resuming another peer may have ended it
                self._is_free(peer, room)
                peer.seen_since_ping = True  # it wasn't read from, so nothing could be seen
                self._control.watch(peer, done=not peer.is_blocked)
        room.released.unpark_all()

    def unblock_if_caught_up(self, room: RoomState) -> None:
        """Let a room's publishers go on if no peer lags far any more."""
        if _SLOW not in room.holds:
            return
        if not any(self._waits_for(room, peer) for peer in room.lagging):
            self.unblock(room, _SLOW)

    def end_rest(self, peer: Peer) -> None:
        """Read again from a peer that had sent too much."""
        assert peer.flow is not None
        peer.flow.read_paused_until = 0.0
        self._control.watch(peer, done=not peer.is_blocked)

    def apply_rate_limit(self, peer: Peer, messages: int) -> None:
        """Pause reading from a peer that sends more messages than its rate allows."""
        flow = peer.flow
        if flow is None or flow.bucket is None:
            return
        now = trio.current_time()
        rest_s = flow.bucket.take(messages, now)
        if rest_s > 0:
            flow.read_paused_until = now + rest_s
            self._control.watch(peer, done=not peer.is_blocked)


def _warn(peer: Peer, text: str) -> None:
    logs.line(logs.hub, logging.WARNING, peer.number, FAULT, text)
