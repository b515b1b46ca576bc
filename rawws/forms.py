"""Forms that take long to make, and messages that take long to send, in steps between which others are served.

A room is read in several forms (`rawws.wire.encodings`), which its readers choose. The forms of a small message are
made when it is sent. For large ones a turn has an allowance. Work beyond it becomes *jobs*, of which the loop does
about a millisecond after its turns. Readers that wait for a form are behind, like readers whose sockets are full, but
they are not closed for it: the delay is ours.

The publishers of a room with much work left are held back, as by a slow reader with `Slow.WAIT`. Programs and other
nodes can't be held back, so beyond `MOST_WORK` the messages that follow go out uncompressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rawws.limits import KIB, MIB
from rawws.peer import Peer
from rawws.room_state import RoomState
from rawws.wire.broadcast_log import BroadcastLog
from rawws.wire.deflate import STEP_BYTES
from rawws.wire.encodings import Encoding

if TYPE_CHECKING:
    from rawws.loop import Loop

# The unit of work is the time in which one byte is deflated; 256 KiB take at most 8 ms.

# Work that is done while messages are sent, in each turn: enough for sixteen turns of 1 KiB messages.
TURN_WORK = 256 * KIB
# With this much work left for a room, its publishers are not read. (A guess: at most 30 ms.)
HOLD_WORK = MIB
# With this much, the messages that follow aren't deflated.
MOST_WORK = 8 * MIB
# The most bytes handed to sockets at a time, which takes 5 ms. A message of 1 MiB to a thousand readers takes 200 ms.
SENT_AT_ONCE_BYTES = 32 * MIB

_WORK = "work"


class _Job:
    """A form of a segment to be made, and the peers that wait for it. ``work`` is its share of the room's work."""

    __slots__ = ("log", "waiting", "work")

    def __init__(self, log: BroadcastLog, work: int) -> None:
        self.log = log
        self.work = work
        self.waiting: dict[Peer, None] = {}


class Forms:
    """Makes forms, for the loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: dict[tuple[RoomState, int, Encoding], _Job] = {}
        self._work: dict[RoomState, int] = {}  # left to do, for each room
        self.allowance = TURN_WORK  # what may still be done at once

    @property
    def has_work(self) -> bool:
        """Whether there is a step to be done."""
        return bool(self._jobs)

    def get(self, room: RoomState, number: int, encoding: Encoding) -> bytes | None:
        """Return a segment in a form, or None if the peer has to `wait` for it."""
        log = room.log
        work = log.work(number, encoding)
        if work > self.allowance:
            if self._work.get(room, 0) <= MOST_WORK:
                return None
            log.leave_plain(number, encoding)
            work = log.work(number, encoding)
        self.allowance -= work
        return log.segment(number, encoding)

    def get_at_once(self, room: RoomState, number: int, encoding: Encoding) -> bytes:
        """Return a segment in a form, or uncompressed where there is no time to deflate it."""
        work = room.log.work(number, encoding)
        if work > self.allowance:
            encoding = encoding.uncompressed
            work = room.log.work(number, encoding)
        self.allowance -= work
        return room.log.segment(number, encoding)

    def run(self, room: RoomState, number: int, encoding: Encoding) -> tuple[bytes, list[int]]:
        """Return several segments joined, and the size of each. The first of them must exist in this form."""
        before = room.log.work_done
        run = room.log.run(number, encoding, self.allowance)
        self.allowance -= room.log.work_done - before
        return run

    def wait(self, peer: Peer, room: RoomState, number: int) -> None:
        """Resume a peer that is behind once a segment exists in its form."""
        peer.awaits_form = True
        key = (room, number, peer.encoding)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(room.log, room.log.work(number, peer.encoding))
            work = self._work[room] = self._work.get(room, 0) + job.work
            if work > HOLD_WORK:
                room.holds.add(_WORK)
            self._loop.run_errands_soon()
        job.waiting[peer] = None

    def step(self) -> None:
        """Do about a millisecond of work: of the first job, or of several small ones."""
        self.allowance = STEP_BYTES
        work = 0
        while self._jobs and work < STEP_BYTES:
            key = next(iter(self._jobs))
            job = self._jobs.pop(key)
            room, number, encoding = key
            # The readers may have left or moved on, and the segment may have been dropped.
            is_there = job.log is room.log and number >= job.log.first
            try:
                is_made = not (is_there and any(map(_waits, job.waiting))) or job.log.make(number, encoding)
            except Exception:  # the other rooms have jobs too
                self._is_done(room, job)
                self._loop.give_up_all(room)
                continue
            if not is_made:
                work += min(job.work, STEP_BYTES)
                self._jobs[key] = job  # moved to the end, so that each room has its turn
                continue
            self._is_done(room, job)
            work += self._go_on(room, number, job)

    def _go_on(self, room: RoomState, number: int, job: _Job) -> int:
        """Send to the peers that have waited, at most `SENT_AT_ONCE_BYTES`, and return how much work that was."""
        traffic = self._loop.traffic
        until = traffic.bytes_out + SENT_AT_ONCE_BYTES
        before = traffic.bytes_out
        while job.waiting:
            peer, _ = job.waiting.popitem()
            if not _waits(peer):
                continue
            is_there = job.log is room.log and number >= job.log.first
            if traffic.bytes_out >= until and room in peer.rooms and is_there:
                self.wait(peer, room, number)
                continue
            try:
                self._loop.sending.flush(peer)
            except Exception:
                self._loop.give_up(peer)
        return (traffic.bytes_out - before) * STEP_BYTES // SENT_AT_ONCE_BYTES

    def _is_done(self, room: RoomState, job: _Job) -> None:
        left = self._work[room] - job.work
        if left > 0:
            self._work[room] = left
        else:
            del self._work[room]
        if left <= HOLD_WORK and _WORK in room.holds:
            self._loop.slow.let_go(room, _WORK)


def _waits(peer: Peer) -> bool:
    return peer.awaits_form and peer.cursors is not None
