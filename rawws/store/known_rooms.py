"""The rooms of a store that were used lately, as they are in the file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from rawws.limits import MIB
from rawws.store.sqlite_read import find_room
from rawws.store.sqlite_rows import StoredRoom

# Rooms that are remembered between commits, and their memory.
MOST_ROOMS, MOST_BYTES = 10_000, 16 * MIB


class KnownRooms:
    """Rooms by path. Forget them where a transaction is undone.

    They are for the thread that commits; any thread may ask for ``held_bytes``.
    """

    def __init__(self) -> None:
        self._known: dict[str, StoredRoom] = {}
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, path: str) -> StoredRoom | None:
        """Return a room that is known."""
        return self._known.get(path)

    def find(self, connection: sqlite3.Connection, path: str) -> StoredRoom | None:
        """Return a room of the store, which is known from now on."""
        if (room := self._known.get(path)) is None and (room := find_room(connection, path)):
            self.keep(room)
        return room

    def keep(self, room: StoredRoom) -> None:
        self._known[room.path] = room

    def forget(self, room: StoredRoom) -> None:
        if self._known.pop(room.path, None) is not None:
            self.held_bytes -= room.held_bytes

    def clear(self) -> None:
        self._known.clear()
        self.held_bytes = 0

    def bound(self, used: Iterable[StoredRoom]) -> None:
        """Count the memory of rooms that were used, and forget the rooms that have been known for longest.

        This is for the end of a commit: within one, a room is one object.
        """
        for room in used:
            if self._known.get(room.path) is room:
                size = room.count_bytes()
                self.held_bytes += size - room.held_bytes
                room.held_bytes = size
        while len(self._known) > MOST_ROOMS or self.held_bytes > MOST_BYTES:
            self.forget(next(iter(self._known.values())))
