"""Rows of a store in SQLite as values of ours, each with its checksum. A row that isn't as it was written is None.

SQLite checks the frames of its WAL, but not the pages of the file. A damaged file may return any row, of any types.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rawws.broadcast.idempotency import Repeat
from rawws.broadcast.log import History
from rawws.store.checksums import checksum
from rawws.store.entries import Record, RoomTail
from rawws.store.retention import NO_EXTENT, Extent, Kept
from rawws.store.sqlite_schema import BLOCK_JOBS, number_in, row_id

ROOM_COLUMNS = (
    "id, path, epoch, oldest, newest, kept, size, oldest_at, newest_at, keyed_at, "
    "history_messages, history_bytes, history_age, checksum"
)
RECORD_COLUMNS = "id, messages, at, key, frames, checksum"
KEY_COLUMNS = "id, text, owner, digest, at, room, checksum"
GROUP_COLUMNS = "id, room, name, position, checksum"
JOB_COLUMNS = "id, jobs, checksum"

Row = Sequence[Any]
# The memory of a room, besides its path; of one of its oldest records; and of a group, besides its name (measured).
ROOM_BYTES, HEAD_BYTES, GROUP_BYTES = 1500, 110, 300
Lease = tuple[int, float, str]  # a job without its number: the tries, the time that it is due, the name of the lease
UNTRIED: Lease = (0, 0.0, "")
_MOST = 1 << 62
NO_HISTORY = History()
# Raised by reading a value of another type, or bytes that are no text.
_DAMAGE = (TypeError, ValueError, AttributeError, OverflowError)


def bindable(text: str) -> str | bytes:
    """Return a text as SQLite takes it: as bytes if it is no Unicode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
    return text


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def storable(history: History) -> History:
    """Return a history whose limits fit into 64 bits."""
    messages, max_bytes, max_age_s = history
    return History(min(messages, _MOST), min(max_bytes, _MOST), float(max_age_s))


@dataclass(slots=True)
class StoredGroup:
    """A group's row."""

    id: int
    room: int
    name: str
    position: int

    def row(self, path: str) -> Row:
        own = checksum("group", path, self.id, self.name, self.position)
        return self.id, self.room, bindable(self.name), self.position, own


@dataclass(slots=True)
class StoredRoom:
    """A room's row, with what is read of its groups and of its oldest records when that is needed."""

    id: int
    path: str
    epoch: str
    oldest: int = 1
    newest: int = 0
    extent: Extent = NO_EXTENT
    oldest_at: float = 0.0
    used_at: float = 0.0  # the time of the last message, or when somebody used it last
    keyed_at: float = 0.0  # the time of the latest Idempotency-Key; 0 if there are none
    history: History = NO_HISTORY
    groups: dict[str, StoredGroup] | None = None  # not read yet
    heads: deque[Kept] = field(default_factory=deque)  # the oldest records, or none of them
    keys: int | None = None  # the number of its Idempotency-Keys; not counted yet
    due_at: float | None = None  # its time in the table ``due``; not known yet
    held_bytes: int = 0  # as its owner has counted them

    @property
    def tail(self) -> RoomTail:
        return RoomTail(self.epoch, self.oldest, self.newest)

    @property
    def is_empty(self) -> bool:
        """Whether it has no messages and no Idempotency-Keys."""
        return not self.extent.messages and not self.keyed_at

    def count_bytes(self) -> int:
        """Return the bytes of memory that it takes."""
        names = sum(GROUP_BYTES + len(name) for name in self.groups or ())
        return ROOM_BYTES + len(self.path) + HEAD_BYTES * len(self.heads) + names

    def _values(self) -> tuple[str, int, int, int, int, float, float, float, int, int, float]:
        messages, size = self.extent
        times = (self.oldest_at, self.used_at, self.keyed_at)
        return self.epoch, self.oldest, self.newest, messages, size, *times, *self.history

    def row(self) -> Row:
        values = self._values()
        return self.id, bindable(self.path), *values, checksum("room", self.id, self.path, *values)


def read_room(row: Row, path: str | None = None) -> StoredRoom | None:
    """Return the room of a row; None if it is damaged, or the row of another room than ``path``."""
    try:
        own, name, epoch, oldest, newest, kept, size, oldest_at, newest_at, keyed_at, *limits, _ = row
        extent, history = Extent(kept, size), History(*limits)
        times = (oldest_at, newest_at, keyed_at)
        room = StoredRoom(own, _text(name), _text(epoch), oldest, newest, extent, *times, history)
        is_sound = room.row()[-1] == row[-1] and room.path == (path or room.path)
    except _DAMAGE:
        return None
    return room if is_sound else None


def record_row(room: StoredRoom, record: Record) -> Row:
    """Return the row of a record."""
    first, messages, at, frames, key = record
    own = checksum("record", room.path, room.epoch, first, messages, at, key, data=frames or b"")
    return row_id(room.id, first), messages, at, None if key is None else bindable(key), frames, own


def read_record(room: StoredRoom, row: Row) -> Record | None:
    """Return the record of a row; None if it is damaged, or of another room."""
    try:
        own, messages, at, key, frames, _ = row
        record = Record(number_in(own), messages, at, frames, None if key is None else _text(key))
        is_sound = record_row(room, record)[-1] == row[-1]
    except _DAMAGE:
        return None
    return record if is_sound else None


def read_kept(row: Row) -> Kept:
    """Return the extent of a record from its id, messages, length of the frames, and time, which aren't checked."""
    own, messages, size, at = row
    is_sound = isinstance(messages, int) and isinstance(size, int) and isinstance(at, float) and messages > 0
    return Kept(number_in(own), messages, size, at) if is_sound else Kept(number_in(own), 1, 0, 0.0)


def key_row(room: StoredRoom, text: str, owner: str, repeat: Repeat) -> Row:
    """Return the row of an Idempotency-Key; ``owner`` is a digest."""
    number, digest, at = repeat
    own = checksum("key", room.path, room.epoch, number, text, owner, digest, at)
    return row_id(room.id, number), bindable(text), owner, digest, at, room.id, own


def read_key(room: StoredRoom, text: str, owner: str, row: Row) -> Repeat | None:
    """Return what is known of an Idempotency-Key; None if the row is damaged, or that of another one."""
    try:
        own, _, _, digest, at, _, found = row
        repeat = Repeat(number_in(own), _text(digest), at)
        is_sound = key_row(room, text, owner, repeat)[-1] == found
    except _DAMAGE:
        return None
    return repeat if is_sound else None


def read_group(path: str, row: Row) -> StoredGroup | None:
    """Return the group of a row; None if its name can't be read.

    If it is damaged elsewhere, it begins again with the first message: a job that is done twice is better than one
    that is never done.
    """
    try:
        own, room, name, position, found = row
        group = StoredGroup(own, room, _text(name), position)
        is_sound = group.row(path)[-1] == found
    except _DAMAGE:
        try:
            return StoredGroup(row[0], row[1], _text(row[2]), 0)
        except _DAMAGE:
            return None
    return group if is_sound else StoredGroup(own, room, group.name, 0)


def block_row(group: StoredGroup, own: int, jobs: Mapping[int, Lease]) -> Row:
    """Return the row of a block of jobs, by their numbers."""
    stretches: list[list[Any]] = []  # first, count, tries, due, lease
    following, alike = 0, None
    for number in sorted(jobs):
        lease = jobs[number]
        if number == following and lease == alike:
            stretches[-1][1] += 1
        else:
            stretches.append([number, 1, *lease])
            alike = lease
        following = number + 1
    text = json.dumps(stretches, separators=(",", ":"))
    return own, text, _block_checksum(group, own, text)


def _block_checksum(group: StoredGroup, own: int, text: str) -> bytes:
    return checksum("jobs", group.id, group.name, number_in(own), text)


def read_block(group: StoredGroup, row: Row, oldest: int = 1) -> dict[int, Lease]:
    """Return the jobs of a row by their numbers, in order.

    If the row is damaged, nobody knows which of its messages are finished. So each from the number ``oldest`` on that
    the group has taken is due, and hasn't been tried.
    """
    own, raw, found = row
    try:
        text = _text(raw)
        if _block_checksum(group, own, text) == found:
            jobs: dict[int, Lease] = {}
            for first, count, *lease in json.loads(text):
                jobs |= dict.fromkeys(range(first, first + count), tuple(lease))
            return jobs
    except _DAMAGE:
        pass
    first = number_in(own)
    return dict.fromkeys(range(max(first, oldest, 1), min(first + BLOCK_JOBS, group.position + 1)), UNTRIED)


def query(connection: sqlite3.Connection, sql: str, *values: object) -> list[Row]:
    """Return all rows of a query. Raises `sqlite3.Error`."""
    try:
        return connection.execute(sql, values).fetchall()
    except UnicodeDecodeError:  # the message of an error has the damaged part of a schema in it
        error = sqlite3.DatabaseError("its schema is no text")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error from None
