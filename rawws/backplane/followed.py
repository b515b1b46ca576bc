"""A room whose stream a node follows, and how much of the stream the node has read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from rawws.broadcast.log import History
from rawws.broadcast.message_ids import MessageId, StreamIds
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stream_entries import DuplicateFilter, StreamPlace, StreamTail
from rawws.relay.room_state import RoomState

# The memory of a room that is followed (measured).
FOLLOWED_BYTES = 700
# No node can have a message whose id is later than Redis's clock by more than this.
AHEAD_MS = 1000


@dataclass(eq=False, slots=True)
class Followed:
    """A room whose stream is followed."""

    room: RoomState
    place: StreamPlace = field(default_factory=StreamPlace)
    duplicates: DuplicateFilter = field(default_factory=DuplicateFilter)
    tail: StreamTail | None = None  # the history that is being loaded
    is_loaded: bool = False
    is_current: trio.Event = field(default_factory=trio.Event)  # the log has all that the stream had when we looked
    looked_at: float = -math.inf
    redis_ms: int = 0  # Redis's time at that moment
    waiters: int = 0  # tasks that wait for it to be current
    unused_since: float | None = None
    problem: str = ""  # why it can't be read
    failure: str = ""  # the last error in rawws itself while handling this room, which has been logged
    has_odd_entries: bool = False  # an entry could not be read, which has been logged

    def has_passed(self, message: Outgoing) -> bool:
        """Return whether a message of ours got an id that we have passed without reading the message."""
        if not self.is_loaded or message.id is None or message.author is None:
            return False
        return message.id <= self.place.last and not self.duplicates.knows(message.author)

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, besides the room."""
        tail = 0 if self.tail is None else self.tail.held_bytes
        return FOLLOWED_BYTES + self.duplicates.held_bytes + tail

    def is_doubtful(self, since: MessageId | None) -> bool:
        """Return whether the stream has to be checked again for a reader that resumes.

        That is so if the stream is unreadable, or the reader's id isn't here: the id may come later, or belong to a
        stream that has replaced this one. Neither is true of an id in the future.
        """
        if self.problem or since is None or not self.is_loaded or not since.epoch.isdigit():
            return bool(self.problem)
        given, last = (int(since.epoch), since.number), max(self.place.last, self.ids.last)
        if given <= last:
            return self.ids.is_passed(since)
        elapsed_ms = (trio.current_time() - self.looked_at) * 1000
        return given[0] <= max(last[0], self.redis_ms + elapsed_ms + AHEAD_MS)

    @property
    def ids(self) -> StreamIds:
        """The ids of its messages, once it is loaded."""
        ids = self.room.log.ids
        assert isinstance(ids, StreamIds)
        return ids

    def tail_to_load(self) -> StreamTail:
        """Return the part of the room's history that has been read so far.

        For a room with members it is empty, and no history is loaded: they would get messages from before they joined.
        """
        if self.tail is None or (len(self.room) and self.tail.history.messages):
            self.tail = StreamTail(History() if len(self.room) else self.room.settings.history)
        return self.tail

    def invalidate(self) -> None:
        """Look at the stream again before anything else is read from it."""
        if self.is_current.is_set():
            self.is_current = trio.Event()
