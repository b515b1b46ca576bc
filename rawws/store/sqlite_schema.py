"""The tables of a store in SQLite.

Rows are found by one integer: the number of the room (or group) in the upper bits, and that of the message in the
lower ones. So the messages of a room lie together, in a table without a second index. Compared with PRIMARY KEY (room,
message), with or without ROWID, a commit took 0.7 to 0.9 times the CPU; pages of 8 or 16 KiB took 1.2 times as much.

The jobs of a group are in blocks: a row has the unfinished ones among `BLOCK_JOBS` consecutive messages, as JSON. Jobs
that were delivered together are one entry, ``[first, count, tries, due, lease]``. With a row for each job, the store's
thread took twice the CPU for a job from its delivery to its end.

The view ``list`` is for people: ``sqlite3 rooms.db 'SELECT * FROM list'``.

The table ``due`` has the time at which a room is to be looked at, since something in it may be forgotten then. It is a
hint, and has no checksum: the room itself says what may be forgotten.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from pathlib import Path
from urllib.parse import quote

APPLICATION_ID = 0x52415753  # "RAWS" in the file's header
VERSION = 2  # of these tables

NUMBER_BITS = 40
MOST_MESSAGES = (1 << NUMBER_BITS) - 1  # in an epoch of a room
MOST_ROOMS = (1 << 63 - NUMBER_BITS) - 1
BLOCK_JOBS = 64  # a power of two

_TABLES = f"""
CREATE TABLE store (
    id INTEGER PRIMARY KEY CHECK (id = 1), identity TEXT NOT NULL, commits INTEGER NOT NULL, messages INTEGER NOT NULL
);
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
    oldest INTEGER NOT NULL, newest INTEGER NOT NULL, kept INTEGER NOT NULL, size INTEGER NOT NULL,
    oldest_at REAL NOT NULL, newest_at REAL NOT NULL, keyed_at REAL NOT NULL,
    history_messages INTEGER NOT NULL, history_bytes INTEGER NOT NULL, history_age REAL NOT NULL,
    checksum BLOB NOT NULL
);
CREATE TABLE records (
    id INTEGER PRIMARY KEY, messages INTEGER NOT NULL, at REAL NOT NULL, key TEXT, frames BLOB NOT NULL,
    checksum BLOB NOT NULL
);
CREATE TABLE keys (
    id INTEGER PRIMARY KEY, text TEXT NOT NULL, owner TEXT NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL,
    room INTEGER NOT NULL, checksum BLOB NOT NULL
);
CREATE INDEX keys_by_text ON keys (room, text, owner);
CREATE TABLE groups (
    id INTEGER PRIMARY KEY, room INTEGER NOT NULL, name TEXT NOT NULL, position INTEGER NOT NULL,
    checksum BLOB NOT NULL, UNIQUE (room, name)
);
{{jobs}}
CREATE VIEW list AS
    SELECT rooms.path, rooms.epoch || '-' || (records.id & {MOST_MESSAGES}) AS first_id, records.messages,
        datetime(records.at, 'unixepoch') AS at, records.key, length(records.frames) AS bytes
    FROM records JOIN rooms ON rooms.id = records.id >> {NUMBER_BITS};
"""

# Format 2 has it besides.
DUE_TABLE = "CREATE TABLE due (room INTEGER PRIMARY KEY, at REAL NOT NULL);CREATE INDEX due_by_at ON due (at);"

# The table of the jobs in each format, all of which are read. A file is recognized by this text, to the byte, as SQLite
# keeps it: not even a space may change.
JOBS_TABLES = {
    1: """CREATE TABLE jobs (
    id INTEGER PRIMARY KEY, tries INTEGER NOT NULL, due REAL NOT NULL, lease TEXT NOT NULL, checksum BLOB NOT NULL
);""",
    VERSION: "CREATE TABLE jobs (id INTEGER PRIMARY KEY, jobs TEXT NOT NULL, checksum BLOB NOT NULL);",
}


def connect(path: Path, *, mode: str, busy_s: float = 5.0) -> sqlite3.Connection:
    """Return a connection to a file, in one of SQLite's URI modes: rwc, rw, ro. Texts are read as bytes.

    A text of a damaged file need not be UTF-8. Another program may have the file locked for ``busy_s`` seconds. Raises
    `sqlite3.Error`.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_s, cached_statements=256
    )
    connection.text_factory = bytes
    # A damaged file may have any schema and any cell.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def create(connection: sqlite3.Connection, identity: str, version: int = VERSION) -> None:
    """Make the tables of a format in an empty file, all of them or none."""
    later = DUE_TABLE if version > 1 else ""
    connection.executescript(
        f"BEGIN IMMEDIATE;{_TABLES.format(jobs=JOBS_TABLES[version])}{later}"
        f"INSERT INTO store VALUES (1, '{identity}', 0, 0);"
        f"PRAGMA application_id = {APPLICATION_ID};PRAGMA user_version = {version};COMMIT;"
    )


@functools.cache
def schema(version: int) -> tuple[tuple[bytes, ...], ...]:
    """Return the schema of a sound store of a format, as `read_schema` does."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.text_factory = bytes
        create(connection, "", version)
        return read_schema(connection)


def read_schema(connection: sqlite3.Connection) -> tuple[tuple[bytes, ...], ...]:
    """Return the kind, name, table and SQL of each part of a schema."""
    return tuple(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall())


def row_id(owner: int, number: int) -> int:
    """Return the id of a message's row; ``owner`` is the number of the room or group."""
    return owner << NUMBER_BITS | number


def number_in(row: int) -> int:
    """Return the number of the message from the id of its row."""
    return row & MOST_MESSAGES


def rows_of(owner: int) -> tuple[int, int]:
    """Return the lowest and the highest id of the rows of a room or group."""
    return row_id(owner, 0), row_id(owner, MOST_MESSAGES)
