"""Encoding of large messages, and sending to large rooms, in steps between which other peers are served.

A room is read in several encodings (`rawws.broadcast.encodings`), which its readers choose. A small message is encoded
when it is sent. For large messages each turn has an allowance. Work beyond it becomes *jobs*, and after its turns the
loop spends about a millisecond on them. Readers that wait for an encoding lag, like readers whose sockets are full, but
they are not closed for it: the delay is ours.

The publishers of a room with much work left are blocked, as `BlockPublishers` does for a slow reader. Programs and
other nodes can't be blocked, so beyond `MOST_WORK` the messages that follow go out uncompressed.
"""

from __future__ import annotations

from collections.abc import Callable

from rawws.broadcast.encodings import Encoding
from rawws.limits import KIB, MIB
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState

# The unit of work is the time in which one byte is deflated; 256 KiB take at most 8 ms.

# Work that is done while messages are sent, in each turn: enough for sixteen turns of 1 KiB messages.
TURN_WORK = 256 * KIB
# With this much work left for a room, its publishers are not read. (A guess: at most 30 ms.)
HOLD_WORK = MIB
# With this much, the messages that follow aren't deflated.
MOST_WORK = 8 * MIB
# The most bytes handed to sockets at a time, which takes 5 ms. A message of 1 MiB to a thousand readers takes 200 ms.
SENT_AT_ONCE_BYTES = 32 * MIB

WORK = "work"  # why publishers wait


class Job:
    """A segment to be encoded in steps, and the peers that wait for it. ``work`` is its share of the room's work."""

    __slots__ = ("encoding", "log", "number", "room", "waiting", "work")

    def __init__(self, room: RoomState, number: int, encoding: Encoding) -> None:
        self.room = room
        self.log = room.log
        self.number = number
        self.encoding = encoding
        self.work = room.log.work(number, encoding)
        self.waiting: dict[Peer, None] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether the room still has the segment."""
        return self.log is self.room.log and self.number >= self.log.first

    def advance(self) -> bool:
        """Do a step, and return whether that was the last, or nobody waits any more."""
        # The readers may have left or moved on, and the segment may have been dropped.
        if not self.is_wanted or not any(peer.awaits_encoding and peer.is_lagging for peer in self.waiting):
            return True
        return self.log.make(self.number, self.encoding)


class EncodingJobs:
    """The segments of all rooms, in any encoding, made at once or in steps."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """``wake`` is called when there is a first step to be done."""
        self._wake = wake
        self._jobs: dict[tuple[RoomState, int, Encoding], Job] = {}
        self._work: dict[RoomState, int] = {}  # left to do, for each room
        self.allowance = TURN_WORK  # what may still be done at once

    @property
    def has_work(self) -> bool:
        """Whether there is a step to be done."""
        return bool(self._jobs)

    def get(self, room: RoomState, number: int, encoding: Encoding) -> bytes | None:
        """Return a segment in an encoding, or None if the peer has to `wait` for it."""
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
        """Return a segment in an encoding, or uncompressed where there is no time to deflate it."""
        work = room.log.work(number, encoding)
        if work > self.allowance:
            encoding = encoding.uncompressed
            work = room.log.work(number, encoding)
        self.allowance -= work
        return room.log.segment(number, encoding)

    def run(self, room: RoomState, number: int, encoding: Encoding) -> tuple[bytes, list[int]]:
        """Return several segments joined, and the size of each. The first of them must exist in this encoding."""
        before = room.log.work_done
        run = room.log.run(number, encoding, self.allowance)
        self.allowance -= room.log.work_done - before
        return run

    def wait(self, peer: Peer, room: RoomState, number: int) -> None:
        """Have a lagging peer resumed once a segment exists in its encoding."""
        key = (room, number, peer.encoding)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = Job(*key)
            work = self._work[room] = self._work.get(room, 0) + job.work
            if work > HOLD_WORK:
                room.holds.add(WORK)
            self._wake()
        job.waiting[peer] = None

    def next_job(self) -> Job:
        """Take the job out that has waited for longest."""
        return self._jobs.pop(next(iter(self._jobs)))

    def put_back(self, job: Job) -> None:
        """Have a job wait for its next step, after the other rooms' jobs."""
        self._jobs[job.room, job.number, job.encoding] = job

    def finish(self, job: Job) -> bool:
        """Count a job as done; true when its room's publishers need no longer wait for such work."""
        # A job without work, for peers that wait for their turn only, may end after the last one that had some.
        left = self._work.pop(job.room, 0) - job.work
        if left > 0:
            self._work[job.room] = left
        return left <= HOLD_WORK and WORK in job.room.holds
