"""The interface of a store's engine, and the errors that it raises.

An engine blocks, so it is called in threads: `commit`, `sync` and `close` in one, the other methods in any.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rawws.errors import RawwsError
from rawws.store.entries import Entry, GroupState, Outcome, Page, RoomTail


class StoreError(RawwsError):
    """A store can't do what was asked. Nothing of the commit is stored, and it may be tried again."""


class StoreFull(StoreError):
    """There is no space on the disk (ENOSPC), or the quota is used up (EDQUOT)."""


class StoreBroken(StoreError):
    """It isn't known any more what is on the disk: an fsync has failed, or the file is damaged.

    Trying again is no use.
    """


class Engine(Protocol):
    """A store of the messages of rooms, and of the state of groups."""

    @property
    def description(self) -> str:
        """A name for people, such as its path."""

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Carry out entries in their order, all or none of them, and return the outcome of each.

        When it returns they are as safe as the engine's mode says. Raises `StoreError`.
        """

    def sync(self) -> None:
        """Have everything that was committed on the disk. Raises `StoreBroken` when that fails."""

    def tail(self, path: str) -> RoomTail | None:
        """Return the extent of a room; None for a room that has never stored a message, or is forgotten."""

    def read(self, path: str, after: int, most_messages: int, most_bytes: int) -> Page | None:
        """Return records from the one that has message ``after + 1`` on, at least one if there is one.

        Lost messages are records without frames. Returns None for a room that isn't known.
        """

    def read_last(self, path: str, most_messages: int, most_bytes: int) -> Page | None:
        """Return the last records within the bounds, the oldest first."""

    def groups(self) -> list[GroupState]:
        """Return the state of all groups."""

    def close(self) -> None:
        """Release the store. Harmless when that was done before."""
