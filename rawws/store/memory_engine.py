"""An engine that keeps everything in memory: the model of the others, and a store that no restart survives."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS, IdempotencyKey, Repeat
from rawws.broadcast.log import History
from rawws.broadcast.message_ids import new_epoch
from rawws.store import losses
from rawws.store.engine import StoreError, Usage
from rawws.store.entries import (
    Append,
    Clear,
    Entry,
    GroupState,
    GroupWrite,
    Job,
    Keep,
    Outcome,
    Page,
    Record,
    RoomTail,
)
from rawws.store.retention import FORGOTTEN_AFTER_S, Extent, Kept, needed_by, removable

# All rooms are looked at this often, and those of a commit with each.
SWEEP_S = 1.0
# The memory of what a room has, besides its path and frames (measured).
ROOM_BYTES, RECORD_BYTES, GROUP_BYTES, JOB_BYTES, KEY_BYTES = 640, 160, 280, 225, 415


@dataclass
class _Group:
    position: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)


@dataclass
class _Room:
    epoch: str
    used_at: float
    oldest: int = 1
    newest: int = 0
    history: History = field(default_factory=History)
    records: list[Record] = field(default_factory=list)
    groups: dict[str, _Group] = field(default_factory=dict)
    repeats: OrderedDict[IdempotencyKey, Repeat] = field(default_factory=OrderedDict)
    held_bytes: int = 0  # as the engine has counted them

    @property
    def needed(self) -> int:
        """The first message that a group needs; if there is no group, the next message."""
        each = (needed_by(group.position, group.jobs.values()) for group in self.groups.values())
        return min(each, default=self.newest + 1)

    @property
    def tail(self) -> RoomTail:
        return RoomTail(self.epoch, self.oldest, self.newest)

    def count_bytes(self) -> int:
        """Return the bytes of memory that it takes, without its path."""
        records = sum(RECORD_BYTES + len(record.frames or b"") for record in self.records)
        jobs = sum(GROUP_BYTES + JOB_BYTES * len(group.jobs) for group in self.groups.values())
        return ROOM_BYTES + records + jobs + KEY_BYTES * len(self.repeats)

    def expire(self, now: float) -> None:
        """Forget Idempotency-Keys that are too old."""
        while self.repeats and now - next(iter(self.repeats.values())).noted_at >= KEPT_S:
            self.repeats.popitem(last=False)

    def trim(self, now: float) -> None:
        """Forget the records that may go."""
        kept = [Kept(each.first, each.messages, len(each.frames or b""), each.at) for each in self.records]
        extent = Extent(sum(each.messages for each in kept), sum(each.size for each in kept))
        self._forget(removable(kept, extent, self.history, now, self.needed))

    def clear(self, up_to: int) -> None:
        """Forget the messages up to a number that no group needs."""
        end = min(up_to + 1, self.needed, self.newest + 1)
        self._forget(sum(record.last < end for record in self.records))
        self.oldest = max(self.oldest, end)

    def _forget(self, count: int) -> None:
        if not count:
            return
        del self.records[:count]
        self.oldest = max(self.oldest, self.records[0].first if self.records else self.newest + 1)


class MemoryEngine:
    """A store in memory. Any thread may call it."""

    description = "memory"
    shortage = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = Lock()
        self._rooms: dict[str, _Room] = {}
        self._swept_at = -math.inf
        self.held_bytes = 0
        self._is_closed = False

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        if self._is_closed:
            raise StoreError("the store is closed")
        with self._lock:
            now = self._clock()
            outcomes = [self._carry_out(entry, now) for entry in entries]
            is_sweep = abs(now - self._swept_at) >= SWEEP_S
            self._trim(self._rooms if is_sweep else {entry.path for entry in entries} & self._rooms.keys(), now)
            if is_sweep:
                self._swept_at = now
                self._forget_rooms(now)
            return outcomes

    def _trim(self, paths: Iterable[str], now: float) -> None:
        for path in paths:
            room = self._rooms[path]
            room.trim(now)
            room.expire(now)
            size = room.count_bytes() + len(path)
            self.held_bytes += size - room.held_bytes
            room.held_bytes = size

    def _carry_out(self, entry: Entry, now: float) -> Outcome:
        if isinstance(entry, Append):
            return self._append(entry, now)
        if isinstance(entry, GroupWrite):
            group = self._room(entry.path, now).groups.setdefault(entry.group, _Group())
            group.position = entry.position
            group.jobs.update((job.number, job) for job in entry.jobs)
            for number in entry.done:
                group.jobs.pop(number, None)
        elif entry.path in self._rooms:
            room = self._rooms[entry.path]
            if isinstance(entry, Clear):
                room.clear(entry.up_to)
            elif isinstance(entry, Keep):
                room.used_at = now
            else:
                room.groups.pop(entry.group, None)
        return Outcome()

    def _append(self, entry: Append, now: float) -> Outcome:
        if entry.path not in self._rooms and entry.most_rooms is not None and len(self._rooms) >= entry.most_rooms:
            return Outcome(is_refused=True)
        room = self._room(entry.path, now, entry.known)
        room.expire(now)
        room.history = entry.history
        if entry.once and (known := room.repeats.get(entry.once)):
            is_same = known.digest == entry.digest
            return Outcome(room.epoch, known.number if is_same else 0, is_repeat=is_same, is_reused=not is_same)
        first = room.newest + 1
        room.newest += entry.messages
        room.used_at = now
        room.records.append(Record(first, entry.messages, now, entry.frames, entry.key))
        if entry.once:
            room.repeats[entry.once] = Repeat(first, entry.digest, now)
            if len(room.repeats) > MAX_KEYS:
                room.repeats.popitem(last=False)
        return Outcome(room.epoch, first)

    def _room(self, path: str, now: float, known: tuple[str, int] | None = None) -> _Room:
        epoch, newest = known or (new_epoch(), 0)
        return self._rooms.setdefault(path, _Room(epoch, now, newest + 1, newest))

    def _forget_rooms(self, now: float) -> None:
        """Forget rooms with nothing left that have been quiet for long."""
        for path, room in list(self._rooms.items()):
            is_empty = not (room.records or room.groups or room.repeats)
            if is_empty and now - room.used_at >= FORGOTTEN_AFTER_S:
                self.held_bytes -= self._rooms.pop(path).held_bytes

    def tend(self) -> bool:
        self.commit(())
        return False

    @property
    def usage(self) -> Usage:
        return Usage(len(self._rooms))

    def sync(self) -> None:
        """Do nothing: there is no disk."""

    def tail(self, path: str) -> RoomTail | None:
        with self._lock:
            room = self._rooms.get(path)
            return room.tail if room else None

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        with self._lock:
            room = self._rooms.get(path)
            if room is None:
                return None
            first = max(after + 1, room.oldest)
            known = (record for record in room.records if record.last >= first)
            return Page(room.tail, _within(list(losses.fill(known, first, room.newest)), most_messages, most_bytes))

    def read_last(self, path: str, most_messages: int, most_bytes: int) -> Page | None:
        with self._lock:
            room = self._rooms.get(path)
            if room is None:
                return None
            records = list(losses.fill(room.records, room.oldest, room.newest))
            return Page(room.tail, _within(records[::-1], most_messages, most_bytes)[::-1])

    def groups(self) -> list[GroupState]:
        with self._lock:
            return [
                GroupState(path, name, group.position, tuple(sorted(group.jobs.values())))
                for path, room in sorted(self._rooms.items())
                for name, group in sorted(room.groups.items())
            ]

    def close(self) -> None:
        self._is_closed = True


def _within(records: Sequence[Record], most_messages: int, most_bytes: int) -> tuple[Record, ...]:
    """Return the first records within the bounds, and at least one."""
    messages = size = 0
    for count, record in enumerate(records):
        size += len(record.frames or b"")
        if count and (messages >= most_messages or size > most_bytes):
            return tuple(records[:count])
        messages += record.messages if record.frames is not None else 0
    return tuple(records)
