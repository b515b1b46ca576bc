"""SQLite's errors as those of an engine."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from pathlib import Path

from rawws.errors import sentence_of
from rawws.store.engine import StoreBroken, StoreError, StoreFull, StoreLimit

_PROBE = bytes(256 * 1024)

_UNSURE = {
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_CLOSE,
    sqlite3.SQLITE_IOERR_CLOSE,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

# The store is sound, and can't have what it was given: it is too large, for example. To try again is no use.
_OF_ENTRY = {sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE}


def is_of_entry(error: sqlite3.Error) -> bool:
    """Say whether one of the entries of a commit is the cause of an error. The others can be committed without it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_ENTRY


def is_unsure(error: sqlite3.Error) -> bool:
    """Say whether it isn't known after an error what is on the disk."""
    return getattr(error, "sqlite_errorcode", 0) in _UNSURE


def engine_error(error: sqlite3.Error, path: Path, most_bytes: int | None = None) -> StoreError:
    """Return the error of an engine that tells of an error of SQLite in a commit, which was undone.

    ``most_bytes`` is the limit of the file, if it has one.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if is_unsure(error):
        return fsync_failed(path, sentence_of(error))
    if code & 0xFF in _DAMAGED:
        return StoreBroken(f"the store {path} is damaged ({error}); restart with a copy of it, or without it")
    if code & 0xFF == sqlite3.SQLITE_FULL:
        if most_bytes is not None and not _lacks_space(path.parent):
            return limit_reached(path, most_bytes)
        return StoreFull(f"there is no space on the disk for the store {path}; it goes on as soon as there is some")
    if code & 0xFF == sqlite3.SQLITE_IOERR and (reason := _lacks_space(path.parent)):
        return StoreFull(f"the store {path} can't grow ({reason}); it goes on as soon as it can")
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"another program holds the store {path} locked, such as sqlite3 in a transaction; end it")
    return StoreError(f"the store {path} can't be written ({error}); it is tried again")


def limit_reached(path: Path, most_bytes: int) -> StoreLimit:
    """Return the reason why a store takes no more messages, though there is space on the disk."""
    return StoreLimit(
        f"the store {path} has as many bytes as it may (--store-bytes {most_bytes}); "
        "it goes on when rooms have forgotten some of their messages"
    )


def fsync_failed(path: Path, reason: str) -> StoreBroken:
    """Return the error of a failed fsync."""
    return StoreBroken(
        f"an fsync of the store {path} has failed ({reason}), so it isn't known what is on the disk; "
        "check the disk, and restart the server"
    )


def _lacks_space(folder: Path) -> str:
    """Return why a file in a folder can't grow; empty if it can. SQLite tells ENOSPC only, and not EDQUOT."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(_PROBE)
    except OSError as error:
        return sentence_of(error) if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return ""
