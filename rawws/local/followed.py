"""A room that a worker follows, and the way from the sequencer's messages into its log."""

from __future__ import annotations

from functools import partial

import trio

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.stored_ids import StoredIds
from rawws.local.protocol import Batch, History, Past
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY, ROOM_BYTES
from rawws.relay.room_state import RoomState
from rawws.store.entries import Record
from rawws.store.loaded_room import broadcast, split, times_of

# The memory of a room that is followed, besides the room itself (measured).
FOLLOWED_BYTES = 650


class FollowedRoom:
    """A room whose messages come from the sequencer.

    Numbers of the sequencer are contiguous. So a worker that gets a later number than it expects has missed messages,
    and the room's readers get a gap.
    """

    def __init__(self, room: RoomState) -> None:
        self.room = room
        self.is_loaded = False
        self.is_settled = trio.Event()  # it has the history that was asked for last
        self.waiters = 0  # tasks that wait for it
        self.unused_since: float | None = None
        self._ids = StoredIds()
        self._parts: list[Past] = []  # of the history that is being loaded
        self._part_bytes = 0

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, with the room while nobody else counts that."""
        room = self.room
        is_counted = len(room) or room.history_bytes or not room.is_idle
        own = FOLLOWED_BYTES if is_counted else FOLLOWED_BYTES + ROOM_BYTES + len(room.path)
        return own + self._part_bytes

    @property
    def newest(self) -> int:
        """The sequencer's number of the last message in the log."""
        return self._ids.next_is(self.room.log.next_message)[1] - 1

    def begin(self) -> MessageId | None:
        """Begin to load, and return the place after which messages are lacking; None for the whole history."""
        self._parts, self._part_bytes = [], 0
        if self.is_settled.is_set():
            self.is_settled = trio.Event()
        if not self.is_loaded:
            return None
        return MessageId(self._ids.next_is(self.room.log.next_message)[0], self.newest)

    def is_doubtful(self, since: MessageId | None) -> bool:
        """Return whether a reader has seen messages that are not here: they may be on their way."""
        if since is None:
            return False
        number = self._ids.number_of(since)
        return number is None or number > self.room.log.last_message

    def load(self, part: History) -> bool:
        """Take a part of the history; return whether it was the last one."""
        self._parts += part.records
        self._part_bytes += sum(len(each.frames) for each in part.records)
        if not part.is_last:
            return False
        parts, self._parts, self._part_bytes = self._parts, [], 0
        if self.is_loaded:
            self._go_on(part, parts)
        else:
            self._begin_with(part, parts)
        self.is_settled.set()
        return True

    def _begin_with(self, part: History, parts: list[Past]) -> None:
        """Load the history. If there are members already, it is none of theirs: they joined after it."""
        room = self.room
        kept = [] if len(room) or not room.settings.history.messages else parts
        self._ids = StoredIds(part.epoch, kept[0].first - 1 if kept else part.newest)
        room.set_ids(self._ids)
        self.is_loaded = True
        records = [Record(each.first, each.messages, each.at, each.frames, each.key) for each in kept]
        for at, record in zip(times_of(records), records, strict=True):
            room.add(split(record), NOBODY, record.key)
            while room.seal(at):
                pass
        room.trim()

    def _go_on(self, part: History, parts: list[Past]) -> None:
        """Add what was missed, and record a gap for what the sequencer doesn't have any more.

        Some of it may be here: a worker that is too slow asks for all rooms anew, also for those whose history is on
        its way.
        """
        epoch, number = self._ids.next_is(self.room.log.next_message)
        known = number - 1 if epoch == part.epoch else 0
        for each in parts:
            if each.last > known:
                self._add(part.epoch, each.after(known), NOBODY)
        self._expect(part.epoch, max(part.newest, known) + 1)

    def add(self, batch: Batch, sender: int) -> None:
        """Append messages that were published."""
        if self.is_loaded:  # otherwise they come again, with its history
            self._add(batch.epoch, Past(batch.first, batch.messages, batch.at, batch.key, batch.frames), sender)

    def _add(self, epoch: str, given: Past, sender: int) -> None:
        self._expect(epoch, given.first)
        frames: list[bytes | bytearray] = [given.frames]
        if given.messages > 1:
            frames = split(Record(*given[:3], given.frames))
        self.room.add(frames, sender, given.key)

    def _expect(self, epoch: str, number: int) -> None:
        """Record a gap if a message isn't the one that follows."""
        room = self.room
        if self._ids.next_is(room.log.next_message) == (epoch, number):
            return
        broadcast(room)
        gap = room.record_gap(partial(self._ids.restart, room.log.next_message, epoch, number - 1))
        current_loop().sending.notify_gap(room, gap)
        room.trim()

    def broadcast(self) -> None:
        """Send what was appended to the room's readers."""
        broadcast(self.room)
