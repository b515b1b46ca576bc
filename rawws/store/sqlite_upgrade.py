"""Stores of earlier formats, which are brought to the present one when they are opened."""

from __future__ import annotations

import sqlite3
from itertools import groupby

from rawws.store.checksums import checksum
from rawws.store.sqlite_read import read_groups, read_rooms
from rawws.store.sqlite_rows import UNTRIED, Lease, Row, StoredGroup, block_row, query
from rawws.store.sqlite_schema import BLOCK_JOBS, DUE_TABLE, JOBS_TABLES, VERSION, number_in, row_id, rows_of


def upgrade(connection: sqlite3.Connection) -> None:
    """Bring a store of format 1 to the present format: there each job has a row, and no room the time when it is due.

    Either all of it is changed, or nothing. Raises `sqlite3.Error`.
    """
    connection.execute("BEGIN IMMEDIATE")
    rooms = [room for room in read_rooms(connection) if room is not None]
    groups = [group for room in rooms for group in read_groups(connection, room).values()]
    blocks = [block for group in groups for block in _blocks(connection, group)]
    connection.execute("DROP TABLE jobs")
    connection.execute(JOBS_TABLES[VERSION])
    connection.executemany("INSERT INTO jobs VALUES (?, ?, ?)", blocks)
    for statement in filter(None, DUE_TABLE.split(";")):
        connection.execute(statement)
    connection.execute("INSERT INTO due SELECT id, 0.0 FROM rooms")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _blocks(connection: sqlite3.Connection, group: StoredGroup) -> list[Row]:
    sql = "SELECT id, tries, due, lease, checksum FROM jobs WHERE id BETWEEN ? AND ? ORDER BY id"
    rows = query(connection, sql, *rows_of(group.id))
    return [
        block_row(group, row_id(group.id, first), {number_in(row[0]): _lease(group, row) for row in of_block})
        for first, of_block in groupby(rows, lambda row: number_in(row[0]) & -BLOCK_JOBS)
    ]


def _lease(group: StoredGroup, row: Row) -> Lease:
    """Return the job of a row. If the row is damaged, the job is due, and hasn't been tried."""
    try:
        own, tries, due, raw, found = row
        lease = raw.decode("utf-8", "surrogatepass")
        is_sound = checksum("job", group.id, group.name, number_in(own), tries, due, lease) == found
    except (TypeError, ValueError, AttributeError):
        is_sound = False
    return (tries, due, lease) if is_sound else UNTRIED
