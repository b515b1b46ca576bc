"""Peers that can't keep up: what the loop does about those that read too slowly, and those that say too much.

What becomes of a slow reader is for its room to say (`rawws.room.Slow`). Whatever it is, a peer is only ever moved
from one boundary between two messages to another, and what is for it alone goes out in any case.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from rawws.errors import Cause
from rawws.peer import Pace, Peer
from rawws.room_state import RoomState
from rawws.settings import Slow
from rawws.wire.broadcast_log import Cursor
from rawws.wire.encodings import count_messages, notice, rest_of_message
from rawws.wire.session import State
from rawws.wire.trace import FAULT

if TYPE_CHECKING:
    from rawws.loop import Loop

OPEN = State.OPEN
_SLOW = "slow"


class SlowPeers:
    """Sees to them, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        # The peers that were held back, by the room that has them wait: a lost one is in that room no more.
        self._held_back: dict[RoomState, dict[Peer, None]] = {}

    # Who reads too slowly

    @staticmethod
    def leave_rest(peer: Peer, room: RoomState, number: int, segment: bytes, sent: int) -> None:
        """Note that only the first ``sent`` bytes of a segment, in this peer's form, were sent."""
        assert peer.cursors is not None
        if not room.conflates:
            peer.cursors[room] = Cursor(number, sent)
            if sent + peer.transport.committed_bytes > 0:
                peer.in_segment = room
            return
        # It may never get more of this than the message that it has a part of.
        rest = rest_of_message(segment, sent, peer.encoding, committed_bytes=peer.transport.committed_bytes)
        done = count_messages(segment, sent + len(rest), peer.encoding)
        if rest:
            peer.outbox = [rest, *(peer.outbox or ())]
            peer.outbox_bytes += len(rest)
        peer.cursors[room] = Cursor(room.log.last_before(number) + done)

    def check(self, peer: Peer, room: RoomState) -> None:
        """See to a peer that is too far behind, in the way that the room has it."""
        if room.conflates or peer.awaits_form:  # it can't fall behind, or the delay is ours
            return
        assert peer.cursors is not None
        lag_bytes = room.log.lag_cost(peer.cursors[room], peer.encoding)
        settings = room.settings
        if lag_bytes <= settings.max_lag_bytes or peer.session.state is not OPEN:
            return
        told = f"{lag_bytes} bytes behind, over the limit of {settings.max_lag_bytes} (--max-lag)"
        match settings.slow:
            case Slow.SKIP:
                self._skip(peer, room, told)
            case Slow.WAIT:
                self._hold_publishers(room, peer, told)
            case _:
                self._close(peer, told)

    def check_notices(self, peer: Peer, room: RoomState, size: int) -> None:
        """Close a peer for which too much waits that is no message of the room, when so many bytes came to that."""
        pace = peer.pace = peer.pace or Pace()
        pace.notice_bytes = min(pace.notice_bytes + size, peer.outbox_bytes)
        limit = room.settings.max_lag_bytes
        if pace.notice_bytes > limit and peer.session.state is OPEN:
            self._close(peer, f"{pace.notice_bytes} bytes behind, over the limit of {limit} (--max-lag)")

    def _close(self, peer: Peer, told: str) -> None:
        self._loop.log(peer, FAULT, f"reads too slowly: {told}", logging.WARNING)
        self._loop.close(peer, 1013, told, Cause.SLOW_PEER, with_the_rest=False)

    def _skip(self, peer: Peer, room: RoomState, told: str) -> None:
        """Have a peer go on with the newest segment, from the next boundary between two messages on."""
        assert peer.cursors is not None
        log = room.log
        number, offset = peer.cursors[room]
        newest = log.next - 1
        if number >= newest:
            return  # what it lacks is the newest
        gaps = log.gaps(number, newest)
        skipped = room.count_for(peer, log.first_of(number), log.last_before(newest)) - len(gaps)
        if peer.in_segment is room:
            segment = room.segment_for(peer, number)
            rest = rest_of_message(segment, offset, peer.encoding, committed_bytes=peer.transport.committed_bytes)
            if number in gaps:
                gaps.remove(number)  # it goes out whole
            else:
                skipped -= count_messages(segment, offset + len(rest), peer.encoding)
            peer.in_segment = None
            peer.outbox = [rest, *(peer.outbox or ())]
            peer.outbox_bytes += len(rest)
        peer.cursors[room] = Cursor(newest)
        self._note_skipped(peer, skipped, told)
        if skipped > 0:
            self._tell_skipped(peer, skipped)
        for gap in gaps:
            if words := log.segment(gap, peer.encoding):
                self._loop.sending.queue_apart(peer, words)
        self._loop.watch(peer, done=False)

    def _tell_skipped(self, peer: Peer, count: int) -> None:
        """Queue how many a peer will never get, together with what it hasn't been told yet."""
        pace = peer.pace
        assert pace is not None
        if peer.outbox and peer.outbox[-1] is pace.notice:
            peer.outbox_bytes -= len(peer.outbox.pop())
            count += pace.noticed
        pace.notice, pace.noticed = notice({"skipped": count}, peer.encoding), count
        if pace.notice:
            self._loop.sending.queue_apart(peer, pace.notice)

    def _note_skipped(self, peer: Peer, count: int, told: str) -> None:
        if count <= 0:
            return
        pace = peer.pace = peer.pace or Pace()
        if not pace.skipped:  # the first loss is worth a warning; the end of the connection tells them all
            self._loop.log(peer, FAULT, f"reads too slowly: {told}; {count} messages are skipped", logging.WARNING)
        pace.skipped += count
        self._loop.traffic.messages_skipped += count

    def _hold_publishers(self, room: RoomState, slow: Peer, told: str) -> None:
        """Read no more from those who publish in a room, until its slowest peer has caught up."""
        if _SLOW in room.holds:
            return
        patience_s = slow.endpoint.limits.ping_timeout_s
        until = (
            "it catches up, with no time limit (--ping-timeout 0)"
            if patience_s == math.inf
            else f"it catches up or has taken nothing for {patience_s:g} s (--ping-timeout)"
        )
        held = f"reads too slowly: {told}; publishers are held back until {until}"
        self._loop.log(slow, FAULT, held, logging.WARNING)
        room.holds.add(_SLOW)

    @staticmethod
    def note_progress(peer: Peer) -> None:
        """Note that a peer that is behind takes data, as a sign of life: nothing may be read from it meanwhile."""
        if any(room.is_held for room in peer.rooms):
            peer.heard = True
        if peer.pace is not None and peer.pace.took_at != math.inf:
            peer.pace.took_at = trio.current_time()

    def check_progress(self, peer: Peer, now: float) -> None:
        """Close a peer that takes nothing while its room waits for it: pongs alone don't keep all others waiting.

        Called for every peer at every tick. The clock runs for each that is behind in such a room, not only for the
        one that made it wait: when that one has caught up, the room may have to wait for another.
        """
        pace = peer.pace
        if not peer.is_behind or not any(_SLOW in room.holds for room in peer.rooms):
            if pace is not None:
                pace.took_at = math.inf
            return
        pace = peer.pace = pace or Pace()
        pace.took_at = min(pace.took_at, now)
        patience_s = peer.endpoint.limits.ping_timeout_s
        if now - pace.took_at >= patience_s and any(self._waits_for(room, peer) for room in peer.rooms):
            self._close(peer, f"nothing taken for {patience_s:g} s, while publishers wait for it")

    @staticmethod
    def _waits_for(room: RoomState, peer: Peer) -> bool:
        """Return whether a peer that is behind in a room is far enough behind to hold its publishers back."""
        assert peer.cursors is not None
        if _SLOW not in room.holds or peer.session.state is not OPEN:
            return False
        return room.log.lag_cost(peer.cursors[room], peer.encoding) > room.settings.max_lag_bytes // 2

    def hold_back(self, peer: Peer, room: RoomState, frames: Sequence[bytes | bytearray]) -> None:
        """Keep what a peer has said while its room's publishers are to wait, and read no more from it."""
        peer.held_back = True
        self._held_back.setdefault(room, {})[peer] = None
        peer.kept = [*(peer.kept or ()), *frames]
        self._loop.watch(peer, done=not peer.is_blocked)

    def forget(self, peer: Peer) -> None:
        """Drop what was kept of a peer that may say no more. Harmless when nothing was."""
        peer.kept = None
        if peer.held_back:
            self._is_free(peer)

    def _is_free(self, peer: Peer) -> None:
        assert peer.relay is not None
        peer.held_back = False
        others = self._held_back[peer.relay]
        del others[peer]
        if not others:
            del self._held_back[peer.relay]

    def let_go(self, room: RoomState, why: str) -> None:
        """Let those who publish go on, if nothing else is against it."""
        room.holds.discard(why)
        if room.holds:
            return
        for peer in list(self._held_back.get(room, ())):
            if peer.held_back:  # letting go of another may have ended it
                self._is_free(peer)
                peer.heard = True  # it could not be
                self._loop.watch(peer, done=not peer.is_blocked)
        room.released.unpark_all()

    def release_publishers(self, room: RoomState) -> None:
        """Let those who publish go on, if nobody is far behind any more."""
        if _SLOW not in room.holds:
            return
        if not any(self._waits_for(room, peer) for peer in room.behind):
            self.let_go(room, _SLOW)

    def queue_newest(self, peer: Peer, room: RoomState, after: int) -> None:
        """Put what a peer gets of that which it missed into its outbox."""
        assert peer.cursors is not None
        newest, count, upto = room.newest_for(peer, after)
        missed = upto - after - count
        self._note_skipped(peer, missed, f"{missed + count} messages behind")
        peer.session.show_sent(newest)
        self._loop.sending.queue(peer, newest)
        peer.cursors[room] = Cursor(upto)

    def end_rest(self, peer: Peer, now: float) -> bool:
        """Read on from a peer that had said too much, when its time has come; return whether it still rests."""
        pace = peer.pace
        if pace is None or not pace.rests_until:
            return False
        if now < pace.rests_until:
            return True
        pace.rests_until = 0.0
        self._loop.watch(peer, done=not peer.is_blocked)
        return False

    def hold_to_its_rate(self, peer: Peer, messages: int) -> None:
        """Read no more from a peer for a while, if it has said too much."""
        pace = peer.pace
        if pace is None or pace.bucket is None:
            return
        now = trio.current_time()
        rest_s = pace.bucket.take(messages, now)
        if rest_s > 0:
            pace.rests_until = now + rest_s
            self._loop.watch(peer, done=not peer.is_blocked)
