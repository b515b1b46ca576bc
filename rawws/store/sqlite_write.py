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
from rawws.store.engine import FORGOTTEN_AFTER_S
from rawws.store.entries import Append, Clear, Entry, GroupEnd, GroupWrite, Outcome, Record
from rawws.store.retention import NO_EXTENT, Extent, is_over, removable
from rawws.store.sqlite_read import find_room, read_groups
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

MOST_KNOWN_ROOMS = 10_000  # whose rows are remembered between commits
_HEADS = 64  # the oldest records of a room that are looked at at once
_ROWS = (64, 16, 4, 1)  # of one statement: few forms, so that SQLite's compiled ones are used again
# Rooms that are looked at, at once. Two for each that was made since, so that they can't be made faster than they go.
_SWEPT_ROOMS, _MOST_SWEPT_ROOMS = 100, 2000

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


class Rooms:
    """The rooms that were used lately, as they are in the store. Forget them where a transaction is undone."""

    def __init__(self) -> None:
        self._known: dict[str, StoredRoom] = {}

    def find(self, connection: sqlite3.Connection, path: str) -> StoredRoom | None:
        if (room := self._known.get(path)) is None and (room := find_room(connection, path)):
            self.keep(room)
        return room

    def keep(self, room: StoredRoom) -> None:
        if len(self._known) >= MOST_KNOWN_ROOMS:
            self._known.pop(next(iter(self._known)))
        self._known[room.path] = room

    def forget(self, room: StoredRoom) -> None:
        self._known.pop(room.path, None)

    def clear(self) -> None:
        self._known.clear()


class _Block(NamedTuple):
    """The changes of a block of jobs, by their numbers; None for one that is finished."""

    room: StoredRoom
    group: StoredGroup
    changes: dict[int, Lease | None]


class Change:
    """One transaction. Its owner begins and ends it.

    The changes of `messages` and of the rooms are those that the transaction makes.
    """

    def __init__(self, connection: sqlite3.Connection, rooms: Rooms, now: float) -> None:
        self._connection, self._rooms, self._now = connection, rooms, now
        self.messages = 0  # that are appended
        self.made_rooms = 0
        self._touched: dict[int, StoredRoom] = {}
        self._groups: dict[int, tuple[StoredRoom, StoredGroup]] = {}
        self._records: list[Row] = []
        self._keys: list[Row] = []
        self._repeats: dict[tuple[int, str, str], Repeat] = {}  # of ``_keys``
        self._blocks: dict[int, _Block] = {}  # by their rows
        self._doomed: list[int] = []  # records
        self._past: dict[int, int] = {}  # the first row of a room after those

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
            else:
                self._end_group(room, entry)
        return Outcome()

    def finish(self) -> None:
        """Write what remains, and forget what may go in the rooms that are part of this."""
        self._flush()
        for room in self._touched.values():
            self._trim(room)
        self._delete("records", self._doomed)
        gone = [room for room in self._touched.values() if self._is_over(room)]
        for room in gone:
            self._forget(room)
        self._write_rooms([room.row() for room in self._touched.values()])

    # Messages

    def _append(self, entry: Append) -> Outcome:
        room = self._room(entry.path)
        if room.newest + entry.messages > MOST_MESSAGES:
            self._forget(room)
            room = self._room(entry.path)
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
        room.newest_at = self._now
        room.extent = Extent(messages + record.messages, size + len(record.frames or b""))
        self.messages += record.messages

    def _room(self, path: str) -> StoredRoom:
        """Return a room, which is made if need be."""
        room = self._rooms.find(self._connection, path) or self._make_room(path)
        self._touch(room)
        return room

    def _touch(self, room: StoredRoom) -> None:
        self._touched[room.id] = room

    def _make_room(self, path: str) -> StoredRoom:
        """Make a room. The rest of an earlier one, whose row is damaged, is forgotten."""
        number, *left = query(self._connection, _NEW_ROOM, bindable(path))[0]
        if number > MOST_ROOMS:
            number = query(self._connection, _FREE_ROOM)[0][0]
        for other in filter(None, left):
            self._forget_rows(other)
        room = StoredRoom(number, path, new_epoch(), newest_at=self._now)
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
        self._keys.append(key_row(room, text, owner, repeat))
        self._repeats[room.id, text, owner] = repeat
        room.keyed_at = self._now

    def _expire_keys(self, room: StoredRoom) -> None:
        """Forget Idempotency-Keys that are too old, and the oldest of too many."""
        if not room.keyed_at:
            return
        low, high = rows_of(room.id)
        old = "SELECT id FROM keys WHERE id BETWEEN ?1 AND ?2 AND at <= ?3"
        many = f"SELECT id FROM keys WHERE id BETWEEN ?1 AND ?2 ORDER BY id DESC LIMIT -1 OFFSET {MAX_KEYS}"
        sql = f"DELETE FROM keys WHERE id IN ({old}) OR id IN ({many})"
        self._connection.execute(sql, (low, high, self._now - KEPT_S))
        if self._now - room.keyed_at >= KEPT_S:
            room.keyed_at = 0.0

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

    def sweep(self, after: int, made_rooms: int) -> int:
        """Look at some rooms, and forget what has grown old. Return the number of the last one, or 0 at the end.

        ``made_rooms`` were made since the last time.
        """
        most = min(_SWEPT_ROOMS + 2 * made_rooms, _MOST_SWEPT_ROOMS)
        sql = f"SELECT {ROOM_COLUMNS} FROM rooms WHERE id > ? ORDER BY id LIMIT ?"
        rows = query(self._connection, sql, after, most)
        for row in rows:
            if (room := read_room(row)) and room.id not in self._touched and self._is_due(room):
                self._touch(self._rooms.find(self._connection, room.path) or room)
        return int(rows[-1][0]) if len(rows) == most else 0

    def _is_due(self, room: StoredRoom) -> bool:
        has_old_keys = room.keyed_at > 0 and self._now - room.keyed_at >= KEPT_S
        return has_old_keys or is_over(room.extent, room.oldest_at, room.history, self._now) or self._is_over(room)

    def _is_over(self, room: StoredRoom) -> bool:
        """Say whether a room can be forgotten."""
        is_quiet = self._now - room.newest_at >= FORGOTTEN_AFTER_S
        return is_quiet and not room.extent.messages and not room.keyed_at and not self._groups_of(room)

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
        self._connection.execute("DELETE FROM rooms WHERE id = ?", (number,))

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

    def _delete(self, table: str, numbers: Iterable[int]) -> None:
        if numbers:
            sql = f"DELETE FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
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
