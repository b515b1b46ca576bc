"""Opening a store in SQLite: the file is checked before it is touched, and each refusal is one sentence.

A file with another program's data is refused, and so is one that a newer version has made. A small file is checked as
a whole. A large one isn't, since that would take long: what is damaged in it is noticed where it is read.

Everything in the WAL is then written to the file and synced. After a failed fsync the kernel may show pages that never
reached the disk as written, and a later fsync succeeds without them. So what an earlier process may have left in this
state is written again before anything is called safe.

A store of format 1 becomes one of format 2, in one transaction. Only a file that is written anew as a whole can shrink
from then on. That is done for a small one, also in one transaction: where it fails, the store is as it was before.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from rawws.errors import UsageError, sentence_of
from rawws.store.file_bounds import PAGE_BYTES
from rawws.store.modes import SyncMode
from rawws.store.sqlite_errors import is_unsure
from rawws.store.sqlite_read import is_damage
from rawws.store.sqlite_rows import ROOM_COLUMNS, StoredRoom, query, read_room
from rawws.store.sqlite_schema import (
    APPLICATION_ID,
    JOBS_TABLES,
    VERSION,
    connect,
    create,
    read_schema,
    schema,
)
from rawws.store.sqlite_upgrade import upgrade
from rawws.store.store_lock import Mark, StoreLock, boot_id

_INCREMENTAL = 2  # of the pragma auto_vacuum
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
# A file up to this size is checked as a whole, which takes a tenth of a second.
CHECKED_BYTES = 64 * 1024 * 1024
# The size of the WAL that stays when SQLite begins to write it from its start again.
JOURNAL_BYTES = 1024 * 1024
# The messages that a room may have lost at most with the end of the machine, when nobody knows how many.
_SKIPPED = 1 << 20
# How long another program may hold the file locked.
BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that was opened: its connection for commits, and its mark."""

    connection: sqlite3.Connection
    mark: Mark
    lost: int  # the messages that are lost at its end, or may be
    rooms: int  # their number
    can_shrink: bool  # the file can give back its free space


def open_file(path: Path, mode: SyncMode, lock: StoreLock) -> Opened:
    """Open a store, or make one. Raises `UsageError`."""
    is_new = _check_file(path)
    connection = None
    try:
        if is_new:
            _make_file(path)
        connection = connect(path, mode="rw", busy_s=BUSY_S)
        _prepare(connection, path, mode, is_new=is_new)
        opened = _continue(connection, path, mode, lock)
        _sync_all(connection, path)
        return opened
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise UsageError(refusal_of(error, path)) from None
    except BaseException:
        if connection is not None:
            connection.close()
        raise


def check_folder(path: Path) -> None:
    """Raises `UsageError` if the folder of a store is missing, or a file can't be made there."""
    if path.is_dir():
        raise UsageError(f"the store {path} is a directory; give the path of a file in it, such as {path / 'rooms.db'}")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} for the store; make it, or give another path")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"no files can be made in the directory {path.parent}: {_why_not_writable(path.parent)}")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise UsageError(f"the store {path} can't be written: {_why_not_writable(path)}")


def _why_not_writable(path: Path) -> str:
    """Return why a file or directory can't be written, and what to do."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is read-only; give a path on another one"
    found = path.stat()
    return (
        f"it belongs to user {found.st_uid} with mode {found.st_mode & 0o7777:04o}, and this is user {os.geteuid()}; "
        "change its owner, or give another path"
    )


def check_header(path: Path) -> bool:
    """Return whether a file is missing or empty. Raises `UsageError` if it isn't a store of this version.

    No connection of this process may be open on it: to close a file gives up all of a process's locks on it.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UsageError(f"the store {path} can't be read: {sentence_of(error)}") from None
    if not header:
        return True
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise UsageError(f"{path} is not a store of rawws: it doesn't begin as a database of SQLite; give another path")
    return False


def read_format(connection: sqlite3.Connection, path: Path) -> int:
    """Return the format of a store. Raises `UsageError` if a file of SQLite is another program's, or a newer one's."""
    program = query(connection, "PRAGMA application_id")[0][0]
    version = query(connection, "PRAGMA user_version")[0][0]
    if program != APPLICATION_ID:
        raise UsageError(f"{path} is a database of another program, and not a store of rawws; give another path")
    if version > VERSION:
        raise UsageError(
            f"the store {path} has format {version}, and this rawws knows formats up to {VERSION}; use a newer rawws"
        )
    if version not in JOBS_TABLES or read_schema(connection) != schema(version):
        raise UsageError(_damaged(path, "its tables aren't those of a store"))
    return int(version)


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `UsageError` if a file of SQLite is no store of the present format."""
    version = read_format(connection, path)
    if version != VERSION:
        raise UsageError(
            f"the store {path} has format {version}, and is only read in format {VERSION}; "
            f"a server of this version changes it to that: start one with --store {path}"
        )


def _make_file(path: Path) -> None:
    """Make a file that its user alone may read. SQLite gives its mode to the files beside it. Raises `UsageError`."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UsageError(f"the store {path} can't be made: {sentence_of(error)}") from None


def _check_file(path: Path) -> bool:
    wal = Path(f"{path}-wal")
    is_new = check_header(path)
    if is_new and wal.exists() and wal.stat().st_size:
        raise UsageError(f"the store {path} is missing, but not its {wal.name}; restore it, or move that file away")
    return is_new


def _prepare(connection: sqlite3.Connection, path: Path, mode: SyncMode, *, is_new: bool) -> None:
    """Set up the connection, and make the tables of a new store."""
    version = VERSION
    if is_new:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # what is free can be given back
    elif query(connection, "SELECT count(*) FROM sqlite_master")[0][0]:
        version = read_format(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # of macOS
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # its errors would be lost
    connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
    connection.execute("PRAGMA secure_delete = OFF")
    if not query(connection, "SELECT count(*) FROM sqlite_master")[0][0]:
        create(connection, os.urandom(8).hex())
    _check_pages(connection, path)
    _upgrade(connection, version)
    if mode is not SyncMode.ALWAYS:
        connection.execute("PRAGMA synchronous = NORMAL")


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `UsageError` if a small file is damaged."""
    pages = query(connection, "PRAGMA page_count")[0][0]
    if pages * PAGE_BYTES > CHECKED_BYTES:
        return
    # quick_check wouldn't look at the columns of the tables with an index, and takes as long: the large one has none.
    found = query(connection, "PRAGMA integrity_check(1)")[0][0]
    if found != b"ok":
        raise UsageError(_damaged(path, found.decode(errors="replace").partition("\n")[2] or "integrity_check fails"))


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Make a store of an older format one of this. Afterwards it can shrink, if it is small."""
    if version != VERSION:
        upgrade(connection)
    is_small = query(connection, "PRAGMA page_count")[0][0] * PAGE_BYTES <= CHECKED_BYTES
    if is_small and query(connection, "PRAGMA auto_vacuum")[0][0] != _INCREMENTAL:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA temp_store = MEMORY")  # the directory for temporary files may be small, or not ours
        try:
            connection.execute("VACUUM")
        except sqlite3.Error as error:
            if is_unsure(error) or is_damage(error):
                raise
        finally:
            connection.execute("PRAGMA temp_store = DEFAULT")


def _continue(connection: sqlite3.Connection, path: Path, mode: SyncMode, lock: StoreLock) -> Opened:
    """Compare the store with what it was when its last process told of it, and remember this one."""
    mark = _read_store(connection, path, mode)
    lost = _lost_messages(lock.before, mark)
    if lost:
        mark = mark.advanced(mark.commits + 1, mark.messages + lost)
        _skip_numbers(connection, lost, mark)
    lock.write(mark)
    lock.sync()
    rooms = query(connection, "SELECT count(*) FROM rooms")[0][0]
    can_shrink = query(connection, "PRAGMA auto_vacuum")[0][0] == _INCREMENTAL
    return Opened(connection, mark, lost, rooms, can_shrink)


def _read_store(connection: sqlite3.Connection, path: Path, mode: SyncMode) -> Mark:
    rows = query(connection, "SELECT identity, commits, messages FROM store WHERE id = 1")
    try:
        identity, commits, messages = rows[0]
        return Mark(identity.decode("ascii"), commits + 0, messages + 0, boot_id(), mode.value)
    except (IndexError, TypeError, ValueError, AttributeError):
        raise UsageError(_damaged(path, "its table store can't be read")) from None


def _lost_messages(before: Mark | None, mark: Mark) -> int:
    """Return how many messages may be missing at the end of a store."""
    if before is None or before.identity != mark.identity:
        return 0
    if before.commits > mark.commits:
        return max(1, before.messages - mark.messages)
    is_after_crash = not before.is_closed and before.boot != mark.boot
    return _SKIPPED if is_after_crash and before.mode != SyncMode.ALWAYS.value else 0


def _skip_numbers(connection: sqlite3.Connection, count: int, mark: Mark) -> None:
    """Never give the numbers of lost messages again: nobody knows which room's they were."""
    connection.execute("BEGIN IMMEDIATE")
    for row in query(connection, f"SELECT {ROOM_COLUMNS} FROM rooms"):
        if (room := read_room(row)) is not None:
            room.newest += count
            _write_newest(connection, room)
    connection.execute("UPDATE store SET commits = ?, messages = ?", (mark.commits, mark.messages))
    connection.execute("COMMIT")


def _write_newest(connection: sqlite3.Connection, room: StoredRoom) -> None:
    connection.execute("UPDATE rooms SET newest = ?, checksum = ? WHERE id = ?", (room.newest, room.row()[-1], room.id))


def _sync_all(connection: sqlite3.Connection, path: Path) -> None:
    """Have everything on the disk, in the file itself."""
    _, frames, written = query(connection, "PRAGMA wal_checkpoint(TRUNCATE)")[0]
    if written < frames:  # another program reads what was there before
        raise UsageError(_locked(path))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(f"the directory {path.parent} of the store can't be synced: {sentence_of(error)}") from None


def _damaged(path: Path, reason: str) -> str:
    return f"the store {path} is damaged ({reason}); restore a copy of it, or move it away to begin with an empty one"


def _locked(path: Path) -> str:
    return f"another program holds the store {path} locked, such as sqlite3 in a transaction; end it"


def refusal_of(error: sqlite3.Error, path: Path) -> str:
    """Return a sentence about an error of SQLite that keeps a store from being opened."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if is_damage(error) or (isinstance(error, sqlite3.OperationalError) and code == sqlite3.SQLITE_ERROR):
        return _damaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return _locked(path)
    if code == sqlite3.SQLITE_FULL:
        return f"there is no space on the disk for the store {path}; make some, or give a path on another disk"
    return f"the store {path} can't be opened ({error}); check the disk, or give another path"
