"""A room whose stored messages are in memory, and the way from the one to the other."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import trio

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.stored_ids import NO_EPOCH, StoredIds
from rawws.limits import KIB
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY, ROOM_BYTES
from rawws.relay.room_state import RoomState
from rawws.store.engine import Engine
from rawws.store.entries import Page, Record
from rawws.store.retention import FORGOTTEN_AFTER_S
from rawws.wire.frames import frame_ends

# The memory of a room that is loaded, besides the room itself (measured).
LOADED_BYTES = 550
# A room in use is kept in the store, and after this time again.
KEEP_AFTER_S = FORGOTTEN_AFTER_S / 4
# The place of the next message in a log that has nothing of its room.
_NOTHING_LOST = NO_EPOCH, 1


class Committed(NamedTuple):
    """Messages of one sender that were just committed."""

    epoch: str
    first: int
    frames: Sequence[bytes | bytearray]
    sender: int
    key: str | None


@dataclass(eq=False, slots=True)
class LoadedRoom:
    """A room that somebody uses, or has used just now."""

    room: RoomState
    ids: StoredIds = field(default_factory=StoredIds)
    is_loaded: bool = False
    is_loading: bool = False
    is_settled: trio.Event = field(default_factory=trio.Event)  # it is loaded, or can't be
    missed: list[Committed] = field(default_factory=list)  # committed while it is being loaded
    problem: str = ""  # why it can't be loaded
    waiters: int = 0  # tasks that wait for it to be loaded
    unused_since: float | None = None
    loaded_from: int = 0  # the oldest message in the log when it was loaded
    kept_at: float = -math.inf  # when the store was told last that somebody uses it

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes, with the room while nobody else counts that."""
        room = self.room
        is_counted = len(room) or room.history_bytes or not room.is_idle
        own = LOADED_BYTES if is_counted else LOADED_BYTES + ROOM_BYTES + len(room.path)
        return own + sum(sum(map(len, each.frames)) + KIB for each in self.missed)

    @property
    def is_new(self) -> bool:
        """Whether nothing of it has been stored yet, as far as that is known."""
        return self.ids.next_is(1)[0] == NO_EPOCH

    @property
    def known(self) -> tuple[str, int] | None:
        """The epoch and the number of its last message in the store; None if they aren't known, or there is none."""
        if not self.is_loaded or self.is_new:
            return None
        epoch, number = self.ids.next_is(self.room.log.next_message)
        return epoch, number - 1

    def is_to_be_kept(self, now: float) -> bool:
        """Return whether the store is to be told that somebody uses it, so that it isn't forgotten.

        A room that has had a message lately isn't, anyway.
        """
        latest = max(self.kept_at, self.room.log.sealed_at)
        return self.is_loaded and not self.is_new and now - latest >= KEEP_AFTER_S

    def lacks(self, since: MessageId | None) -> bool:
        """Return whether the room may be loaded anew for a reader: nobody uses it, and it has forgotten messages."""
        if since is None or not self.is_loaded or len(self.room) or self.room.readers["poll"]:
            return False
        oldest = self.room.log.oldest(trio.current_time())
        if oldest <= self.loaded_from:
            return False  # all that was stored is here: any id would have a client read it from the disk again
        number = self.ids.number_of(since)
        return number is None or number < oldest - 1

    def unload(self) -> None:
        """Forget all messages in memory. Nobody may use the room."""
        self.room.reset()
        self.ids = StoredIds()
        self.is_loaded = False
        self.is_settled = trio.Event()

    def load(self, page: Page | None) -> None:
        """Put the last messages of a room into its log, and those that were committed since they were read."""
        assert not self.is_loaded
        room = self.room
        page = self._before_missed(page)
        kept = [] if page is None else [each for each in page.records if each.frames is not None]
        if page is not None:
            self.ids = StoredIds(page.tail.epoch, kept[0].first - 1 if kept else page.tail.newest)
        room.set_ids(self.ids)
        self.is_loaded = True
        at = trio.current_time()
        for at, record in zip(times_of(kept), kept, strict=True):
            self._load_gap(record.first, at)
            room.add(split(record), NOBODY, record.key)
            while room.seal(at):
                pass
        if page is not None:
            self._load_gap(page.tail.newest + 1, at)
        room.trim()
        self.loaded_from = room.log.oldest(at) if kept else 0
        room.begin_waiting()
        missed, self.missed = self.missed, []
        for each in missed:
            self.add(each)
        broadcast(room)
        self.is_settled.set()

    def _before_missed(self, page: Page | None) -> Page | None:
        """Return a page without what was committed while it was read: those who have joined meanwhile are sent that."""
        if page is None or not self.missed or self.missed[0].epoch != page.tail.epoch:
            return page
        first = self.missed[0].first
        tail = page.tail._replace(oldest=min(page.tail.oldest, first), newest=min(page.tail.newest, first - 1))
        return Page(tail, tuple(record for record in page.records if record.first < first))

    def _load_gap(self, number: int, at: float) -> None:
        """Record that the stored messages before a number are lost, if they are not in the log."""
        log = self.room.log
        epoch, expected = self.ids.next_is(log.next_message)
        if number > expected:
            restart = partial(self.ids.restart, log.next_message, epoch, number - 1)
            self.room.record_gap(restart, at, ends_history=False)

    def add(self, committed: Committed) -> None:
        """Append messages that were committed, unless they have been read with the room's history already."""
        if not self.is_loaded:
            if self.is_loading:  # otherwise they are read when it is loaded
                self.missed.append(committed)
            return
        room, ids = self.room, self.ids
        expected = ids.next_is(room.log.next_message)
        if expected != (committed.epoch, committed.first):
            if committed.epoch == expected[0] and committed.first < expected[1]:
                return
            if expected == _NOTHING_LOST and committed.first == 1:
                ids.begin(committed.epoch)
            else:
                self._record_gap(committed)
        room.add(committed.frames, committed.sender, committed.key)

    def _record_gap(self, committed: Committed) -> None:
        """Tell the room's readers that the store has lost messages before these."""
        room = self.room
        broadcast(room)
        number = room.log.next_message
        gap = room.record_gap(partial(self.ids.restart, number, committed.epoch, committed.first - 1))
        current_loop().sending.notify_gap(room, gap)
        room.trim()


def read_history(engine: Engine, room: RoomState) -> Page | None:
    """Read what a room's log has: its history, or the place of its end. Any thread may call this."""
    history = room.settings.history
    if history.messages:
        return engine.read_last(room.path, history.messages, history.max_bytes)
    tail = engine.tail(room.path)
    return None if tail is None else Page(tail)


def broadcast(room: RoomState) -> None:
    """Send what was appended to a room."""
    if len(room):
        current_loop().sending.broadcast(room)
    else:
        room.seal_all()


def times_of(records: Sequence[Record]) -> Iterator[float]:
    """Yield when each record was committed, by the loop's clock, which doesn't go on while nothing runs.

    If the machine's clock was set back, records that seem to come from the future are as old as the others allow.
    """
    now, wall = trio.current_time(), time.time()
    latest = now - wall + max((record.at for record in records), default=0.0)
    ahead = max(0.0, latest - now)
    at = -float("inf")
    for record in records:
        at = max(at, now - wall + record.at - ahead)
        yield at


def split(record: Record) -> list[bytes | bytearray]:
    """Return the frames of a record, one by one."""
    frames = record.frames
    assert frames is not None
    if record.messages == 1:
        return [frames]
    begin = 0
    pieces: list[bytes | bytearray] = []
    for end in frame_ends(frames):
        pieces.append(frames[begin:end])
        begin = end
    return pieces
