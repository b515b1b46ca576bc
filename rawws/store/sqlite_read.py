"""Reading a store in SQLite. A part that can't be read is lost, and the rest is read all the same."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator

from rawws.store import losses
from rawws.store.entries import GroupState, Job, Page, Record
from rawws.store.sqlite_rows import (
    GROUP_COLUMNS,
    JOB_COLUMNS,
    RECORD_COLUMNS,
    ROOM_COLUMNS,
    Row,
    StoredGroup,
    StoredRoom,
    bindable,
    query,
    read_block,
    read_group,
    read_record,
    read_room,
)
from rawws.store.sqlite_schema import row_id, rows_of


def find_room(connection: sqlite3.Connection, path: str) -> StoredRoom | None:
    """Return a room; None if there is none, or its row is damaged."""
    rows = query(connection, f"SELECT {ROOM_COLUMNS} FROM rooms WHERE path = ?", bindable(path))
    return read_room(rows[0], path) if rows else None


def read_page(
    connection: sqlite3.Connection, room: StoredRoom, after: int, most_messages: int, most_bytes: int
) -> Page:
    """Return the page of a room that begins with the record of message ``after + 1``."""
    first = max(after + 1, room.oldest)
    if first > room.newest:
        return Page(room.tail)
    bounds = _Bounds(most_messages, most_bytes)
    records = list(bounds.take(_ascending(connection, room, _record_at(connection, room, first))))
    return Page(room.tail, tuple(losses.fill(records, first, None if bounds.is_cut else room.newest)))


def read_last_page(connection: sqlite3.Connection, room: StoredRoom, most_messages: int, most_bytes: int) -> Page:
    """Return the page with the last records of a room."""
    bounds = _Bounds(most_messages, most_bytes)
    records = list(bounds.take(_descending(connection, room)))[::-1]
    records = [record for record in records if record.last >= room.oldest]
    first = records[0].first if records and bounds.is_cut else room.oldest
    return Page(room.tail, tuple(losses.fill(records, first, room.newest)))


class _Bounds:
    """The bounds of a page. ``is_cut`` says that there are more records."""

    def __init__(self, most_messages: int, most_bytes: int) -> None:
        self._messages, self._bytes = most_messages, most_bytes
        self.is_cut = False

    def take(self, records: Iterable[Record]) -> Iterator[Record]:
        messages = size = 0
        for record in records:
            size += len(record.frames or b"")
            if messages and (messages >= self._messages or size > self._bytes):
                self.is_cut = True
                return
            messages += record.messages
            yield record


def _record_at(connection: sqlite3.Connection, room: StoredRoom, number: int) -> int:
    """Return the id of the row that has a message, or of the first one after it."""
    wanted = row_id(room.id, number)
    sql = "SELECT max(id) FROM records WHERE id BETWEEN ? AND ?"
    try:
        found = query(connection, sql, row_id(room.id, 0), wanted)[0][0]
    except sqlite3.DatabaseError:
        return wanted
    return found if isinstance(found, int) else wanted


def _ascending(connection: sqlite3.Connection, room: StoredRoom, start: int) -> Iterator[Record]:
    """Yield the sound records of a room from a row on, without those on pages that can't be read."""
    sql = f"SELECT {RECORD_COLUMNS} FROM records WHERE id BETWEEN ? AND ? ORDER BY id"
    last = start - 1
    try:
        for row in connection.execute(sql, (start, rows_of(room.id)[1])):
            last = row[0]
            yield from _sound(room, row)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        yield from _ascending_after_damage(connection, room, last + 1)


def _ascending_after_damage(connection: sqlite3.Connection, room: StoredRoom, start: int) -> Iterator[Record]:
    """Yield the sound records from the lowest row on that can be reached from the end of the room."""
    lowest: int | None = None
    with contextlib.suppress(sqlite3.DatabaseError):
        sql = "SELECT id FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC"
        for row in connection.execute(sql, (start, rows_of(room.id)[1])):
            lowest = row[0]
    if lowest is not None:
        yield from _ascending(connection, room, lowest)


def _descending(connection: sqlite3.Connection, room: StoredRoom) -> Iterator[Record]:
    """Yield the sound records of a room, the newest first, down to a page that can't be read."""
    sql = f"SELECT {RECORD_COLUMNS} FROM records WHERE id BETWEEN ? AND ? ORDER BY id DESC"
    try:
        for row in connection.execute(sql, rows_of(room.id)):
            yield from _sound(room, row)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


def _sound(room: StoredRoom, row: Row) -> Iterator[Record]:
    record = read_record(room, row)
    if record is not None and record.last <= room.newest:
        yield record


def is_damage(error: sqlite3.Error) -> bool:
    """Say whether an error is that of a file that isn't as SQLite wrote it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def read_groups(connection: sqlite3.Connection, room: StoredRoom) -> dict[str, StoredGroup]:
    """Return the groups of a room by name."""
    rows = query(connection, f"SELECT {GROUP_COLUMNS} FROM groups WHERE room = ?", room.id)
    found = (read_group(room.path, row) for row in rows)
    return {group.name: group for group in found if group is not None}


def read_jobs(connection: sqlite3.Connection, room: StoredRoom, group: StoredGroup) -> tuple[Job, ...]:
    """Return the jobs of a group of a room, by number."""
    rows = query(connection, f"SELECT {JOB_COLUMNS} FROM jobs WHERE id BETWEEN ? AND ? ORDER BY id", *rows_of(group.id))
    return tuple(Job(number, *lease) for row in rows for number, lease in read_block(group, row, room.oldest).items())


def read_rooms(connection: sqlite3.Connection) -> Iterator[StoredRoom | None]:
    """Yield all rooms by path; None for one whose row is damaged."""
    for row in query(connection, f"SELECT {ROOM_COLUMNS} FROM rooms ORDER BY path"):
        yield read_room(row)


def read_all_groups(connection: sqlite3.Connection) -> Iterator[GroupState]:
    """Yield the state of all groups."""
    sql = f"SELECT {ROOM_COLUMNS} FROM rooms WHERE id IN (SELECT room FROM groups) ORDER BY path"
    for row in query(connection, sql):
        if (room := read_room(row)) is None:
            continue
        for name, group in sorted(read_groups(connection, room).items()):
            yield GroupState(room.path, name, group.position, read_jobs(connection, room, group))
