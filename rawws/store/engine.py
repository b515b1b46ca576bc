"""The interface of a store's engine, and the errors that it raises.

An engine blocks, so it is called in threads: `commit`, `sync` and `close` in one, the other methods in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rawws.errors import RawwsError
from rawws.store.entries import Entry, GroupState, Outcome, Page, RoomTail


class StoreError(RawwsError):
    """A store can't do what was asked. Nothing of the commit is stored, and it may be tried again."""


class StoreFull(StoreError):
    """There is no space on the disk (ENOSPC), or the quota is used up (EDQUOT)."""


class StoreLimit(StoreFull):
    """The store has as many bytes as it may, and the disk has space. Changes that make it smaller are still stored."""


class StoreUnfit(StoreError):
    """One of the entries can never be stored, as a message that is larger than the store may be."""


class StoreBroken(StoreError):
    """It isn't known any more what is on the disk: an fsync has failed, or the file is damaged.

    Trying again is no use.
    """


class Usage(NamedTuple):
    """The extent of a store."""

    rooms: int = 0
    used_bytes: int = 0  # of the file: the rest of it is free for what comes
    file_bytes: int = 0  # with the log beside it
    most_bytes: int | None = None  # of the file; None for no limit


class Engine(Protocol):
    """A store of the messages of rooms, and of the state of groups."""

    @property
    def description(self) -> str:
        """A name for people, such as its path."""

    @property
    def usage(self) -> Usage:
        """Its extent after the last commit. Any thread may ask, and it doesn't block."""

    @property
    def shortage(self) -> StoreLimit | None:
        """The reason why publishers should wait, though commits are still possible; None if there is space.

        Any thread may ask, and it doesn't block.
        """

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that it takes. Any thread may ask, and it doesn't block."""

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Carry out entries in their order, all or none of them, and return the outcome of each.

        When it returns they are as safe as the engine's mode says. Each commit also forgets a part of what has grown
        old in other rooms; an empty one does nothing else. A room may begin a new epoch after it was forgotten or
        damaged. Raises `StoreError`: `StoreUnfit` if the other entries can be committed.
        """

    def tend(self) -> bool:
        """Do a small part of what isn't urgent: forget what has grown old, and give back free space to the disk.

        Return whether there is more to do at once. It is due about once a second. Raises `StoreError`.
        """

    def sync(self) -> None:
        """Have everything that was committed on the disk. Raises `StoreBroken` when that fails."""

    def tail(self, path: str) -> RoomTail | None:
        """Return the extent of a room; None for a room that has never stored a message, or is forgotten.

        This and the methods below raise `StoreError` when the store can't be read at all.
        """

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        """Return records from the one that has message ``after + 1`` on, at least one if there is one.

        It begins with message ``tail.oldest`` if that is later. The first record may begin before, with messages that
        are not asked for. A record is the last if it reaches ``most_messages``, or if the next would exceed
        ``most_bytes``. Lost messages are records without frames, and don't count. Returns None for a room that isn't
        known.
        """

    def read_last(self, path: str, most_messages: int, most_bytes: int) -> Page | None:
        """Return the last records within the bounds of `read`, the oldest of them first; at least one."""

    def groups(self) -> list[GroupState]:
        """Return the state of all groups."""

    def close(self) -> None:
        """Release the store, and have all of it on the disk. Harmless when that was done before.

        Raises `StoreError` when the second fails; the store is released all the same.
        """
