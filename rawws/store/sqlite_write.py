"""Entries as changes of a store in SQLite, within one transaction.

A thread that calls SQLite gives up the GIL at every step of a statement, and gets it back from a busy loop only after
milliseconds. So rows are collected, and written by few statements with many values each.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS, Repeat
from rawws.broadcast.message_ids import new_epoch
from rawws.store.engine import StoreUnfit
from rawws.store.entries import Append, Clear, Entry, GroupEnd, GroupWrite, Keep, Outcome, Record
from rawws.store.file_bounds import FileLimit
from rawws.store.known_rooms import KnownRooms
from rawws.store.retention import NO_EXTENT, Extent, due_at, is_over, removable
from rawws.store.sqlite_read import read_groups
from rawws.store.sqlite_rows import (
    GROUP_COLUMNS,
    JOB_COLUMNS,
    KEY_COLUMNS,
    RECORD_COLUMNS,
    ROOM_COLUMNS,
    Lease,
    Row,
    StoredGroup,
    StoredRoom,
    bindable,
    block_row,
    key_row,
    query,
    read_block,
    read_kept,
    read_key,
    read_room,
    record_row,
    storable,
)
from rawws.store.sqlite_schema import BLOCK_JOBS, MOST_MESSAGES, MOST_ROOMS, NUMBER_BITS, number_in, row_id, rows_of

_HEADS = 64  # the oldest records of a room that are looked at at once
_ROWS = (64, 16, 4, 1)  # of one statement: few forms, so that SQLite's compiled ones are used again
# The number of a new room, that of a damaged one with its path, and the number again if there are rows that have it.
_NEW_ROOM = f"""
WITH new (id, low, high) AS (
    SELECT id, id << {NUMBER_BITS}, id << {NUMBER_BITS} | {MOST_MESSAGES}
    FROM (SELECT ifnull(max(id), 0) + 1 AS id FROM rooms)
)
SELECT id, (SELECT id FROM rooms WHERE path = ?), CASE
    WHEN EXISTS (SELECT 1 FROM records WHERE id BETWEEN low AND high)
        OR EXISTS (SELECT 1 FROM groups WHERE room = new.id)
        OR EXISTS (SELECT 1 FROM keys WHERE id BETWEEN low AND high)
    THEN id END FROM new
"""
_FREE_ROOM = "SELECT min(id) + 1 FROM rooms WHERE id + 1 NOT IN (SELECT id FROM rooms)"


class Before(NamedTuple):
    """The store before a transaction, and what the transaction may do."""

    rooms: int  # how many there are
    limit: FileLimit | None
    forgets_after_s: float  # rooms of which nothing is left, and that nobody has used for this time


class _Block(NamedTuple):
    """The changes of a block of jobs, by their numbers; None for one that is finished."""

    room: StoredRoom
    group: StoredGroup
    changes: dict[int, Lease | None]


class Change:
    """One transaction. Its owner begins and ends it.

    The changes of `messages` and of the rooms are those that the transaction makes.
    """

    def __init__(self, connection: sqlite3.Connection, rooms: KnownRooms, now: float, before: Before) -> None:
        self._connection, self._rooms, self._now, self._before = connection, rooms, now, before
        self.messages = 0  # that are appended
        self.made_rooms = self.forgotten_rooms = 0
        self._touched: dict[int, StoredRoom] = {}
        self._groups: dict[int, tuple[StoredRoom, StoredGroup]] = {}
        self._records: list[Row] = []
        self._keys: list[Row] = []
        self._repeats: dict[tuple[int, str, str], Repeat] = {}  # of ``_keys``
        self._blocks: dict[int, _Block] = {}  # by their rows
        self._doomed: list[int] = []  # records
        self._past: dict[int, int] = {}  # the first row of a room after those
        self._swept: set[int] = set()  # the rooms that were due

    def carry_out(self, entry: Entry) -> Outcome:
        """Carry out an entry. `finish` writes what remains."""
        if isinstance(entry, Append):
            return self._append(entry)
        if isinstance(entry, GroupWrite):
            self._write_group(entry)
        elif room := self._rooms.find(self._connection, entry.path):
            self._touch(room)
            if isinstance(entry, Clear):
                self._clear(room, entry.up_to)
            elif isinstance(entry, Keep):
                room.used_at = self._now
            else:
                self._end_group(room, entry)
        return Outcome()

    def finish(self) -> None:
        """Write what remains, and forget what may go in the rooms that are part of this."""
        self._flush()
        for room in self._touched.values():
            self._trim(room)
        self._delete("records", self._doomed)
        self._forget_quiet()
        self._write_rooms([room.row() for room in self._touched.values()])
        self._write_due()
        self._rooms.bound(self._touched.values())

    @property
    def rooms(self) -> int:
        """The number of rooms after the transaction."""
        return self._before.rooms + self.made_rooms - self.forgotten_rooms

    # Messages

    def _append(self, entry: Append) -> Outcome:
        limit = self._before.limit
        if limit is not None and not limit.fits(len(entry.frames)):
            size = f"{len(entry.frames)} bytes, of {limit.most_bytes} (--store-bytes)"
            raise StoreUnfit(f"a message is too large for its store: {size}")
        room = self._rooms.find(self._connection, entry.path)
        if room is not None and room.newest + entry.messages > MOST_MESSAGES:
            self._forget(room)
            room = self._make_room(entry.path)
        if room is None:
            if entry.most_rooms is not None and self.rooms >= entry.most_rooms:
                return Outcome(is_refused=True)
            room = self._make_room(entry.path, entry.known)
        self._touch(room)
        room.history = storable(entry.history)
        if entry.once and (known := self._find_repeat(room, entry.once.text, entry.once.owner_digest)):
            is_same = known.digest == entry.digest
            return Outcome(room.epoch, known.number if is_same else 0, is_repeat=is_same, is_reused=not is_same)
        record = Record(room.newest + 1, entry.messages, self._now, entry.frames, entry.key)
        self._records.append(record_row(room, record))
        self._count(room, record)
        if entry.once:
            self._note(room, entry.once.text, entry.once.owner_digest, Repeat(record.first, entry.digest, self._now))
        return Outcome(room.epoch, record.first)

    def _count(self, room: StoredRoom, record: Record) -> None:
        messages, size = room.extent
        if not messages:
            room.oldest_at = self._now
        room.newest = record.last
        room.used_at = self._now
        room.extent = Extent(messages + record.messages, size + len(record.frames or b""))
        self.messages += record.messages

    def _room(self, path: str) -> StoredRoom:
        """Return a room, which is made if need be."""
        room = self._rooms.find(self._connection, path) or self._make_room(path)
        self._touch(room)
        return room

    def _touch(self, room: StoredRoom) -> None:
        self._touched[room.id] = room

    def _make_room(self, path: str, known: tuple[str, int] | None = None) -> StoredRoom:
        """Make a room. The rest of an earlier one, whose row is damaged, is forgotten.

        ``known`` is the epoch and the last number of one that was forgotten, and goes on.
        """
        number, *left = query(self._connection, _NEW_ROOM, bindable(path))[0]
        if number > MOST_ROOMS:
            number = query(self._connection, _FREE_ROOM)[0][0]
        for other in filter(None, left):
            self._forget_rows(other)
        epoch, newest = (new_epoch(), 0) if known is None or left[0] else known
        room = StoredRoom(number, path, epoch, newest + 1, newest, used_at=self._now)
        self._write_rooms([room.row()])
        self._rooms.keep(room)
        self.made_rooms += 1
        return room

    # Idempotency-Keys

    def _find_repeat(self, room: StoredRoom, text: str, owner: str) -> Repeat | None:
        if known := self._repeats.get((room.id, text, owner)):
            return known
        if not room.keyed_at:
            return None
        sql = f"SELECT {KEY_COLUMNS} FROM keys WHERE room = ? AND text = ? AND owner = ? ORDER BY id DESC"
        rows = query(self._connection, sql, room.id, bindable(text), owner)
        repeat = read_key(room, text, owner, rows[0]) if rows else None
        return repeat if repeat and self._now - repeat.noted_at < KEPT_S else None

    def _note(self, room: StoredRoom, text: str, owner: str, repeat: Repeat) -> None:
        if room.keys is None:
            sql = "SELECT count(*) FROM keys WHERE id BETWEEN ? AND ?"
            room.keys = query(self._connection, sql, *rows_of(room.id))[0][0] if room.keyed_at else 0
        room.keys += 1
        self._keys.append(key_row(room, text, owner, repeat))
        self._repeats[room.id, text, owner] = repeat
        room.keyed_at = self._now

    def _expire_keys(self, room: StoredRoom) -> None:
        """Forget the Idempotency-Keys of a room if all are too old, and the oldest of too many."""
        if room.keyed_at and self._now - room.keyed_at >= KEPT_S:
            self._delete_between("keys", room.id)
            room.keyed_at, room.keys = 0.0, 0
        elif room.keys is not None and room.keys > MAX_KEYS:
            oldest = "SELECT id FROM keys WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
            sql = f"DELETE FROM keys WHERE id IN ({oldest})"
            self._connection.execute(sql, (*rows_of(room.id), room.keys - MAX_KEYS))
            room.keys = MAX_KEYS

    # Groups

    def _groups_of(self, room: StoredRoom) -> dict[str, StoredGroup]:
        if room.groups is None:
            room.groups = read_groups(self._connection, room)
        return room.groups

    def _write_group(self, entry: GroupWrite) -> None:
        room = self._room(entry.path)
        groups = self._groups_of(room)
        group = groups.get(entry.group) or self._make_group(room, entry.group)
        group.position = entry.position
        self._groups[group.id] = room, group
        self._change_jobs(room, group, ((job[0], job[1:]) for job in entry.jobs))
        self._change_jobs(room, group, ((number, None) for number in entry.done))

    def _change_jobs(self, room: StoredRoom, group: StoredGroup, jobs: Iterable[tuple[int, Lease | None]]) -> None:
        own, changes = -1, dict[int, Lease | None]()
        for number, job in jobs:
            if number & -BLOCK_JOBS != own:
                own = number & -BLOCK_JOBS
                row = row_id(group.id, own)
                if row not in self._blocks:
                    self._blocks[row] = _Block(room, group, {})
                changes = self._blocks[row].changes
            changes[number] = job

    def _write_blocks(self) -> None:
        """Write the jobs that have changed, with the others of their blocks."""
        if not self._blocks:
            return
        sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
        stored = {row[0]: row for row in query(self._connection, sql, json.dumps(list(self._blocks)))}
        rows, gone = [], []
        for own, (room, group, changes) in self._blocks.items():
            row = stored.get(own)
            known = {} if row is None else read_block(group, row, room.oldest)
            jobs = {number: lease for number, lease in (known | changes).items() if lease is not None}
            if jobs:
                rows.append(block_row(group, own, jobs))
            elif row is not None:
                gone.append(own)
        self._delete("jobs", gone)
        self._write("jobs", JOB_COLUMNS, rows)
        self._blocks.clear()

    def _make_group(self, room: StoredRoom, name: str) -> StoredGroup:
        number = (query(self._connection, "SELECT max(id) FROM groups")[0][0] or 0) + 1
        group = StoredGroup(number, room.id, name, 0)
        self._delete_between("jobs", group.id)
        self._write("groups", GROUP_COLUMNS, [group.row(room.path)])
        self._groups_of(room)[name] = group
        return group

    def _end_group(self, room: StoredRoom, entry: GroupEnd) -> None:
        group = self._groups_of(room).pop(entry.group, None)
        if group is None:
            return
        self._flush()
        self._delete_between("jobs", group.id)
        self._delete("groups", [group.id])

    def _needed(self, room: StoredRoom) -> int:
        """Return the number of the first message that a group needs; if there is no group, the next message's."""
        needed = room.newest + 1
        for group in self._groups_of(room).values():
            sql = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1"
            first = group.position + 1
            for row in query(self._connection, sql, *rows_of(group.id)):
                first = next(iter(read_block(group, row, room.oldest)), number_in(row[0]))
            needed = min(needed, first)
        return needed

    # Forgetting

    def _trim(self, room: StoredRoom) -> None:
        self._expire_keys(room)
        if not is_over(room.extent, room.oldest_at, room.history, self._now):
            return
        needed = self._needed(room)
        self._look_at_oldest(room)
        while count := removable(room.heads, room.extent, room.history, self._now, needed):
            self._drop(room, count)

    def _clear(self, room: StoredRoom, up_to: int) -> None:
        self._flush()
        end = min(up_to + 1, self._needed(room), room.newest + 1)
        self._look_at_oldest(room)
        while room.heads and room.heads[0].last < end:
            self._drop(room, 1)
        room.oldest = max(room.oldest, end)

    def _look_at_oldest(self, room: StoredRoom) -> None:
        """Read the extent of the oldest records, unless some are known. Without any, the room is empty."""
        if room.heads:
            return
        low, high = rows_of(room.id)
        sql = (
            f"SELECT id, messages, length(frames), at FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT {_HEADS}"
        )
        rows = query(self._connection, sql, self._past.get(room.id, low), high)
        room.heads = deque(map(read_kept, rows))
        if room.heads:
            room.oldest, room.oldest_at = max(room.oldest, room.heads[0].first), room.heads[0].at
        else:
            room.oldest, room.extent = room.newest + 1, NO_EXTENT

    def _drop(self, room: StoredRoom, count: int) -> None:
        for _ in range(count):
            record = room.heads.popleft()
            room.extent = room.extent.without(record)
            self._doomed.append(row_id(room.id, record.first))
        self._past[room.id] = self._doomed[-1] + 1
        if room.heads:
            room.oldest, room.oldest_at = max(room.oldest, room.heads[0].first), room.heads[0].at
        else:
            self._look_at_oldest(room)

    def sweep(self, most: int) -> bool:
        """Have rooms forget what has grown old, the first ``most`` that are due; return whether there may be more."""
        sql = "SELECT room FROM due WHERE at <= ? ORDER BY at LIMIT ?"
        due = {number for (number,) in query(self._connection, sql, self._now, most)}
        sql = f"SELECT {ROOM_COLUMNS} FROM rooms WHERE id IN (SELECT value FROM json_each(?))"
        rows = query(self._connection, sql, json.dumps([*due])) if due else []
        for row in rows:
            if room := read_room(row):
                self._touch(self._rooms.get(room.path) or room)
                self._swept.add(room.id)
        # A room whose row is damaged is found again by its path.
        self._delete("due", [*due - self._swept], "room")
        return len(due) == most

    def look_for_quiet(self, after: int, most: int) -> int:
        """Look for rooms that can be forgotten, from a number on; return that of the last one, or 0 at the end."""
        sql = f"SELECT {ROOM_COLUMNS} FROM rooms WHERE id > ? ORDER BY id LIMIT ?"
        rows = query(self._connection, sql, after, most)
        for row in rows:
            if (room := read_room(row)) and room.id not in self._touched:
                known = self._rooms.get(room.path) or room
                if self._is_quiet(known):
                    self._touch(known)
        return int(rows[-1][0]) if len(rows) == most else 0

    def _forget_quiet(self) -> None:
        """Forget the rooms of which nothing is left, and that nobody has used for long."""
        quiet = [room for room in self._touched.values() if self._is_quiet(room)]
        if not quiet:
            return
        wanted = json.dumps([room.id for room in quiet])
        sql = "SELECT DISTINCT room FROM groups WHERE room IN (SELECT value FROM json_each(?))"
        with_groups = {number for (number,) in query(self._connection, sql, wanted)}
        gone = [room.id for room in quiet if room.id not in with_groups]
        for number in gone:
            self._rooms.forget(self._touched.pop(number))
        self._delete("rooms", gone)
        self._delete("due", gone, "room")
        self.forgotten_rooms += len(gone)
        for number in with_groups:
            self._groups_of(self._touched[number])

    def _is_quiet(self, room: StoredRoom) -> bool:
        return room.is_empty and self._now - room.used_at >= self._before.forgets_after_s

    def _write_due(self) -> None:
        """Have the rooms looked at again in time. A time that is too early does no harm, and stays."""
        rows: list[Row] = []
        for room in self._touched.values():
            used_at = None if room.groups else room.used_at
            at = due_at(room.extent, room.oldest_at, room.history, room.keyed_at, used_at, self._now)
            if room.due_at is None or at < room.due_at or room.id in self._swept:
                room.due_at = at
                rows.append((room.id, at))
        self._write("due", "room, at", rows)

    def _forget(self, room: StoredRoom) -> None:
        self._flush()
        self._forget_rows(room.id)
        self._rooms.forget(room)
        self._touched.pop(room.id, None)

    def _forget_rows(self, number: int) -> None:
        for table in ("records", "keys"):
            self._delete_between(table, number)
        low = "SELECT id FROM groups WHERE room = ?"
        for (group,) in query(self._connection, low, number):
            self._delete_between("jobs", group)
        self._connection.execute("DELETE FROM groups WHERE room = ?", (number,))
        self._connection.execute("DELETE FROM due WHERE room = ?", (number,))
        deleted = self._connection.execute("DELETE FROM rooms WHERE id = ?", (number,))
        self.forgotten_rooms += deleted.rowcount

    # Statements

    def _flush(self) -> None:
        """Write the rows that were collected, but for those of the rooms."""
        self._write("records", RECORD_COLUMNS, self._records)
        self._write("keys", KEY_COLUMNS, self._keys)
        self._repeats.clear()
        self._write("groups", GROUP_COLUMNS, [group.row(room.path) for room, group in self._groups.values()])
        self._write_blocks()
        self._records, self._keys = [], []
        self._groups.clear()

    def _write_rooms(self, rows: Sequence[Row]) -> None:
        # Unlike REPLACE, this leaves the index of the paths alone.
        changed = ", ".join(f"{name} = excluded.{name}" for name in ROOM_COLUMNS.split(", ")[2:])
        self._write("rooms", ROOM_COLUMNS, rows, "INSERT", f"ON CONFLICT (id) DO UPDATE SET {changed}")

    def _write(self, table: str, columns: str, rows: Sequence[Row], verb: str = "REPLACE", conflict: str = "") -> None:
        for count, first in _portions(len(rows)):
            values = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * count)
            sql = f"{verb} INTO {table} ({columns}) VALUES {values} {conflict}"
            self._connection.execute(sql, [value for row in rows[first : first + count] for value in row])

    def _delete(self, table: str, numbers: Iterable[int], column: str = "id") -> None:
        if numbers:
            sql = f"DELETE FROM {table} WHERE {column} IN (SELECT value FROM json_each(?))"
            self._connection.execute(sql, (json.dumps(numbers),))

    def _delete_between(self, table: str, owner: int) -> None:
        self._connection.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", rows_of(owner))


def _portions(total: int) -> Iterable[tuple[int, int]]:
    """Yield how many rows each statement takes, and the first of them."""
    first = 0
    for size in _ROWS:
        while total - first >= size:
            yield size, first
            first += size
