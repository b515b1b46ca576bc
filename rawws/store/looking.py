"""A look into a store, by a person or a program, also while a server has it open. Nothing is changed."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rawws.errors import UsageError
from rawws.store.engine import StoreError
from rawws.store.entries import GroupState, Page, Record
from rawws.store.sqlite_opening import check_format, check_header, refusal_of
from rawws.store.sqlite_read import find_room, read_groups, read_jobs, read_last_page, read_page, read_rooms
from rawws.store.sqlite_rows import StoredRoom, query
from rawws.store.sqlite_schema import connect

# Read at a time, so that a server's checkpoints don't wait for the reader of a long list.
_PAGE_BYTES = 1024 * 1024
_PAGE_MESSAGES = 10_000


class SeenRoom(NamedTuple):
    """A room with its groups, as they are now."""

    room: StoredRoom
    groups: tuple[GroupState, ...]


class StoreView:
    """A store that is open for reading. Errors in its files are `StoreError`, where nothing of it can be read."""

    def __init__(self, path: Path) -> None:
        """Open a store. Raises `UsageError` if there is none, or it can't be read."""
        self.path = path
        if check_header(path):
            raise UsageError(f"there is no store at {path}; give the path that `--store` has")
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        # While a server has the store, there is a WAL. Without one, no file is to be made beside the store.
        mode = "ro" if Path(f"{self.path}-wal").exists() else "ro&immutable=1"
        try:
            return self._connect(mode)
        except sqlite3.Error as error:
            raise UsageError(refusal_of(error, self.path)) from None

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = connect(self.path, mode=mode)
        try:
            query(connection, "SELECT count(*) FROM sqlite_master")
            check_format(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        self._connection.close()

    def rooms(self) -> Iterator[SeenRoom | None]:
        """Yield the rooms by path; None for one that can't be read. Raises `StoreError`."""
        with self._reading():
            for room in read_rooms(self._connection):
                yield SeenRoom(room, tuple(self._groups(room))) if room else None

    def _groups(self, room: StoredRoom) -> Iterator[GroupState]:
        for name, group in sorted(read_groups(self._connection, room).items()):
            if not name:  # it says that the room has dead jobs
                continue
            yield GroupState(room.path, name, group.position, read_jobs(self._connection, room, group))

    def room(self, path: str) -> StoredRoom | None:
        """Return a room; None if there is none, or it can't be read. Raises `StoreError`."""
        with self._reading():
            return find_room(self._connection, path)

    def records(self, room: StoredRoom) -> Iterator[Record]:
        """Yield the records of a room and its lost stretches. Raises `StoreError`."""
        after = room.oldest - 1
        while records := self._page(room, after).records:
            yield from records
            after = records[-1].last

    def _page(self, room: StoredRoom, after: int) -> Page:
        with self._reading():
            return read_page(self._connection, room, after, _PAGE_MESSAGES, _PAGE_BYTES)

    def last(self, room: StoredRoom, messages: int) -> tuple[Record, ...]:
        """Return the last records of a room that have some messages together. Raises `StoreError`."""
        with self._reading():
            return read_last_page(self._connection, room, messages, 1 << 62).records

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"a part of the store {self.path} can't be read ({error})") from None
